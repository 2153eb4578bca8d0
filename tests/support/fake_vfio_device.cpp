#include <tests/support/fake_vfio_device.hpp>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <tests/support/own_mappings.hpp>

namespace outboard::testing {
namespace {

namespace abi = vfio_abi;
using pci::InterruptKind;

/// Whether a byte of configuration space belongs to a BAR or the ROM.
bool is_base(std::uint64_t at) {
  static constexpr std::uint64_t first = raw(pci::BaseAddress::first), rom = raw(pci::ExpansionRomBase::offset);
  return (at >= first && at < first + 4 * pci::BaseAddress::count) || (at >= rom && at < rom + 4);
}

void copy_out(std::uintptr_t argument, Bytes bytes) { std::memcpy(user_memory(argument), bytes.data(), bytes.size()); }

/// The protocol of all structures with argsz: too little room is no error, the need is written back.
int answer(std::uintptr_t argument, std::size_t smallest, Bytes whole, std::size_t fixed_size) {
  const auto argsz = copy_in<std::uint32_t>(argument);
  if (argsz < smallest) return -EINVAL;
  std::vector<std::byte> bytes(whole.begin(), whole.end());
  const auto need = static_cast<std::uint32_t>(whole.size());
  std::memcpy(bytes.data(), &need, sizeof need);
  const std::uint32_t none = 0;
  if (argsz < need && need > fixed_size) std::memcpy(bytes.data() + offsetof(abi::RegionInfo, cap_offset), &none, 4);
  copy_out(argument, Bytes(bytes).first(std::min<std::size_t>(argsz, argsz < need ? fixed_size : need)));
  return 0;
}

template <typename T>
void append(std::vector<std::byte>& to, const T& value) {
  const Bytes bytes = as_bytes_of(value);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

std::uint64_t inode_of(const UniqueFd* fd) {
  struct stat info{};
  return fd != nullptr && ::fstat(fd->get(), &info) == 0 ? info.st_ino : 0;
}

std::size_t mappings_of(std::uint64_t inode) {
  const auto all = own_mappings();
  return static_cast<std::size_t>(std::ranges::count(all, inode, &OwnMapping::inode));
}

}  // namespace

FakeVfioDevice::FakeVfioDevice(Options options, std::unique_ptr<pci::Function> function, std::function<void()> pump)
    : options_(std::move(options)), function_(std::move(function)), pump_(std::move(pump)) {
  if (options_.migration) migration.emplace(*options_.migration);
  for (unsigned i = 0; i < pci::region::count; ++i) {
    if (const auto inode = inode_of(function_->region(i).fd); inode != 0) mappings_at_rest_[inode] = mappings_of(inode);
  }
}

// The file is opened and closed.

void FakeVfioDevice::open() {
  ++opens;
  reset();
  // SERR, memory and I/O decoding; no bus mastering.
  put_config(raw(pci::Command::offset), 0x0103, 2);
  virtual_header_ = {};
}

void FakeVfioDevice::close() {
  put_config(raw(pci::Command::offset), 0, 2);
  for (const auto kind : {InterruptKind::intx, InterruptKind::msi, InterruptKind::msix}) {
    if (!irqs_[static_cast<std::size_t>(kind)].bound.empty()) disable(kind);
  }
  irqs_ = {};
  unmask_bound_ = asleep = false;
  function_->release_client([](const Status&) {});
  if (pump_) pump_();
  reset();
}

std::size_t FakeVfioDevice::live_mappings() const {
  std::size_t live = 0;
  for (const auto& [inode, at_rest] : mappings_at_rest_) live += mappings_of(inode) - at_rest;
  return live;
}

void FakeVfioDevice::request_unplug() const {
  const EventFd& event = irqs_[static_cast<std::size_t>(InterruptKind::request)].event;
  if (event.valid()) event.signal();
}

void FakeVfioDevice::report_error() const {
  const EventFd& event = irqs_[static_cast<std::size_t>(InterruptKind::error)].event;
  if (event.valid()) event.signal();
}

// What it is.

int FakeVfioDevice::ioctl(unsigned long number, std::uintptr_t argument) {
  const auto request = static_cast<abi::DeviceRequest>(number);
  auto& failing = failures[request];
  if (!failing.empty()) {
    const int code = failing.front();
    failing.erase(failing.begin());
    return -code;
  }
  switch (request) {
    case abi::DeviceRequest::get_info:
      return get_info(argument);
    case abi::DeviceRequest::get_region_info:
      return get_region_info(argument);
    case abi::DeviceRequest::get_irq_info:
      return get_irq_info(argument);
    case abi::DeviceRequest::set_irqs:
      return set_irqs(argument);
    case abi::DeviceRequest::reset:
      return options_.resettable ? reset() : -EINVAL;
    case abi::DeviceRequest::ioeventfd:
      return ioeventfd(argument);
    case abi::DeviceRequest::feature:
      return feature(argument);
    default:
      return -ENOTTY;
  }
}

int FakeVfioDevice::get_info(std::uintptr_t argument) const {
  std::vector<std::byte> whole;
  // A kernel that is newer than we: it appends, and has more kinds of interrupts.
  append(whole, abi::DeviceInfo{.argsz = 0,
                                .flags = abi::device_flag::pci | (options_.resettable ? abi::device_flag::reset : 0),
                                .num_regions = pci::region::count + 2,
                                .num_irqs = pci::interrupt_kind_count + 1});
  append(whole, std::uint64_t{0});
  const auto argsz = copy_in<std::uint32_t>(argument);
  return argsz < sizeof(abi::DeviceInfo)
             ? -EINVAL
             : answer(argument, 16, Bytes(whole).first(std::min<std::size_t>(argsz, 24)), 16);
}

std::vector<std::byte> FakeVfioDevice::region_answer(unsigned index) const {
  const pci::RegionInfo region = index < pci::region::count ? function_->region(index) : pci::RegionInfo{};
  abi::RegionInfo info{
      .argsz = sizeof(abi::RegionInfo),
      .flags = (region.readable ? abi::region_flag::read : 0) | (region.writable ? abi::region_flag::write : 0),
      .index = index,
      .cap_offset = 0,
      .size = region.size,
      .offset = (index + 1) * region_stride};
  std::vector<std::byte> whole;
  if (region.areas.empty() || region.fd == nullptr) {
    append(whole, info);
    return whole;
  }
  info.flags |= abi::region_flag::mmap | abi::region_flag::caps;
  info.cap_offset = sizeof info;
  append(whole, info);
  // One that nobody knows, then those that matter.
  append(whole, abi::CapabilityHeader{.id = 77, .version = 1, .next = sizeof info + 8});
  if (options_.msix_mappable) {
    append(whole, abi::CapabilityHeader{.id = abi::region_capability::msix_mappable, .version = 1, .next = 0});
    return whole;
  }
  append(whole,
         abi::SparseMmapCapability{.header = {.id = abi::region_capability::sparse_mmap, .version = 1, .next = 0},
                                   .nr_areas = static_cast<std::uint32_t>(region.areas.size()),
                                   .reserved = 0});
  for (const pci::MmapArea& area : region.areas) append(whole, abi::SparseMmapArea{area.offset, area.size});
  return whole;
}

int FakeVfioDevice::get_region_info(std::uintptr_t argument) {
  if (copy_in<std::uint32_t>(argument) < sizeof(abi::RegionInfo)) return -EINVAL;
  const auto asked = copy_in<abi::RegionInfo>(argument);
  if (asked.index == pci::region::vga || asked.index >= pci::region::count + 2) return -EINVAL;
  auto whole = region_answer(asked.index);
  if (change_region_info) change_region_info(asked.index, whole);
  return answer(argument, sizeof(abi::RegionInfo), whole, sizeof(abi::RegionInfo));
}

// Accesses.

std::uint32_t FakeVfioDevice::config(std::uint64_t offset, std::size_t size) {
  le32 value = 0;
  [[maybe_unused]] const Status read =
      function_->read_region(pci::region::config, offset, as_writable_bytes_of(value).first(size));
  return value;
}

void FakeVfioDevice::put_config(std::uint64_t offset, std::uint32_t value, std::size_t size) {
  const le32 stored = value;
  [[maybe_unused]] const Status written =
      function_->write_region(pci::region::config, offset, as_bytes_of(stored).first(size));
}

std::optional<std::uint64_t> FakeVfioDevice::find(std::uint16_t capability) {
  std::uint64_t at = pci::capability_at(config(raw(pci::CapabilitiesPointer::offset), 1));
  for (int i = 0; i < 48 && at != 0; ++i) {
    if (config(at, 1) == capability) return at;
    at = pci::capability_at(config(at + 1, 1));
  }
  return std::nullopt;
}

bool FakeVfioDevice::decodes() {
  if ((config(raw(pci::Command::offset), 2) & pci::Command::memory_space.mask) == 0) return false;
  const auto power = find(pci::capability_id::power_management);
  return !power || (config(*power + pci::PowerManagementControl::in_capability, 2) &
                    pci::PowerManagementControl::power_state.mask) == 0;
}

/// The kernel takes the pages away: who looks at them from here on is ended by SIGBUS.
void FakeVfioDevice::registers_vanish(const char* why) {
  if (live_mappings() != 0) violations.push_back(std::string("BARs are mapped while ") + why);
}

ssize_t FakeVfioDevice::access_bar(unsigned region, std::uint64_t offset, std::size_t size, bool write,
                                   const std::function<Status()>& access) {
  if (!decodes()) return -EIO;
  accesses.push_back({region, offset, size, write});
  const Status done = access();
  return done ? static_cast<ssize_t>(size) : -done.error().code();
}

/// What the kernel answers out of its own books whatever the hardware says: the identity, BARs, the interrupt pin and line,
/// and Command's Interrupt Disable.
void FakeVfioDevice::add_made_up(MutableBytes into, std::uint64_t offset) {
  for (std::uint64_t i = 0; i < into.size(); ++i) {
    const std::uint64_t at = offset + i;
    const bool base = is_base(at);
    const bool whole = at < 4 || at == raw(pci::InterruptLine::offset) || at == raw(pci::InterruptPin::offset);
    const bool disable = at == raw(pci::Command::offset) + 1u;
    const auto mask = std::byte{static_cast<unsigned char>(disable ? pci::Command::interrupt_disable.mask >> 8 : 0xFF)};
    if (base) into[i] = virtual_header_[at];
    if (whole || disable) into[i] = (into[i] & ~mask) | (std::byte(config(at, 1)) & mask);
  }
}

ssize_t FakeVfioDevice::pread(MutableBytes into, std::uint64_t offset) {
  const std::uint64_t index = offset / region_stride - 1, at = offset % region_stride;
  if (offset < region_stride || index >= pci::region::count) return -EINVAL;
  const pci::RegionInfo info = function_->region(static_cast<unsigned>(index));
  if (at >= info.size) return index == pci::region::config ? -EFAULT : -EINVAL;
  into = into.first(std::min<std::uint64_t>(into.size(), info.size - at));
  if (dead) {
    std::ranges::fill(into, std::byte{0xff});
    if (index == pci::region::config) add_made_up(into, at);
    return static_cast<ssize_t>(into.size());
  }
  if (index != pci::region::config) {
    return access_bar(static_cast<unsigned>(index), at, into.size(), false,
                      [&] { return function_->read_region(static_cast<unsigned>(index), at, into); });
  }
  if (!function_->read_region(pci::region::config, at, into)) return -EIO;
  for (std::uint64_t i = 0; i < into.size(); ++i) {
    const std::uint64_t place = at + i;
    if (is_base(place)) into[i] = virtual_header_[place];
  }
  return static_cast<ssize_t>(into.size());
}

ssize_t FakeVfioDevice::pwrite(Bytes from, std::uint64_t offset) {
  const std::uint64_t index = offset / region_stride - 1, at = offset % region_stride;
  if (offset < region_stride || index >= pci::region::count) return -EINVAL;
  const pci::RegionInfo info = function_->region(static_cast<unsigned>(index));
  if (at >= info.size) return index == pci::region::config ? -EFAULT : -EINVAL;
  from = from.first(std::min<std::uint64_t>(from.size(), info.size - at));
  if (index == pci::region::config) return write_config(from, at);
  return access_bar(static_cast<unsigned>(index), at, from.size(), true,
                    [&] { return function_->write_region(static_cast<unsigned>(index), at, from); });
}

/// Writes by the byte what has rules of its own, by the 16-bit word the two registers that act, and the rest as it comes.
ssize_t FakeVfioDevice::write_config(Bytes from, std::uint64_t offset) {
  const auto power = find(pci::capability_id::power_management);
  const auto msi = find(pci::capability_id::msi), msix = find(pci::capability_id::msix);
  const bool command = offset <= 4 && offset + from.size() > 4;
  if (command && (std::to_integer<unsigned>(from[4 - offset]) & pci::Command::memory_space.mask) == 0) {
    registers_vanish("memory decoding goes off");
  }
  const std::uint64_t state = power ? *power + pci::PowerManagementControl::in_capability : 0;
  if (power && offset <= state && offset + from.size() > state &&
      (std::to_integer<unsigned>(from[state - offset]) & pci::PowerManagementControl::power_state.mask) != 0) {
    registers_vanish("the function goes to sleep");
  }
  std::size_t plain = 0;  // bytes that have no rule, up to here
  const auto flush = [&](std::size_t end) {
    if (end > plain) [[maybe_unused]]
      const Status done =
          function_->write_region(pci::region::config, offset + plain, from.subspan(plain, end - plain));
  };
  for (std::size_t i = 0; i < from.size(); ++i) {
    const std::uint64_t at = offset + i;
    const bool base = is_base(at);
    const bool msix_control = msix && at >= *msix && at < *msix + pci::MsixControl::capability_length;
    const bool msi_control = msi && at == *msi + pci::MsiControl::in_capability;
    if (!base && !msix_control && !msi_control) continue;
    flush(i);
    plain = i + 1;
    if (base) virtual_header_[at] = from[i];
    if (msi_control) {
      // Off is possible, on is SET_IRQS's alone; no more messages than it has granted.
      const bool enabled = !irqs_[static_cast<std::size_t>(InterruptKind::msi)].bound.empty();
      const auto value = std::to_integer<unsigned>(from[i]);
      put_config(at, enabled ? (config(at, 1) & ~1U) | (value & 1U) : config(at, 1) & ~1U, 1);
    }
  }
  flush(from.size());
  return static_cast<ssize_t>(from.size());
}

void* FakeVfioDevice::map(std::uint64_t length, int protection, std::uint64_t offset, void* fixed) {
  const std::uint64_t index = offset / region_stride - 1, at = offset % region_stride;
  errno = EINVAL;
  if (mmap_fails || offset < region_stride || index >= pci::region::count) return nullptr;
  const pci::RegionInfo info = function_->region(static_cast<unsigned>(index));
  const auto holds = [&](const pci::MmapArea& area) {
    return at >= area.offset && range_within(at - area.offset, length, area.size);
  };
  if (info.fd == nullptr || std::ranges::none_of(info.areas, holds)) return nullptr;
  const int flags = MAP_SHARED | (fixed != nullptr ? MAP_FIXED : 0);
  void* mapped = ::mmap(fixed, length, protection, flags, info.fd->get(), static_cast<off_t>(info.fd_offset + at));
  return mapped == MAP_FAILED ? nullptr : mapped;
}

// What it does.

void FakeVfioDevice::set_message_enable(std::uint16_t capability, bool on) {
  const auto at = find(capability);
  if (!at) return;
  const unsigned bit =
      capability == pci::capability_id::msix ? pci::MsixControl::enable.mask : pci::MsiControl::enable.mask;
  const std::uint32_t control = config(*at + pci::MsixControl::in_capability, 2);
  put_config(*at + pci::MsixControl::in_capability, on ? control | bit : control & ~bit, 2);
}

/// The kernel saves and restores what is its own; bus mastering too.
int FakeVfioDevice::reset() {
  ++resets;
  if (migration) migration->reset();
  const std::uint32_t command = config(raw(pci::Command::offset), 2);
  function_->reset([](const Status&) {});
  if (pump_) pump_();
  put_config(raw(pci::Command::offset), command, 2);
  for (const auto& [kind, capability] : {std::pair{InterruptKind::msi, pci::capability_id::msi},
                                         std::pair{InterruptKind::msix, pci::capability_id::msix}}) {
    if (!irqs_[static_cast<std::size_t>(kind)].bound.empty()) set_message_enable(capability, true);
  }
  return 0;
}

int FakeVfioDevice::feature(std::uintptr_t argument) {
  const auto call = copy_in<abi::DeviceFeature>(argument);
  if (call.argsz < sizeof call) return -EINVAL;
  namespace flag = abi::device_feature_flag;
  if ((call.flags & ~(flag::feature_mask | flag::get | flag::set | flag::probe)) != 0) return -EINVAL;
  const bool both = (call.flags & flag::get) != 0 && (call.flags & flag::set) != 0;
  if (both && (call.flags & flag::probe) == 0) return -EINVAL;
  if (migration) {
    const auto used = migration->feature(call.flags, call.argsz - sizeof call, argument + sizeof call);
    if (used) return *used;
  }
  const std::uint32_t id = call.flags & abi::device_feature_flag::feature_mask;
  const bool entry = id == abi::device_feature::low_power_entry;
  if (!options_.low_power || (!entry && id != abi::device_feature::low_power_exit)) return -ENOTTY;
  if ((call.flags & abi::device_feature_flag::get) != 0) return -EINVAL;
  if ((call.flags & abi::device_feature_flag::probe) != 0) return 0;
  if (entry && asleep) return -EINVAL;
  if (entry) registers_vanish("the device goes to sleep");
  asleep = entry;
  return 0;
}

int FakeVfioDevice::ioeventfd(std::uintptr_t argument) {
  const auto call = copy_in<abi::DeviceIoEventFd>(argument);
  if (call.argsz < 28) return -EINVAL;
  const std::uint64_t index = call.offset / region_stride - 1, at = call.offset % region_stride;
  const bool width = call.flags == 1 || call.flags == 2 || call.flags == 4;
  if (!width || index > pci::region::bar5) return -EINVAL;
  if (!range_within(at, call.flags, function_->region(static_cast<unsigned>(index)).size)) return -EINVAL;
  ioeventfds.push_back(call);
  return 0;
}

}  // namespace outboard::testing
