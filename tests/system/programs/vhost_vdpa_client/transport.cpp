#include "transport.hpp"

#include <algorithm>

namespace outboard::vhost {

Status Mapper::map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* /*fd*/,
                   std::uint64_t /*offset*/) {
  OUTBOARD_CHECK(node_.begin_batch());
  OUTBOARD_CHECK(node_.map(range, memory.data(), static_cast<std::uint8_t>(access)));
  return node_.end_batch();
}

Status Mapper::unmap(memory::IovaRange range) { return node_.unmap(range); }

memory::DmaSpace::Limits Mapper::limits() const {
  // Below 4 GiB: the tests map things of their own above.
  return {.max_mappings = 2048, .valid = {{memory::Iova{0x10000}, 0xfff0'0000}}};
}

Result<std::unique_ptr<Transport>> Transport::open(const std::string& path) {
  OUTBOARD_TRY(auto node, Node::open(path));
  std::unique_ptr<Transport> transport(new Transport(std::move(node)));
  const Node& opened = transport->node_;
  OUTBOARD_TRY(transport->device_id_, opened.get(spec::ioctl::get_device_id, std::uint32_t{0}, "VDPA_GET_DEVICE_ID"));
  OUTBOARD_TRY(transport->config_size_,
               opened.get(spec::ioctl::get_config_size, std::uint32_t{0}, "VDPA_GET_CONFIG_SIZE"));
  return transport;
}

Result<virtio::Features> Transport::device_features() {
  OUTBOARD_TRY(const auto bits, node_.get(spec::ioctl::get_features, std::uint64_t{0}, "VHOST_GET_FEATURES"));
  virtio::Features features;
  features.set_word(0, static_cast<std::uint32_t>(bits));
  features.set_word(1, static_cast<std::uint32_t>(bits >> 32));
  return features;
}

Status Transport::write_driver_features(const virtio::Features& features) {
  packed_ = features.has(virtio::Feature::ring_packed);
  const std::uint64_t bits = features.word(0) | std::uint64_t{features.word(1)} << 32;
  return node_.set(spec::ioctl::set_features, bits, "VHOST_SET_FEATURES");
}

Status Transport::reset() {
  OUTBOARD_CHECK(node_.set_status(0));
  OUTBOARD_TRY(const std::uint8_t status, node_.status());
  if (status != 0) return Error(ETIMEDOUT, "the device does not come to rest").on(name());
  kicks_.clear();
  return {};
}

Result<std::uint16_t> Transport::queue_count() {
  OUTBOARD_TRY(const auto count, node_.get(spec::ioctl::get_vqs_count, std::uint32_t{0}, "VDPA_GET_VQS_COUNT"));
  return static_cast<std::uint16_t>(std::min<std::uint32_t>(count, UINT16_MAX));
}

Result<std::uint16_t> Transport::queue_max_size(unsigned /*queue*/) {
  return node_.get(spec::ioctl::get_vring_num, std::uint16_t{0}, "VDPA_GET_VRING_NUM");
}

Status Transport::set_rings(unsigned queue, const virtio::QueueSetup& setup) {
  // A packed ring begins at index 0 with both wrap counters 1: the available one in the low half, the used one in the high.
  const std::uint32_t base = packed_ ? 0x8000'8000 : 0;
  OUTBOARD_CHECK(node_.set(spec::ioctl::set_vring_num, spec::VringState{queue, setup.size}, "VHOST_SET_VRING_NUM"));
  OUTBOARD_CHECK(node_.set(spec::ioctl::set_vring_base, spec::VringState{queue, base}, "VHOST_SET_VRING_BASE"));
  const spec::VringAddr addresses{.index = queue,
                                  .flags = 0,
                                  .desc_user_addr = raw(setup.descriptors),
                                  .used_user_addr = raw(setup.device),
                                  .avail_user_addr = raw(setup.driver),
                                  .log_guest_addr = 0};
  return node_.set(spec::ioctl::set_vring_addr, addresses, "VHOST_SET_VRING_ADDR");
}

Result<virtio::Doorbell> Transport::setup_queue(unsigned queue, const virtio::QueueSetup& setup) {
  OUTBOARD_CHECK(set_rings(queue, setup));
  OUTBOARD_TRY(auto kick, EventFd::create());
  OUTBOARD_CHECK(node_.set(spec::ioctl::set_vring_kick, spec::VringFile{queue, kick.get()}, "VHOST_SET_VRING_KICK"));
  const int call = setup.vector ? vectors_.at(*setup.vector).get() : -1;
  OUTBOARD_CHECK(node_.set(spec::ioctl::set_vring_call, spec::VringFile{queue, call}, "VHOST_SET_VRING_CALL"));
  OUTBOARD_CHECK(node_.set(spec::ioctl::set_vring_enable, spec::VringState{queue, 1}, "VDPA_SET_VRING_ENABLE"));
  kicks_.push_back(std::move(kick));
  return virtio::Doorbell::eventfd(kicks_.back());
}

Result<unsigned> Transport::enable_vectors(unsigned wanted) {
  while (vectors_.size() < wanted) {
    OUTBOARD_TRY(auto vector, EventFd::create());
    vectors_.push_back(std::move(vector));
  }
  return wanted;
}

Status Transport::set_config_vector(std::optional<unsigned> vector) {
  const int call = vector ? vectors_.at(*vector).get() : -1;
  return node_.set(spec::ioctl::set_config_call, call, "VDPA_SET_CONFIG_CALL");
}

}  // namespace outboard::vhost
