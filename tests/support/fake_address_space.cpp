#include <tests/support/fake_address_space.hpp>

#include <algorithm>
#include <cerrno>
#include <optional>

#include <tests/support/own_mappings.hpp>

namespace outboard::testing {

using memory::IovaRange;

void FakeAddressSpace::attach(pci::Function& function, std::function<void()> pump) {
  attached_.push_back({&function, std::move(pump)});
}

std::uint64_t FakeAddressSpace::locked() const {
  std::uint64_t sum = 0;
  for (const auto& [start, size] : mapped_) sum += size;
  return sum;
}

int FakeAddressSpace::check(IovaRange range, std::uint64_t host, memory::Access access) const {
  const std::uint64_t page = limits_.page_size;
  if (range.size == 0 || raw(range.start) % page != 0 || range.size % page != 0 || host % page != 0) return -EINVAL;
  if (!range.well_formed()) return -EOVERFLOW;
  if (static_cast<unsigned>(access) == 0) return -EINVAL;
  const auto holds = [&](const IovaRange& valid) { return valid.contains(range); };
  if (std::ranges::none_of(limits_.ranges, holds)) return -EINVAL;
  for (const auto& [start, size] : mapped_) {
    if (IovaRange{start, size}.overlaps(range)) return -EEXIST;
  }
  if (mapped_.size() >= limits_.max_mappings) return kind_ == Kind::type1v2 ? -ENOSPC : -ENOMEM;
  if (limits_.lockable != UINT64_MAX && locked() + range.size > limits_.lockable) return -ENOMEM;
  return can_be_pinned(host, range.size, allows(access, memory::Access::write)) ? 0 : -EFAULT;
}

int FakeAddressSpace::map(IovaRange range, std::uint64_t host, memory::Access access) {
  if (const int wrong = check(range, host, access); wrong != 0) return wrong;
  const MutableBytes bytes(user_memory(host), range.size);
  for (const Attached& each : attached_) {
    const auto mapped = each.function->map({.range = range,
                                            .access = access,
                                            .memory = memory::HostMemory::borrowed(bytes),
                                            .offset = 0,
                                            .port = nullptr});
    if (!mapped) return -mapped.error().code();
  }
  mapped_.emplace(range.start, range.size);
  return 0;
}

int FakeAddressSpace::unmap_from_functions(IovaRange range) {
  for (const Attached& each : attached_) {
    std::optional<Status> done;
    each.function->unmap(range, [&done](Status status) { done = std::move(status); });
    if (each.pump) each.pump();
    if (!done || !*done) return -EIO;
  }
  return 0;
}

/// Whole mappings only; a container has 0 for nothing, an IOAS ENOENT.
int FakeAddressSpace::unmap(IovaRange range, std::uint64_t& unmapped) {
  const bool type1 = kind_ == Kind::type1v2;
  if (range.size == 0) return -EINVAL;
  if (type1 && (raw(range.start) % limits_.page_size != 0 || range.size % limits_.page_size != 0)) return -EINVAL;
  if (!range.well_formed()) return -EOVERFLOW;
  std::vector<IovaRange> inside;
  for (const auto& [start, size] : mapped_) {
    const IovaRange one{start, size};
    if (!one.overlaps(range)) continue;
    if (!range.contains(one)) return type1 ? -EINVAL : -ENOENT;
    inside.push_back(one);
  }
  unmapped = 0;
  if (inside.empty()) return type1 ? 0 : -ENOENT;
  for (const IovaRange& one : inside) {
    if (const int wrong = unmap_from_functions(one); wrong != 0) return wrong;
    mapped_.erase(one.start);
    unmapped += one.size;
  }
  return 0;
}

void FakeAddressSpace::clear() {
  while (!mapped_.empty()) {
    unmap_from_functions({mapped_.begin()->first, mapped_.begin()->second});
    mapped_.erase(mapped_.begin());
  }
}

}  // namespace outboard::testing
