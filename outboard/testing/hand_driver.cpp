#include <outboard/testing/hand_driver.hpp>

#include <cstring>
#include <new>

#include <outboard/virtio/device_core.hpp>

namespace outboard::testing {

using memory::Iova;
namespace spec = virtio::spec;
namespace flag = virtio::spec::descriptor;

namespace {

// Room for the largest ring, whatever the format.
constexpr std::uint64_t driver_area = UINT64_C(0x10000);
constexpr std::uint64_t device_area = driver_area + UINT64_C(0x4000);
constexpr std::uint64_t data_area = device_area + UINT64_C(0x10000);

}  // namespace

HandDriver::HandDriver(const Setup& setup) : setup_(setup) {
  memory_ = setup.memory;
  free_ = data_area;
  if (memory_) return;
  auto memory = memory::HostMemory::anonymous(memory_size);
  if (!memory) throw std::bad_alloc();
  memory_ = std::move(*memory);
}

void HandDriver::initialise(virtio::DeviceCore& core) const {
  namespace bit = spec::status;
  core.write_status(bit::acknowledge | bit::driver);
  for (unsigned word = 0; word < virtio::Features::words; ++word)
    core.write_driver_features(word, core.offered().word(word));
  core.write_status(bit::acknowledge | bit::driver | bit::features_ok);
  core.set_queue_size(0, size());
  for (unsigned area = 0; area < virtio::ring_parts; ++area) core.set_queue_address(0, area, address(area));
  core.enable_queue(0);
  core.write_status(bit::acknowledge | bit::driver | bit::features_ok | bit::driver_ok);
}

memory::Mapping HandDriver::mapping(memory::Access access) const {
  return {.range = {setup_.base, memory_size}, .access = access, .memory = memory_, .offset = 0, .port = nullptr};
}

Iova HandDriver::address(unsigned area) const {
  const std::uint64_t offsets[] = {0, driver_area, device_area};
  return setup_.base + offsets[area];
}

memory::Shared<le16> HandDriver::field(unsigned area, std::size_t offset) const {
  return memory::Shared<le16>(at(address(area)) + offset);
}

Iova HandDriver::allocate(std::uint64_t size, std::uint64_t alignment) {
  free_ = (free_ + alignment - 1) / alignment * alignment;
  if (size > memory_size - free_) throw std::bad_alloc();
  const Iova found = setup_.base + free_;
  free_ += size;
  return found;
}

// Chains.

HandDriver::Chain& HandDriver::Chain::put(Iova address, std::uint32_t length, std::uint16_t flags) {
  (in_table_ ? table_ : direct_).push_back({address, length, flags});
  all_.push_back(address);
  return *this;
}

HandDriver::Chain& HandDriver::Chain::element(std::uint32_t length, bool writable) {
  return put(driver_.allocate(length), length, writable ? flag::write : std::uint16_t{0});
}

HandDriver::Chain& HandDriver::Chain::readable(std::string_view text) {
  element(static_cast<std::uint32_t>(text.size()), false);
  std::memcpy(driver_.at(all_.back()), text.data(), text.size());
  return *this;
}

HandDriver::Chain& HandDriver::Chain::indirect() {
  in_table_ = true;
  return *this;
}
HandDriver::Chain& HandDriver::Chain::with(std::uint16_t flags) {
  last().flags |= flags;
  return *this;
}
HandDriver::Chain& HandDriver::Chain::without(std::uint16_t flags) {
  last().flags &= static_cast<std::uint16_t>(~flags);
  return *this;
}
HandDriver::Chain& HandDriver::Chain::table_length(std::uint32_t length) {
  table_length_ = length;
  return *this;
}
HandDriver::Chain& HandDriver::Chain::table_address(Iova address) {
  table_address_ = raw(address);
  return *this;
}
HandDriver::Chain& HandDriver::Chain::table_with(std::uint16_t flags) {
  table_flags_ |= flags;
  return *this;
}
HandDriver::Chain& HandDriver::Chain::next(std::uint16_t index) {
  last().next = index;
  return *this;
}
HandDriver::Chain& HandDriver::Chain::id(std::uint16_t id) {
  id_ = id;
  return *this;
}

std::uint16_t HandDriver::Chain::add() {
  auto list = direct_;
  if (in_table_) {
    const auto length = table_length_ >= 0 ? static_cast<std::uint32_t>(table_length_)
                                           : static_cast<std::uint32_t>(table_.size() * sizeof(spec::Descriptor));
    const Iova written = driver_.write_table(*this);
    list.push_back({table_address_ != 0 ? Iova{table_address_} : written, length,
                    static_cast<std::uint16_t>(flag::indirect | table_flags_)});
  }
  return driver_.setup_.packed ? driver_.add_packed(*this, std::move(list)) : driver_.add_split(*this, std::move(list));
}

std::uint16_t HandDriver::Chain::publish() {
  const std::uint16_t id = add();
  driver_.publish();
  return id;
}

Iova HandDriver::write_table(const Chain& chain) {
  const Iova table = allocate(chain.table_.size() * sizeof(spec::Descriptor));
  for (std::size_t i = 0; i < chain.table_.size(); ++i) {
    const Chain::Descriptor& from = chain.table_[i];
    std::byte* entry = at(table + i * sizeof(spec::Descriptor));
    const bool more = from.next >= 0 || i + 1 < chain.table_.size();
    const auto next = static_cast<std::uint16_t>(from.next >= 0 ? from.next : static_cast<std::int32_t>(i + 1));
    if (setup_.packed) {
      // In a packed ring's table only WRITE means something; the id is rubbish on purpose.
      const spec::PackedDescriptor to{raw(from.address), from.length, 0xdead, from.flags};
      std::memcpy(entry, &to, sizeof to);
    } else {
      const auto flags = static_cast<std::uint16_t>(from.flags | (more ? flag::next : 0));
      const spec::Descriptor to{raw(from.address), from.length, flags, next};
      std::memcpy(entry, &to, sizeof to);
    }
  }
  return table;
}

std::uint16_t HandDriver::add_split(const Chain&, std::vector<Chain::Descriptor> list) {
  const std::uint16_t head = next_descriptor_;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::uint16_t index = next_descriptor_;
    next_descriptor_ = static_cast<std::uint16_t>((next_descriptor_ + 1) % setup_.size);
    const bool more = list[i].next >= 0 || i + 1 < list.size();
    const std::uint16_t next = list[i].next >= 0 ? static_cast<std::uint16_t>(list[i].next) : next_descriptor_;
    put_descriptor(index, {raw(list[i].address), list[i].length,
                           static_cast<std::uint16_t>(list[i].flags | (more ? flag::next : 0)), next});
  }
  set_avail_entry(avail_++, head);
  return head;
}

