#pragma once

#include <array>
#include <vector>

#include <outboard/vfio_user/internal/region_info.hpp>
#include <outboard/vfio_user/internal/server_connection.hpp>

namespace outboard::vfio_user {

/// The function's regions as its client reaches them: by REGION_READ and REGION_WRITE, and through windows on the server's
/// files. Offsets and sizes are checked before anything is sent. One thread. Errors as pci::Handle.
class ClientRegions {
 public:
  explicit ClientRegions(ServerConnection& connection) : connection_(connection) {}

  Result<pci::RegionInfo> info(unsigned region) const;
  /// EINVAL: no such region, or beyond its end. What the server's description of it was refused for.
  Status check_access(unsigned region, std::uint64_t offset, std::uint64_t size) const;

  Status read(unsigned region, std::uint64_t offset, MutableBytes into);
  Status write(unsigned region, std::uint64_t offset, Bytes from);
  Status post_write(unsigned region, std::uint64_t offset, Bytes from);
  Result<pci::Window> window(unsigned region, std::uint64_t offset, std::uint64_t length);
  /// Maps the windows from another server's files, at the same addresses; nobody may use them meanwhile. ENOTSUP: that server
  /// does not offer the same parts of its regions. After an error some may be the other server's.
  Status map_windows_from(const Description& server) const;
  /// The server is gone: windows read as all-ones.
  void revoke() const;

 private:
  Status read_once(const spec::RegionAccess& access, MutableBytes into);
  Status write_once(const spec::RegionAccess& access, Bytes from);

  ServerConnection& connection_;
  std::array<std::vector<MappedArea>, pci::region::count> mapped_;
};

}  // namespace outboard::vfio_user
