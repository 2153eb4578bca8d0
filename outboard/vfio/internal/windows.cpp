#include <outboard/vfio/internal/windows.hpp>

#include <sys/mman.h>

#include <cerrno>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/memory/internal/all_ones.hpp>

namespace outboard::vfio {
Windows::Windows(Kernel& kernel, const DeviceFd& device)
    : kernel_(kernel), device_(device), ones_(memory::file_of_ones(16 * page_size())) {}

memory::GuardedRange Windows::guarded(const Mapped& mapped) const {
  return {.begin = mapped.at,
          .length = mapped.length,
          .page_size = page_size(),
          .protection = mapped.protection,
          .ones = ones_.get()};
}

Windows::~Windows() {
  for (Mapped& mapped : mapped_) {
    memory::FaultRegistry::instance().remove(*mapped.slot);
    kernel_.unmap(mapped.at, mapped.length);
  }
}

Result<const Windows::Mapped*> Windows::map(unsigned region, std::uint64_t region_offset, const pci::MmapArea& area,
                                            bool writable) {
  for (const Mapped& known : mapped_) {
    if (known.region == region && known.area.offset == area.offset) return &known;
  }
  const std::uint64_t length = (area.size + page_size() - 1) / page_size() * page_size();
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  const std::uint64_t file_offset = region_offset + area.offset;
  void* at = kernel_.map(device_.fd.get(), length, protection, file_offset, nullptr);
  if (at == nullptr) return Error::from_errno("mapping a part of a BAR");
  // A child that has it keeps the device open when we have closed it, and the group in use.
  ::madvise(at, length, MADV_DONTFORK);
  mapped_.push_back(
      {region, area, file_offset, protection, static_cast<std::byte*>(at), length, nullptr, Behind::device});
  mapped_.back().slot = &memory::FaultRegistry::instance().add(guarded(mapped_.back()));
  if (covered_) cover(mapped_.back());
  return &mapped_.back();
}

Result<pci::Window> Windows::window(unsigned region, std::uint64_t region_offset, const pci::MmapArea& area,
                                    bool writable, std::uint64_t offset, std::uint64_t length) {
  if (closed_) return Error(ENODEV, "the function has been released");
  OUTBOARD_TRY(const Mapped* mapped, map(region, region_offset, area, writable));
  return pci::Window(mapped->at + (offset - area.offset), length);
}

void Windows::cover(Mapped& mapped) {
  if (mapped.behind == Behind::ones) return;
  const bool all = memory::cover_with_ones({mapped.at, mapped.length}, &ones_);
  mapped.behind = all ? Behind::ones : Behind::some_of_it;
}

/// Also what the fault guard has covered by itself is mapped again.
Status Windows::uncover(Mapped& mapped) {
  if (mapped.behind == Behind::device && mapped.slot->mark().load(std::memory_order_acquire) == nullptr) return {};
  if (kernel_.map(device_.fd.get(), mapped.length, mapped.protection, mapped.file_offset, mapped.at) == nullptr) {
    return Error::from_errno("mapping a part of a BAR again");
  }
  ::madvise(mapped.at, mapped.length, MADV_DONTFORK);
  mapped.behind = Behind::device;
  mapped.slot->set(guarded(mapped));
  return {};
}

void Windows::cover() {
  covered_ = true;
  for (Mapped& mapped : mapped_) cover(mapped);
}

Status Windows::uncover() {
  if (closed_) return {};
  Status first;
  for (Mapped& mapped : mapped_) {
    if (const Status done = uncover(mapped); !done && first) first = done;
  }
  covered_ = !first;
  return first;
}

void Windows::close() {
  cover();
  closed_ = true;
}

}  // namespace outboard::vfio