std::uint16_t HandDriver::add_packed(const Chain& chain, std::vector<Chain::Descriptor> list) {
  const auto id =
      chain.id_ >= 0 ? static_cast<std::uint16_t>(chain.id_) : static_cast<std::uint16_t>(next_id_++ % setup_.size);
  counts_[id] = static_cast<std::uint16_t>(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    // The id counts in the last descriptor only; in the others it is rubbish on purpose.
    const bool more = i + 1 < list.size();
    const auto flags =
        static_cast<std::uint16_t>((list[i].flags ^ virtio::available_bits(cursor_.wrap)) | (more ? flag::next : 0));
    const auto wrong = static_cast<std::uint16_t>(0xbad0 + i);
    spec::PackedDescriptor descriptor{raw(list[i].address), list[i].length, more ? wrong : id, flags};
    if (i == 0) {
      held_.emplace_back(cursor_.slot, flags);
      descriptor.flags = packed_at(cursor_.slot).flags;
    }
    put_packed(cursor_.slot, descriptor);
    cursor_ = cursor_.plus(1, setup_.size);
  }
  return id;
}

void HandDriver::publish() {
  if (!setup_.packed) return set_avail_idx(avail_);
  for (auto head = held_.rbegin(); head != held_.rend(); ++head) {
    const std::size_t offset = head->first * sizeof(spec::PackedDescriptor) + offsetof(spec::PackedDescriptor, flags);
    field(0, offset).store(head->second, std::memory_order_release);
  }
  held_.clear();
}

