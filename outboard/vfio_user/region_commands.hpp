#pragma once

#include <array>

#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// The server's access to a function's regions: checks what the client asks for, then asks the function. Sizes and
/// directions are read once; the function must outlive it.
class Regions {
 public:
  Regions(pci::Function& function, std::uint64_t max_transfer);

  /// EINVAL: no such region, beyond its end, or longer than a message may be. EACCES: not readable.
  Status read(const spec::RegionAccess& access, MutableBytes into);
  /// The same for REGION_WRITE. `data` must be exactly as long as `access` says (EINVAL).
  Status write(const spec::RegionAccess& access, Bytes data);
  /// What can be said of a read before there is room for its data.
  Status check_read(const spec::RegionAccess& access) const { return check(access, Direction::read); }

  /// REGION_WRITE_MULTI: applied in order up to the first bad entry. Returns how many were written; EINVAL, with
  /// nothing written, when the message's length is not that of its entries, or there are more than `most_writes`: all of
  /// them are written before another client has its turn. QEMU sends 200 at most.
  static constexpr std::uint64_t most_writes = 256;
  struct MultiResult {
    std::uint64_t written = 0;
    Status status;
  };
  MultiResult write_multi(Bytes request);

 private:
  enum class Direction : std::uint8_t { read, write };
  struct Shape {
    std::uint64_t size = 0;
    bool readable = false, writable = false;
  };
  Status check(const spec::RegionAccess& access, Direction direction) const;

  pci::Function& function_;
  std::uint64_t max_transfer_;
  std::array<Shape, pci::region::count> shapes_;
};

}  // namespace outboard::vfio_user
