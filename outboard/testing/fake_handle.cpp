#include <outboard/testing/fake_handle.hpp>

#include <algorithm>

#include <fmt/format.h>

#include <outboard/pci/registers.hpp>

namespace outboard::testing {

namespace {

using pci::InterruptKind;

const char* name_of(InterruptKind kind) {
  static constexpr std::array names{"intx", "msi", "msix", "error", "request"};
  return names[static_cast<std::size_t>(kind)];
}

}  // namespace

FakeHandle::FakeHandle() {
  for (const auto& [index, size] : {std::pair{0u, 0x100000ull}, {2u, 0x4000ull}, {5u, 0x20ull}, {6u, 0x10000ull}}) {
    regions[index] = {.size = size, .readable = true, .writable = index != pci::region::rom, .areas = {}};
    memory[index].resize(size);
  }
  regions[pci::region::config] = {.size = 4096, .readable = true, .writable = true, .areas = {}};
  irqs[0] = {.count = 1, .maskable = true, .automasked = true, .resizable = false};
  irqs[1] = {.count = 8, .resizable = false};
  irqs[2] = {.count = 8};
  pool_.emplace(mapper_);
  doorbell_ = std::move(*EventFd::create());
}

Result<pci::RegionInfo> FakeHandle::region(unsigned index) {
  if (index >= regions.size()) return Error(EINVAL, "no such region");
  return regions[index];
}

Result<pci::InterruptInfo> FakeHandle::interrupts(InterruptKind kind) { return irqs[static_cast<std::size_t>(kind)]; }

bool FakeHandle::decodes() const {
  return pci::Command(static_cast<std::uint16_t>(config_space.get(4, 2))).get(pci::Command::memory_space) != 0;
}

Status FakeHandle::check(unsigned region, std::uint64_t offset, std::size_t size) const {
  if (gone_) return Error(ENODEV, "the device has gone");
  if (region >= regions.size() || !range_within(offset, size, regions[region].size))
    return Error(EINVAL, "an access outside the regions");
  if (region != pci::region::config && region != pci::region::bar5 && !decodes())
    return Error(EIO, "the device does not decode memory");
  return {};
}

Status FakeHandle::read_region(unsigned region, std::uint64_t offset, MutableBytes into) {
  OUTBOARD_CHECK(check(region, offset, into.size()));
  if (region == pci::region::config) return config_space.read_config(static_cast<std::uint16_t>(offset), into);
  copy_bytes(Bytes(memory[region]).subspan(offset, into.size()), into);
  return {};
}

Status FakeHandle::write_region(unsigned region, std::uint64_t offset, Bytes from) {
  OUTBOARD_CHECK(check(region, offset, from.size()));
  if (region == pci::region::config) {
    OUTBOARD_CHECK(config_space.write_config(static_cast<std::uint16_t>(offset), from));
    if (offset <= 5 && offset + from.size() > 4)
      calls.push_back(fmt::format("command {:#06x}", config_space.get(4, 2)));
    return {};
  }
  copy_bytes(from, MutableBytes(memory[region]).subspan(offset));
  return {};
}

Result<pci::Window> FakeHandle::map_window(unsigned, std::uint64_t, std::uint64_t) {
  return Error(ENOTSUP, "nothing is mapped");
}

Result<std::vector<pci::IoEventFd>> FakeHandle::io_eventfds(unsigned region) {
  if (region != 0) return std::vector<pci::IoEventFd>{};
  return std::vector<pci::IoEventFd>{{.offset = 0x10, .size = 4, .fd = &doorbell_, .datamatch = {}}};
}

Status FakeHandle::reset() {
  calls.emplace_back("reset");
  if (reset_error != 0) return Error(reset_error, "the reset failed");
  return {};
}

Status FakeHandle::attach(Loop&) {
  attached = true;
  return {};
}

void FakeHandle::revoke() {
  if (std::exchange(gone_, true)) return;
  calls.emplace_back("revoke");
  raise(pci::Event::gone);
}

Status FakeHandle::bind_interrupts(InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  calls.push_back(fmt::format("bind {} {} {}", name_of(kind), start, eventfds.size()));
  const pci::InterruptInfo& info = irqs[static_cast<std::size_t>(kind)];
  if (bind_error != 0) return Error(std::exchange(bind_error, 0), "it cannot be bound");
  if (enabled && *enabled != kind) return Error(EINVAL, "another kind is enabled");
  if (eventfds.empty() || !range_within(start, eventfds.size(), info.count)) return Error(EINVAL, "too many");
  if (!info.resizable && enabled && start + eventfds.size() > bound.size())
    return Error(EINVAL, "the set cannot grow while it is enabled");
  if (!info.resizable && !enabled && start != 0) return Error(EINVAL, "the first vector is missing");
  if (bound.size() < start + eventfds.size()) bound.resize(start + eventfds.size());
  for (std::size_t i = 0; i < eventfds.size(); ++i) {
    bound[start + i] = EventFd();
    OUTBOARD_TRY(bound[start + i], eventfds[i].duplicate());
  }
  enabled = kind;
  return {};
}

Status FakeHandle::bind_unmask(const EventFd& eventfd) {
  if (!takes_unmask_eventfds) return Error(ENOTSUP, "not with eventfds");
  unmask_bound = EventFd();
  OUTBOARD_TRY(unmask_bound, eventfd.duplicate());
  return {};
}

Status FakeHandle::disable_interrupts(InterruptKind kind) {
  calls.push_back(fmt::format("disable {}", name_of(kind)));
  if (enabled != kind) return {};
  enabled.reset();
  bound.clear();
  unmask_bound = EventFd();
  return {};
}

Status FakeHandle::mask_interrupts(InterruptKind kind, std::uint32_t, std::uint32_t) {
  calls.push_back(fmt::format("mask {}", name_of(kind)));
  return {};
}

Status FakeHandle::unmask_interrupts(InterruptKind kind, std::uint32_t, std::uint32_t) {
  calls.push_back(fmt::format("unmask {}", name_of(kind)));
  return {};
}

Status FakeHandle::trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  calls.push_back(fmt::format("trigger {} {} {}", name_of(kind), start, count));
  return {};
}