std::vector<HandDriver::Used> HandDriver::peek_used() {
  std::vector<Used> all;
  if (!setup_.packed) {
    for (std::uint16_t i = last_used_; i != used_idx(); ++i) all.push_back(used_entry(i));
    return all;
  }
  virtio::PackedCursor cursor = used_cursor_;
  for (unsigned i = 0; i < setup_.size; ++i) {
    const auto offset = cursor.slot * sizeof(spec::PackedDescriptor) + offsetof(spec::PackedDescriptor, flags);
    if (!virtio::is_used(field(0, offset).load(std::memory_order_acquire), cursor.wrap)) break;
    const auto descriptor = packed_at(cursor.slot);
    all.push_back({descriptor.id, descriptor.len});
    cursor = cursor.plus(counts_[descriptor.id], setup_.size);
  }
  return all;
}

std::vector<HandDriver::Used> HandDriver::take_used() {
  const auto all = peek_used();
  last_used_ = setup_.packed ? last_used_ : used_idx();
  if (setup_.packed) {
    for (const Used& used : all) used_cursor_ = used_cursor_.plus(counts_[used.id & 0xffff], setup_.size);
  }
  return all;
}

// The ring as it is.

void HandDriver::put_descriptor(std::uint16_t index, const spec::Descriptor& descriptor) {
  std::memcpy(at(address(0)) + std::size_t{index} * sizeof descriptor, &descriptor, sizeof descriptor);
}
void HandDriver::put_packed(std::uint16_t slot, const spec::PackedDescriptor& descriptor) {
  memory::store16(at(address(0)) + std::size_t{slot} * sizeof descriptor, descriptor);
}
spec::PackedDescriptor HandDriver::packed_at(std::uint16_t slot) const {
  return memory::load16<spec::PackedDescriptor>(at(address(0)) + std::size_t{slot} * sizeof(spec::PackedDescriptor));
}
void HandDriver::set_avail_entry(std::uint16_t index, std::uint16_t head) {
  field(1, spec::avail::ring + spec::avail::entry_size * (index % setup_.size)).store(head, std::memory_order_relaxed);
}
void HandDriver::set_avail_idx(std::uint16_t idx) {
  avail_ = idx;
  field(1, spec::avail::idx).store(idx, std::memory_order_release);
}
std::uint16_t HandDriver::used_idx() const { return field(2, spec::used::idx).load(std::memory_order_acquire); }

HandDriver::Used HandDriver::used_entry(std::uint16_t index) const {
  const std::byte* entry = at(address(2)) + spec::used::ring + spec::used::entry_size * (index % setup_.size);
  spec::UsedElement element;
  std::memcpy(&element, entry, sizeof element);
  return {element.id, element.len};
}

void HandDriver::restart() {
  std::memset(memory_->data(), 0, data_area);
  resume(0, {}, {});
}

void HandDriver::resume(std::uint16_t avail, virtio::PackedCursor cursor, virtio::PackedCursor used) {
  avail_ = last_used_ = avail;
  next_descriptor_ = 0;
  cursor_ = cursor;
  used_cursor_ = used;
  held_.clear();
  if (!setup_.packed) {
    set_avail_idx(avail);
    field(2, spec::used::idx).store(avail, std::memory_order_relaxed);
  }
}

// Notifications.

void HandDriver::set_driver_flags(std::uint16_t flags) {
  field(1, setup_.packed ? spec::event::flags : spec::avail::flags).store(flags, std::memory_order_relaxed);
}
void HandDriver::disable_interrupts() {
  set_driver_flags(setup_.packed ? spec::event::disable : spec::avail::no_interrupt);
}
void HandDriver::want_interrupt_at(std::uint16_t used_event) {
  if (!setup_.packed)
    return field(1, spec::avail::used_event(setup_.size)).store(used_event, std::memory_order_relaxed);
  field(1, spec::event::off_wrap).store(used_event, std::memory_order_relaxed);
  set_driver_flags(spec::event::descriptor);
}
std::uint16_t HandDriver::device_flags() const {
  return field(2, setup_.packed ? spec::event::flags : spec::used::flags).load(std::memory_order_relaxed);
}
std::uint16_t HandDriver::device_event() const {
  return field(2, setup_.packed ? spec::event::off_wrap : spec::used::avail_event(setup_.size))
      .load(std::memory_order_relaxed);
}

}  // namespace outboard::testing
