#include <outboard/testing/hand_device.hpp>

#include <atomic>
#include <cstring>
#include <stdexcept>

#include <outboard/virtio/spec.hpp>

namespace outboard::testing {

namespace spec = virtio::spec;

namespace {

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

memory::Iova iova(std::uint64_t address) { return memory::Iova{address}; }

template <typename T>
void store(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

}  // namespace

HandDevice::HandDevice(FakeTransport& transport, unsigned queue, bool packed) : transport_(transport), packed_(packed) {
  const virtio::QueueSetup& setup = transport.queue(queue).setup;
  size_ = setup.size;
  const auto part = [&](memory::Iova at, virtio::RingPart which) {
    return transport.space.host(at, virtio::ring_part(packed, which, size_).size);
  };
  descriptors_ = part(setup.descriptors, virtio::RingPart::descriptors);
  driver_ = part(setup.driver, virtio::RingPart::driver);
  device_ = part(setup.device, virtio::RingPart::device);
}

std::optional<HandDevice::Chain> HandDevice::pop() { return packed_ ? pop_packed() : pop_split(); }

void HandDevice::read_table(Chain& chain, memory::Iova table, std::uint32_t bytes) const {
  if (bytes == 0 || bytes % 16 != 0) throw std::runtime_error("an indirect table of a wrong size");
  chain.indirect = true;
  const std::byte* at = transport_.space.host(table, bytes);
  for (std::uint32_t entry = 0; entry < bytes / 16; ++entry) {
    // addr, len and WRITE lie at different places in the two formats.
    const auto addr = load<le64>(at + 16 * entry);
    const auto len = load<le32>(at + 16 * entry + 8);
    const auto flags = load<le16>(at + 16 * entry + (packed_ ? 14 : 12));
    chain.elements.push_back({iova(addr), len, (flags & spec::descriptor::write) != 0});
    const bool last = entry + 1 == bytes / 16;
    if (!packed_ && ((flags & spec::descriptor::next) != 0) == last) throw std::runtime_error("a table's NEXT flags");
  }
}

std::optional<HandDevice::Chain> HandDevice::pop_split() {
  const std::uint16_t available = load<le16>(driver_ + spec::avail::idx);
  if (available == next_avail_) return std::nullopt;
  Chain chain;
  chain.slots = 0;
  chain.id = load<le16>(driver_ + spec::avail::ring + 2 * (next_avail_++ % size_));
  for (std::uint16_t slot = chain.id;;) {
    if (slot >= size_ || ++chain.slots > size_) throw std::runtime_error("a chain that leaves the table, or loops");
    const auto descriptor = load<spec::Descriptor>(descriptors_ + 16 * slot);
    if ((descriptor.flags & spec::descriptor::indirect) != 0) {
      read_table(chain, iova(descriptor.addr), descriptor.len);
      return chain;
    }
    chain.elements.push_back(
        {iova(descriptor.addr), descriptor.len, (descriptor.flags & spec::descriptor::write) != 0});
    if ((descriptor.flags & spec::descriptor::next) == 0) return chain;
    slot = descriptor.next;
  }
}

std::optional<HandDevice::Chain> HandDevice::pop_packed() {
  if (!virtio::is_available(load<le16>(descriptors_ + 16 * avail_cursor_.slot + 14), avail_cursor_.wrap))
    return std::nullopt;
  Chain chain;
  chain.slots = 0;
  while (true) {
    const auto descriptor = load<spec::PackedDescriptor>(descriptors_ + 16 * avail_cursor_.slot);
    if (!virtio::is_available(descriptor.flags, avail_cursor_.wrap) || ++chain.slots > size_)
      throw std::runtime_error("a chain with members that are not available");
    avail_cursor_ = avail_cursor_.plus(1, size_);
    chain.id = descriptor.id;
    if ((descriptor.flags & spec::descriptor::indirect) != 0) {
      read_table(chain, iova(descriptor.addr), descriptor.len);
      return chain;
    }
    chain.elements.push_back(
        {iova(descriptor.addr), descriptor.len, (descriptor.flags & spec::descriptor::write) != 0});
    if ((descriptor.flags & spec::descriptor::next) == 0) return chain;
  }
}

void HandDevice::use(std::uint32_t id, std::uint32_t length, unsigned advance) {
  if (packed_) {
    std::byte* at = descriptors_ + 16 * used_cursor_.slot;
    store(at + 8, le32(length));
    store(at + 12, le16(static_cast<std::uint16_t>(id)));
    store(at + 14, le16(static_cast<std::uint16_t>(virtio::used_bits(used_cursor_.wrap) |
                                                   (length != 0 ? spec::descriptor::write : 0))));
    used_cursor_ = used_cursor_.plus(advance, size_);
    return;
  }
  std::byte* at = device_ + spec::used::ring + 8 * (used_index_ % size_);
  store(at, le32(id));
  store(at + 4, le32(length));
  set_used_index(static_cast<std::uint16_t>(used_index_ + advance));
}

void HandDevice::set_used_index(std::uint16_t index) {
  used_index_ = index;
  store(device_ + spec::used::idx, le16(index));
}

void HandDevice::suppress_kicks(bool suppress) {
  if (packed_) return store(device_ + spec::event::flags, le16(suppress ? spec::event::disable : spec::event::enable));
  store(device_ + spec::used::flags, le16(suppress ? spec::used::no_notify : std::uint16_t{0}));
}

void HandDevice::want_kick(unsigned ahead) {
  if (packed_) {
    store(device_ + spec::event::off_wrap, le16(avail_cursor_.plus(ahead, size_).off_wrap()));
    return store(device_ + spec::event::flags, le16(spec::event::descriptor));
  }
  store(device_ + spec::used::avail_event(size_), le16(static_cast<std::uint16_t>(next_avail_ + ahead)));
}

bool HandDevice::interrupt_wanted(bool event_idx) const {
  if (!packed_) {
    if (!event_idx) return (load<le16>(driver_ + spec::avail::flags) & spec::avail::no_interrupt) == 0;
    return load<le16>(driver_ + spec::avail::used_event(size_)) == used_index_;
  }
  const std::uint16_t flags = load<le16>(driver_ + spec::event::flags);
  if (flags != spec::event::descriptor) return flags == spec::event::enable;
  return load<le16>(driver_ + spec::event::off_wrap) == used_cursor_.off_wrap();
}

}  // namespace outboard::testing
