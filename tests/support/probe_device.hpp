#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <outboard/base/endian.hpp>
#include <outboard/virtio/device.hpp>

namespace outboard::testing {

/// A virtio device for tests of what stands around one. It answers each request with the number it reads plus one, or
/// keeps the requests until the test says; its configuration can be changed under the driver. Everything is public.
class ProbeDevice : public virtio::Device {
 public:
  explicit ProbeDevice(virtio::Identity identity_ = {.device_id = 63, .queue_sizes = {8, 4}, .config_size = 16})
      : what(std::move(identity_)), config(what.config_size) {
    for (std::size_t i = 0; i < config.size(); ++i) config[i] = static_cast<std::byte>(i + 1);
  }

  virtio::Identity what;
  std::vector<std::byte> config;
  bool keep = false;                   ///< keep requests instead of answering them
  bool hold_on_stop = false;           ///< keep them even when the queue stops, until release()
  std::vector<virtio::Request> kept;
  std::vector<virtio::Device::Completion> stopping;
  unsigned handled = 0;
  unsigned resets = 0;
  unsigned starts = 0;
  std::vector<std::pair<std::uint32_t, std::size_t>> config_writes;
  virtio::Host* host = nullptr;
  std::vector<std::byte> own_state;  ///< the only one that it takes

  /// Answers everything that is kept.
  void answer_all() {
    for (auto& request : std::exchange(kept, {})) answer(std::move(request));
  }
  /// A back end that was still busy when its queue was stopped has ended.
  void release() {
    answer_all();
    for (auto& done : std::exchange(stopping, {})) done();
  }
  void change_config(std::uint32_t offset, std::byte value) {
    config[offset] = value;
    host->config_changed(offset, 1);
  }

  virtio::Identity identity() const override { return what; }
  Status attach(virtio::Host& by) override {
    host = &by;
    return {};
  }
  void read_config(std::uint32_t offset, MutableBytes into) override {
    std::copy_n(config.begin() + offset, into.size(), into.begin());
  }
  void write_config(std::uint32_t offset, Bytes from) override { config_writes.emplace_back(offset, from.size()); }
  Status start_queue(unsigned, const virtio::QueueState&) override {
    ++starts;
    return {};
  }
  void stop_queue(unsigned, virtio::StopMode, Completion done) override {
    if (hold_on_stop) return stopping.push_back(std::move(done));
    kept.clear();
    done();
  }
  void handle(virtio::Request request) override {
    ++handled;
    if (keep) return kept.push_back(std::move(request));
    answer(std::move(request));
  }
  void reset() override { ++resets; }
  Result<std::vector<std::byte>> save_state() override { return own_state; }
  Status restore_state(Bytes state) override {
    if (!std::ranges::equal(state, own_state)) return Error(EINVAL, "the device has another state");
    return {};
  }

 private:
  static void answer(virtio::Request request) {
    const auto number = request.read<le32>();
    if (!number) return request.violation(number.error());
    if (const auto room = request.write(le32{*number + 1}); !room) return request.violation(room.error());
    request.complete();
  }
};

}  // namespace outboard::testing
