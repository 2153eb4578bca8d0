#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/devices/example/layout.hpp>
#include <outboard/virtio/device.hpp>

namespace outboard::example {

class Events;

/// The example device: adds one to a number. specification.md beside this file is its chapter; the tests name its
/// statements.
///
/// Threads: as virtio::Device. The two queues may have loops of their own. The device must have been stopped before it
/// is destroyed.
class Device final : public virtio::Device {
 public:
  /// The options of the device.
  struct Options {
    std::uint16_t queue_size = 64;             ///< a power of two, 4...32768
    std::optional<std::uint32_t> limit{};      ///< maximum value; offers LIMIT
    std::string limit_file{};                  ///< where reload() reads the limit, in decimal; offers LIMIT
    std::optional<std::uint32_t> break_on{};   ///< this value breaks the device, to test a driver
  };

  /// EINVAL: an option outside its range; the error names it. Other errors: those of reading the file.
  static Result<std::unique_ptr<Device>> create(const Options& options);
  ~Device() override;

  /// Changes the limit and tells the driver. Control loop. ENOTSUP: LIMIT is not offered.
  Status set_limit(std::uint32_t limit);
  /// The current limit. Any thread.
  std::uint32_t limit() const { return limit_.load(std::memory_order_relaxed); }

  virtio::Identity identity() const override;
  std::string description() const override;
  Status attach(virtio::Host& host) override;
  void read_config(std::uint32_t offset, MutableBytes into) override;
  Status start_queue(unsigned queue, const virtio::QueueState& state) override;
  void stop_queue(unsigned queue, virtio::StopMode mode, Completion done) override;
  void handle(virtio::Request request) override;
  void reset() override;
  Status reload() override;
  Result<std::vector<std::byte>> save_state() override;
  Status restore_state(Bytes state) override;

 private:
  Device(const Options& options, std::uint32_t limit);

  bool has_limit() const { return options_.limit.has_value() || !options_.limit_file.empty(); }
  spec::Reply answer(std::uint32_t value, bool limited);

  Options options_;
  virtio::Host* host_ = nullptr;
  std::atomic<bool> limited_{false};  // LIMIT was negotiated
  std::atomic<std::uint32_t> limit_;
  std::uint64_t epoch_ = 0;
  std::shared_ptr<Events> events_;
};

}  // namespace outboard::example
