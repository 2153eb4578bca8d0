#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include <outboard/devices/blk/driver.hpp>

namespace outboard::vhost {

/// Keeps every queue of a disk busy at depth: writes patterns, reads them back, and compares. One thread.
class Load {
 public:
  /// `depth`: operations on each queue. The driver outlives the load.
  static Result<std::unique_ptr<Load>> create(blk::Driver& driver, unsigned depth);

  /// Runs `operations` more, then waits until nothing is in flight. `between` is called whenever the driver has taken what
  /// there was. An I/O error, or data that are not what was written, end it.
  Status run(std::uint64_t operations, const std::function<Status()>& between = [] { return Status(); });
  /// Sends what a run would begin with, and waits for nothing.
  Status begin();
  /// Operations completed so far.
  std::uint64_t completed() const { return completed_; }

 private:
  static constexpr std::uint64_t max_sectors = 64;  // of one operation

  struct Slot {
    Load* load = nullptr;
    unsigned queue = 0;
    blk::Sector first{};
    memory::DmaBuffer buffer;
    virtio::Element element;
    blk::Io io;
    std::uint64_t sectors = 0;  // of the last write
    std::uint64_t number = 0;
  };

  explicit Load(blk::Driver& driver) : driver_(driver) {}
  static void done(blk::Io& io);
  Status submit(Slot& slot);
  void completed(Slot& slot);
  bool holds(const Slot& slot) const;
  Status wait();

  blk::Driver& driver_;
  std::mt19937 random_{1};
  std::vector<std::unique_ptr<Slot>> slots_;
  std::uint64_t completed_ = 0;
  std::uint64_t last_ = 0;  // no more are begun once so many are completed
  unsigned in_flight_ = 0;
  std::optional<Error> error_;
};

/// Waits until the driver has something to do, and lets it: once.
Status pump(blk::Driver& driver);

}  // namespace outboard::vhost
