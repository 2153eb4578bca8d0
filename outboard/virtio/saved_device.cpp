#include <outboard/virtio/saved_device.hpp>

#include <utility>

namespace outboard::virtio {

namespace {

constexpr StateTag device_tag = state_tag("VDEV");
constexpr StateTag queue_tag = state_tag("QUEU");

void save(const InFlight& buffer, StateWriter& writer) {
  writer.put(buffer.head);
  writer.put(buffer.id);
  writer.put(buffer.descriptors);
  writer.put(static_cast<std::uint32_t>(buffer.chain.size()));
  for (const ChainDescriptor& descriptor : buffer.chain) {
    writer.put(raw(descriptor.address));
    writer.put(descriptor.length);
    writer.put(descriptor.flags);
  }
}

void save(const QueueState& queue, StateWriter& writer) {
  const auto section = writer.section(queue_tag, 1);
  writer.put(queue.size);
  for (const memory::Iova area : {queue.descriptors, queue.driver, queue.device}) writer.put(raw(area));
  writer.put_flag(queue.enabled);
  writer.put(queue.next_avail);
  writer.put(queue.next_used);
  writer.put_flag(queue.avail_wrap);
  writer.put_flag(queue.used_wrap);
  writer.put(static_cast<std::uint16_t>(queue.in_flight.size()));
  for (const InFlight& buffer : queue.in_flight) save(buffer, writer);
}

Result<ChainDescriptor> load_descriptor(StateReader& from) {
  ChainDescriptor descriptor;
  OUTBOARD_TRY(const auto address, from.get<std::uint64_t>());
  descriptor.address = memory::Iova{address};
  OUTBOARD_TRY(descriptor.length, from.get<std::uint32_t>());
  OUTBOARD_TRY(descriptor.flags, from.get<std::uint16_t>());
  return descriptor;
}

/// A count allocates nothing: each element is there before it is kept.
Result<InFlight> load_buffer(StateReader& from) {
  InFlight buffer;
  OUTBOARD_TRY(buffer.head, from.get<std::uint16_t>());
  OUTBOARD_TRY(buffer.id, from.get<std::uint16_t>());
  OUTBOARD_TRY(buffer.descriptors, from.get<std::uint16_t>());
  OUTBOARD_TRY(const auto count, from.get<std::uint32_t>());
  for (std::uint32_t i = 0; i < count; ++i) {
    OUTBOARD_TRY(const auto descriptor, load_descriptor(from));
    buffer.chain.push_back(descriptor);
  }
  return buffer;
}

Result<QueueState> load_queue(StateReader from) {
  QueueState queue;
  OUTBOARD_TRY(queue.size, from.get<std::uint16_t>());
  for (memory::Iova* const area : {&queue.descriptors, &queue.driver, &queue.device}) {
    OUTBOARD_TRY(const auto address, from.get<std::uint64_t>());
    *area = memory::Iova{address};
  }
  OUTBOARD_TRY(queue.enabled, from.get_flag());
  OUTBOARD_TRY(queue.next_avail, from.get<std::uint16_t>());
  OUTBOARD_TRY(queue.next_used, from.get<std::uint16_t>());
  OUTBOARD_TRY(queue.avail_wrap, from.get_flag());
  OUTBOARD_TRY(queue.used_wrap, from.get_flag());
  OUTBOARD_TRY(const auto count, from.get<std::uint16_t>());
  for (unsigned i = 0; i < count; ++i) {
    OUTBOARD_TRY(auto buffer, load_buffer(from));
    queue.in_flight.push_back(std::move(buffer));
  }
  OUTBOARD_CHECK(from.end());
  return queue;
}

Status load_own_state(StateReader& from, DeviceState& state) {
  OUTBOARD_TRY(const bool was_asked, from.get_flag());
  OUTBOARD_TRY(const Bytes own, from.get_bytes(StateWriter::max_size));
  if (was_asked) state.device.emplace(own.begin(), own.end());
  return {};
}

Result<DeviceState> load_device(StateReader from) {
  DeviceState state;
  OUTBOARD_TRY(state.device_id, from.get<std::uint32_t>());
  OUTBOARD_TRY(state.status, from.get<std::uint8_t>());
  OUTBOARD_TRY(state.generation, from.get<std::uint8_t>());
  for (unsigned word = 0; word < Features::words; ++word) {
    OUTBOARD_TRY(const auto bits, from.get<std::uint32_t>());
    state.accepted.set_word(word, bits);
  }
  OUTBOARD_TRY(const auto count, from.get<std::uint16_t>());
  for (unsigned i = 0; i < count; ++i) {
    OUTBOARD_TRY(const auto section, from.section(queue_tag, 1));
    OUTBOARD_TRY(auto queue, load_queue(section));
    state.queues.push_back(std::move(queue));
  }
  OUTBOARD_CHECK(load_own_state(from, state));
  OUTBOARD_CHECK(from.end());
  return state;
}

}  // namespace

void save(const DeviceState& state, StateWriter& writer) {
  const auto section = writer.section(device_tag, 1);
  writer.put(state.device_id);
  writer.put(state.status);
  writer.put(state.generation);
  for (unsigned word = 0; word < Features::words; ++word) writer.put(state.accepted.word(word));
  writer.put(static_cast<std::uint16_t>(state.queues.size()));
  for (const QueueState& queue : state.queues) save(queue, writer);
  writer.put_flag(state.device.has_value());
  writer.put_bytes(state.device ? Bytes(*state.device) : Bytes());
}

Result<DeviceState> load_device_state(Bytes saved) {
  OUTBOARD_TRY(auto section, StateReader::open(saved, device_tag, 1));
  return load_device(section);
}

Result<DeviceState> load_device_state(StateReader& from) {
  OUTBOARD_TRY(auto section, from.section(device_tag, 1));
  return load_device(section);
}

}  // namespace outboard::virtio
