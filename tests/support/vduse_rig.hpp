#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <outboard/vduse/export.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/device_rig.hpp>
#include <tests/support/fake_vduse.hpp>

namespace outboard::testing {

/// A scripted device behind a vduse::Export, and the kernel and its driver on the other side, played in this process on one
/// loop that the test pumps.
class VduseRig {
 public:
  struct Setup {
    bool packed = false;
    unsigned queues = 1;
    std::uint16_t size = 16;
    std::uint32_t device_id = 2;
    virtio::Features features{};  ///< the device type's own
    std::uint32_t config_size = 16;
    vduse::Export::Options options{};
    bool started = true;  ///< and attached
  };
  static constexpr std::uint8_t s_features =
      virtio::spec::status::acknowledge | virtio::spec::status::driver | virtio::spec::status::features_ok;
  static constexpr std::uint8_t s_running = s_features | virtio::spec::status::driver_ok;

  explicit VduseRig(const Setup& setup) : setup_(setup) {
    make_export();
    kernel = std::make_unique<FakeVduse>(exported->shape("rig"), setup.options.api_version);
    for (unsigned queue = 0; queue < setup.queues; ++queue) {
      const std::uint64_t base = (queue + 1) * UINT64_C(0x10000000);
      drivers.push_back(std::make_unique<HandDriver>(
          HandDriver::Setup{.packed = setup.packed, .size = setup.size, .base = memory::Iova{base}}));
    }
    if (!setup.started) return;
    start();
    if (const auto attached = kernel->attach(); !attached) throw std::runtime_error(attached.error().message());
  }
  ~VduseRig() { exported.reset(); }
  VduseRig(const VduseRig&) = delete;
  VduseRig& operator=(const VduseRig&) = delete;

  /// Another server of the same device: the one before must be dead.
  void make_export() {
    exported.reset();
    auto owned = std::make_unique<ScriptedDevice>(
        virtio::Identity{.device_id = setup_.device_id,
                         .features = setup_.features,
                         .queue_sizes = std::vector<std::uint16_t>(setup_.queues, std::bit_ceil(setup_.size)),
                         .config_size = setup_.config_size});
    device = owned.get();
    auto options = setup_.options;
    options.core.packed = setup_.packed;
    options.log = Log([this](Level, std::string_view line) { log.emplace_back(line); }, Level::debug);
    auto made = vduse::Export::create(std::move(owned), loop, std::move(options));
    if (!made) throw std::runtime_error(made.error().message());
    exported = std::move(*made);
    exported->set_events({.status = [this](std::uint8_t status) { statuses.push_back(status); },
                          .gone = [this](const Error& why) { gone = why; },
                          .config = [this](Bytes bytes) { config.assign(bytes.begin(), bytes.end()); },
                          .groups =
                              [this](const auto& now) {
                                spaces = now;
                                if (on_groups) on_groups();
                              }});
  }
  void start() {
    if (const auto done = exported->start(kernel->open().value()); !done)
      throw std::runtime_error(done.error().message());
  }

  HandDriver& driver(unsigned queue = 0) { return *drivers[queue]; }
  void settle() { loop.run_until_idle(); }
  std::uint64_t offered() { return exported->core().offered().low(); }

  /// The driver up to FEATURES_OK.
  bool negotiate() { return negotiate(offered()); }
  bool negotiate(std::uint64_t features) {
    return kernel->negotiate(features, [this] { settle(); });
  }
  /// A ring in memory that the kernel has, as after find_vqs.
  void place(unsigned queue = 0, bool ready = true) {
    map_ring(queue);
    kernel->place_queue(queue, driver(queue), ready);
  }
  void map_ring(unsigned queue = 0, std::uint32_t asid = 0) {
    const auto base = raw(driver(queue).mapping().range.start);
    auto memory = kernel->map({.start = base, .size = HandDriver::memory_size, .asid = asid});
    drivers[queue] = std::make_unique<HandDriver>(HandDriver::Setup{
        .packed = setup_.packed, .size = setup_.size, .base = memory::Iova{base}, .memory = std::move(memory)});
  }
  bool advance(std::uint8_t status) {
    return kernel->advance(status, [this] { settle(); });
  }
  /// All of it, with every queue.
  void run() {
    if (!negotiate()) throw std::runtime_error("the features were refused");
    for (unsigned queue = 0; queue < setup_.queues; ++queue) place(queue);
    if (!advance(s_running)) throw std::runtime_error("DRIVER_OK was refused");
    settle();
  }
  /// The driver's buffers are there, and it says so.
  void kick(unsigned queue = 0) {
    kernel->kick(queue);
    settle();
  }
  /// One echo there and back.
  bool works(unsigned queue = 0) {
    const unsigned before = driver(queue).used_count();
    driver(queue).chain().readable("echo").writable(4).publish();
    kick(queue);
    return driver(queue).used_count() == before + 1;
  }
  /// The driver that has been reset, or the one after it, begins with a ring in other memory. Whether it is served.
  bool begins_anew() {
    kernel->unmap_all();
    run();
    return works();
  }
  /// The same behind a reset of the driver's.
  bool works_after_reset() {
    advance(0);
    return begins_anew();
  }
  bool said(std::string_view text) const {
    for (const auto& line : log) {
      if (line.find(text) != std::string::npos) return true;
    }
    return false;
  }

  ManualLoop loop;
  std::unique_ptr<FakeVduse> kernel;
  std::vector<std::unique_ptr<HandDriver>> drivers;
  std::vector<std::string> log;
  std::vector<std::uint8_t> statuses;
  std::optional<Error> gone;
  std::vector<std::byte> config;
  std::vector<std::uint32_t> spaces;
  std::function<void()> on_groups;  ///< spaces have changed, and it is not acknowledged
  ScriptedDevice* device = nullptr;
  std::unique_ptr<vduse::Export> exported;

 private:
  Setup setup_;
};

}  // namespace outboard::testing
