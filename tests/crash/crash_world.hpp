#pragma once

#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <outboard/journal/file.hpp>
#include <tests/support/device_rig.hpp>

#include <tests/crash/crash_driver.hpp>

namespace outboard::virtio::crash {

/// Has `before_store` called before each store of a device to its rings and its log, while it lives; not inside such a
/// call, unless that makes one of its own.
class Tracing {
 public:
  explicit Tracing(std::function<void()> before_store);
  ~Tracing();
  Tracing(const Tracing&) = delete;
  Tracing& operator=(const Tracing&) = delete;

 private:
  std::function<void()> outer_;
};

/// Memory, aligned as rings need it.
class Memory {
 public:
  explicit Memory(std::vector<std::byte> bytes = std::vector<std::byte>(CrashDriver::memory_size))
      : host_(memory::HostMemory::anonymous(CrashDriver::memory_size).value()) {
    std::ranges::copy(bytes, host_->data());
  }
  std::byte* data() const { return host_->data(); }
  std::vector<std::byte> copy() const { return {data(), data() + CrashDriver::memory_size}; }
  memory::Mapping mapping() const {
    return {.range = {CrashDriver::base, CrashDriver::memory_size}, .memory = host_, .port = nullptr};
  }

 private:
  std::shared_ptr<memory::HostMemory> host_;
};

/// What a kill leaves.
struct Image {
  std::vector<std::byte> memory;
  std::vector<std::byte> journal;
  std::set<std::uint32_t> seen;  ///< requests that came to a device
};

/// A driver, a device and its log. The device keeps its requests until it is told to answer them. Throws, with the reason,
/// when it gets one that it should not get: a request that was seen before and does not say so, or one out of order.
class World {
 public:
  /// A new device, which nobody has looked at yet.
  World(const Config& config, std::string journal);
  /// Memory, driver and log as `image` has them; a device that is new.
  World(const Config& config, std::string journal, const CrashDriver& driver, const Image& image);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Image image() const;

  /// The driver initialises the device.
  void start();
  /// The device is what its log says. Where its driver has not come to DRIVER_OK it begins again. Throws.
  void take_over();
  /// A device reset, and a new start.
  void reset();
  /// The queue comes to rest and goes on: what is kept is given up and comes again.
  void pause();

  /// A kick, and what comes of it.
  void process() { rig_->process(); }
  std::size_t kept() const { return kept_.size(); }
  /// Answers some of what is kept, in an order that `rng` chooses; they are published together.
  void answer(std::size_t count, std::mt19937_64& rng);
  /// Until nothing is outstanding. Throws when that does not come.
  void finish(std::mt19937_64& rng);

  CrashDriver& driver() { return driver_; }
  const journal::File::Shape& shape() const { return shape_; }
  journal::File& journal() { return *journal_; }
  testing::DeviceRig& rig() { return *rig_; }

  static journal::File::Shape shape_of(const Config& config);

 private:
  struct Kept {
    Request request;
    std::uint32_t number;
  };
  void make_rig();
  void handle(Request request);
  DeviceState state_from_elsewhere() const;
  void set_up();

  Config config_;
  std::string path_;
  journal::File::Shape shape_;
  Memory memory_;
  CrashDriver driver_;
  std::set<std::uint32_t> seen_;
  std::int64_t last_ = -1;  ///< the request that this device was given last
  std::unique_ptr<journal::File> journal_;
  std::unique_ptr<testing::DeviceRig> rig_;
  std::vector<Kept> kept_;
};

/// The bytes of a file, and a file of these bytes.
std::vector<std::byte> read_file(const std::string& path);
void write_file(const std::string& path, Bytes bytes);

}  // namespace outboard::virtio::crash
