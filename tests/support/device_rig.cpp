#include <tests/support/device_rig.hpp>

#include <algorithm>
#include <array>
#include <stdexcept>

#include <outboard/virtio/spec.hpp>

namespace outboard::testing {

namespace bit = virtio::spec::status;

void ScriptedDevice::echo(virtio::Request request) {
  std::vector<std::byte> bytes(std::min(request.readable_size(), request.writable_size()));
  if (const auto read = request.read_bytes(bytes); !read) return request.violation(read.error());
  if (const auto written = request.write_bytes(bytes); !written) return request.violation(written.error());
  request.complete();
}

void ScriptedDevice::read_config(std::uint32_t offset, MutableBytes into) {
  for (std::size_t i = 0; i < into.size(); ++i) {
    into[i] = offset + i < config.size() ? config[offset + i] : std::byte{0};
  }
}

void ScriptedDevice::write_config(std::uint32_t offset, Bytes from) {
  if (config.size() < offset + from.size()) config.resize(offset + from.size());
  copy_bytes(from, MutableBytes(config).subspan(offset));
}

void ScriptedDevice::stop_queue(unsigned queue, StopMode mode, Completion done) {
  if (on_stop) on_stop(mode);
  if (gives_up_kept) {
    std::erase_if(kept, [&](const virtio::Request& request) { return !request || request.queue_index() == queue; });
  }
  done();
}

virtio::Identity DeviceRig::identity(const Setup& setup) {
  return {.device_id = 63,
          .features = setup.features,
          .queue_sizes = std::vector<std::uint16_t>(setup.queues, std::bit_ceil(setup.size)),
          .config_size = setup.config_size,
          .max_chain = setup.max_chain};
}

DeviceRig::DeviceRig(const Setup& setup) : device(identity(setup)), notified(setup.queues) {
  for (unsigned queue = 0; queue < setup.queues; ++queue) {
    drivers.push_back(std::make_unique<HandDriver>(HandDriver::Setup{
        .packed = setup.packed, .size = setup.size, .base = memory::Iova{0x100000 + queue * UINT64_C(0x10000000)}}));
  }
  auto options = setup.options;
  options.packed = setup.packed;
  options.without = options.without | setup.without;
  options.log =
      Log([this](Level level, std::string_view line) { log.emplace_back(line), log_levels.push_back(level); });
  auto made = virtio::DeviceCore::create(device, map, loop, *this, std::move(options));
  if (!made) throw std::runtime_error(made.error().message());
  core = std::move(*made);
}

DeviceRig::~DeviceRig() { core.reset(); }

void DeviceRig::negotiate() { negotiate(core->offered()); }

void DeviceRig::negotiate(const virtio::Features& accepted) {
  core->write_status(bit::acknowledge);
  core->write_status(bit::acknowledge | bit::driver);
  for (std::uint32_t word = 0; word < virtio::Features::words; ++word) {
    core->write_driver_features(word, accepted.word(word));
  }
  core->write_status(bit::acknowledge | bit::driver | bit::features_ok);
}

void DeviceRig::set_up_queue(unsigned queue) {
  core->set_queue_size(queue, driver(queue).size());
  for (unsigned area = 0; area < virtio::ring_parts; ++area) {
    core->set_queue_address(queue, area, driver(queue).address(area));
  }
  core->enable_queue(queue);
}

void DeviceRig::driver_ok() { core->write_status(core->status() | bit::driver_ok); }

void DeviceRig::run() {
  for (unsigned queue = 0; queue < drivers.size(); ++queue) map_driver(queue);
  negotiate();
  for (unsigned queue = 0; queue < drivers.size(); ++queue) set_up_queue(queue);
  driver_ok();
  settle();
}

void DeviceRig::map_driver(unsigned queue, memory::Access access) {
  if (!map.map(driver(queue).mapping(access))) throw std::runtime_error("the driver's memory could not be mapped");
}

bool DeviceRig::unmap_driver(unsigned queue) {
  auto answered = std::make_shared<bool>(false);
  map.unmap(driver(queue).mapping().range, [answered](const Status&) { *answered = true; });
  settle();
  return *answered;
}

void DeviceRig::process(unsigned queue) {
  core->kick(queue);
  settle();
}

}  // namespace outboard::testing
