#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// The function is asked once: a RegionInfo has a list of areas, which each access to a register would copy.
void Function::learn_limits(unsigned index) const {
  const RegionInfo info = region(index);
  limits_[index] = {.size = info.size, .readable = info.readable, .writable = info.writable};
}

inline bool Function::allows(unsigned region, std::uint64_t offset, std::uint64_t length,
                             bool Limits::* direction) const {
  if (region >= region::count) return false;
  const Limits& known = limits_[region];
  if (known.size == 0) learn_limits(region);
  return known.size != 0 && range_within(offset, length, known.size) && known.*direction;
}

/// Why allows() is false.
Error Function::refusal(unsigned region, std::uint64_t offset, std::uint64_t length) const {
  const std::uint64_t size = region < region::count ? limits_[region].size : 0;
  if (size == 0 || !range_within(offset, length, size)) {
    return Error(EINVAL, "the access is not within a region of the function");
  }
  return Error(EACCES, "the region does not allow accesses in that direction");
}

Status Function::check_read(unsigned region, std::uint64_t offset, std::uint64_t length) const {
  if (!allows(region, offset, length, &Limits::readable)) return refusal(region, offset, length);
  return {};
}

Status Function::read_region(unsigned region, std::uint64_t offset, MutableBytes into) {
  if (!allows(region, offset, into.size(), &Limits::readable)) return refusal(region, offset, into.size());
  if (into.empty()) return {};
  return read_checked(region, offset, into);
}

Status Function::write_region(unsigned region, std::uint64_t offset, Bytes from) {
  if (!allows(region, offset, from.size(), &Limits::writable)) return refusal(region, offset, from.size());
  if (from.empty()) return {};
  return write_checked(region, offset, from);
}

}  // namespace outboard::pci