// Memory.

Status FakeHandle::Mapper::map(memory::IovaRange range, MutableBytes bytes, memory::Access access, const UniqueFd* fd,
                               std::uint64_t offset) {
  const std::uint64_t start = raw(range.start);
  const char* const rights = access == memory::Access::read ? "r" : access == memory::Access::write ? "w" : "rw";
  const std::string file = fd != nullptr ? fmt::format(" file {:#x}", offset) : "";
  handle_.calls.push_back(fmt::format("map {:#x} {:#x} {}{}", start, range.size, rights, file));
  if (!range.well_formed() || bytes.size() != range.size || (start | range.size) % handle_.limits.page_size != 0)
    return Error(EINVAL, "not whole pages");
  if (std::ranges::none_of(handle_.limits.valid, [&](const auto& valid) { return valid.contains(range); }))
    return Error(EINVAL, "outside the ranges");
  for (const auto& [at, there] : handle_.mapped) {
    if (memory::IovaRange{memory::Iova{at}, there.first}.overlaps(range)) return Error(EEXIST, "mapped already");
  }
  handle_.mapped[start] = {range.size, bytes};
  return {};
}

Status FakeHandle::Mapper::unmap(memory::IovaRange range) {
  handle_.calls.push_back(fmt::format("unmap {:#x} {:#x}", raw(range.start), range.size));
  if (handle_.unmap_error != 0) return Error(handle_.unmap_error, "it cannot be unmapped");
  const auto found = handle_.mapped.find(raw(range.start));
  if (found == handle_.mapped.end() || found->second.first != range.size) return Error(EINVAL, "no such mapping");
  handle_.mapped.erase(found);
  return {};
}

}  // namespace outboard::testing
