#include <tests/crash/crash_driver.hpp>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include <outboard/base/endian.hpp>

namespace outboard::virtio::crash {

namespace flag = spec::descriptor;

namespace {

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
template <typename T>
void store(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

[[noreturn]] void driver_wrong(const std::string& what) { throw std::runtime_error("the driver: " + what); }

}  // namespace

CrashDriver::CrashDriver(const Config& config, std::byte* memory) : config_(config), memory_(memory) {
  const unsigned count = config.packed || config.indirect ? config.size : config.size / 3U;
  buffers_.resize(count);
  for (unsigned slot = count; slot != 0; --slot) free_.push_back(static_cast<std::uint16_t>(slot - 1));
  if (config.first == 0) return;
  avail_ = used_ = config.first;
  store(area(1) + spec::avail::idx, le16(avail_));
  store(area(2) + spec::used::idx, le16(used_));
}

CrashDriver CrashDriver::on(std::byte* memory) const {
  CrashDriver copy = *this;
  copy.memory_ = memory;
  return copy;
}

void CrashDriver::restart() {
  const std::uint32_t number = next_number_, answered = answered_;
  std::memset(memory_, 0, 0x1000);
  *this = CrashDriver(config_, memory_);
  next_number_ = number;
  answered_ = answered;
}

std::vector<CrashDriver::Element> CrashDriver::elements_of(std::uint16_t slot, std::uint32_t number) const {
  const std::uint64_t at = raw(base) + data(slot);
  std::vector<Element> all{{at, 4, 0}};
  if (elements(number) == 2) {
    all.push_back({at + 8, 8, flag::write});
  } else {
    all.push_back({at + 8, 3, flag::write});
    all.push_back({at + 11, 5, flag::write});
  }
  return all;
}

unsigned CrashDriver::offer(unsigned count) {
  unsigned done = 0;
  for (; done < count && !free_.empty(); ++done) {
    const std::uint32_t number = next_number_;
    const std::uint16_t slot = free_.back();
    std::vector<Element> list = elements_of(slot, number);
    if (config_.packed && in_ring_ + (config_.indirect ? 1 : list.size()) > config_.size) break;
    free_.pop_back();
    ++next_number_;
    store(memory_ + data(slot), le32(number));
    store(memory_ + data(slot) + 8, le64(0));
    if (config_.indirect) {
      write_table(slot, list);
      list = {{raw(base) + table(slot), static_cast<std::uint32_t>(16 * list.size()), flag::indirect}};
    }
    buffers_[slot] = {true, number, static_cast<std::uint16_t>(list.size())};
    order_.push_back(slot);
    if (config_.packed) {
      put_packed(slot, list);
    } else {
      put_split(slot, list);
    }
  }
  return done;
}

void CrashDriver::write_table(std::uint16_t slot, const std::vector<Element>& elements) {
  for (std::size_t i = 0; i < elements.size(); ++i) {
    std::byte* entry = memory_ + table(slot) + 16 * i;
    const auto more = static_cast<std::uint16_t>(i + 1 < elements.size() ? flag::next : 0);
    const Element& from = elements[i];
    if (config_.packed) {
      store(entry, spec::PackedDescriptor{from.address, from.length, 0, from.flags});
    } else {
      store(entry, spec::Descriptor{from.address, from.length, static_cast<std::uint16_t>(from.flags | more),
                                    static_cast<std::uint16_t>(i + 1)});
    }
  }
}

void CrashDriver::put_split(std::uint16_t slot, const std::vector<Element>& elements) {
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const bool more = i + 1 < elements.size();
    const auto index = static_cast<std::uint16_t>(head(slot) + i);
    store(area(0) + 16 * std::size_t{index},
          spec::Descriptor{elements[i].address, elements[i].length,
                           static_cast<std::uint16_t>(elements[i].flags | (more ? flag::next : 0)),
                           static_cast<std::uint16_t>(more ? index + 1 : 0)});
  }
  store(area(1) + spec::avail::ring + 2 * std::size_t(avail_ % config_.size), le16(head(slot)));
  store(area(1) + spec::avail::idx, le16(++avail_));
}

void CrashDriver::put_packed(std::uint16_t slot, const std::vector<Element>& elements) {
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const auto more = static_cast<std::uint16_t>(i + 1 < elements.size() ? flag::next : 0);
    const auto flags = static_cast<std::uint16_t>(elements[i].flags | more | available_bits(avail_cursor_.wrap));
    store(area(0) + 16 * std::size_t{avail_cursor_.slot},
          spec::PackedDescriptor{elements[i].address, elements[i].length, slot, flags});
    avail_cursor_ = avail_cursor_.plus(1, config_.size);
    ++in_ring_;
  }
}

bool CrashDriver::used_id(std::uint32_t& id, std::uint32_t& length) const {
  if (config_.packed) {
    const auto found = load<spec::PackedDescriptor>(area(0) + 16 * std::size_t{used_cursor_.slot});
    id = found.id;
    length = found.len;
    return is_used(found.flags, used_cursor_.wrap);
  }
  const auto index = static_cast<std::uint16_t>(load<le16>(area(2) + spec::used::idx));
  if (static_cast<std::uint16_t>(index - used_) > outstanding()) driver_wrong("more was used than is outstanding");
  const auto found = load<spec::UsedElement>(area(2) + spec::used::ring + 8 * std::size_t(used_ % config_.size));
  if (index != used_ && found.id % (config_.indirect ? 1U : 3U) != 0) driver_wrong("a used entry names no head");
  id = found.id / (config_.indirect ? 1U : 3U);
  length = found.len;
  return index != used_;
}

void CrashDriver::advance(std::uint16_t descriptors) {
  ++used_;
  if (!config_.packed) return;
  used_cursor_ = used_cursor_.plus(descriptors, config_.size);
  in_ring_ -= descriptors;
}

unsigned CrashDriver::take() {
  unsigned done = 0;
  std::uint32_t id = 0, length = 0;
  while (used_id(id, length)) {
    if (id >= buffers_.size() || !buffers_[id].busy)
      driver_wrong("a buffer was used that is not the device's: answered twice");
    const auto slot = static_cast<std::uint16_t>(id);
    // With IN_ORDER an entry stands for all buffers up to the one it names.
    while (config_.in_order && order_.front() != slot) {
      complete(order_.front(), 0, false);
      ++done;
    }
    complete(slot, length, true);
    ++done;
  }
  return done;
}

void CrashDriver::complete(std::uint16_t slot, std::uint32_t length, bool told) {
  Buffer& buffer = buffers_[slot];
  const std::uint32_t expected = answer_length(buffer.number);
  if (told && length != expected) driver_wrong("request " + std::to_string(buffer.number) + " has another length");
  if (!told && expected != 8) driver_wrong("a buffer was skipped that was not filled");
  const std::uint64_t answer = load<le64>(memory_ + data(slot) + 8);
  const std::uint64_t mask = expected == 8 ? ~UINT64_C(0) : UINT64_C(0xffffffff);
  if (answer != (answer_to(buffer.number) & mask))
    driver_wrong("request " + std::to_string(buffer.number) + " is used and has not been answered");
  advance(buffer.descriptors);
  std::erase(order_, slot);
  free_.push_back(slot);
  buffer.busy = false;
  ++answered_;
}

}  // namespace outboard::virtio::crash
