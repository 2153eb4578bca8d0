#include <outboard/vfio_user/internal/region_commands.hpp>

namespace outboard::vfio_user {
namespace {

constexpr std::size_t max_multi_write_size = sizeof(spec::WriteMultiEntry::data);

Result<spec::RegionAccess> parse_access(ByteReader& reader, std::uint64_t max_transfer) {
  OUTBOARD_TRY(const auto access, reader.read<spec::RegionAccess>());
  if (access.count > max_transfer) return Error(EINVAL, "the access is longer than a message may be");
  return access;
}

}  // namespace

Result<spec::RegionAccess> parse_region_read(Bytes request, std::uint64_t max_transfer) {
  ByteReader reader(request);
  return parse_access(reader, max_transfer);
}

Result<spec::RegionAccess> region_write(pci::Function& function, Bytes request, std::uint64_t max_transfer) {
  ByteReader reader(request);
  OUTBOARD_TRY(const auto access, parse_access(reader, max_transfer));
  if (reader.remaining() != access.count) return Error(EINVAL, "the data are not as long as the access says");
  OUTBOARD_CHECK(function.write_region(access.region, access.offset, reader.rest()));
  return access;
}

Result<spec::WriteMulti> region_write_multi(pci::Function& function, Bytes request) {
  ByteReader reader(request);
  OUTBOARD_TRY(const auto head, reader.read<spec::WriteMulti>());
  if (reader.remaining() % sizeof(spec::WriteMultiEntry) != 0 ||
      head.wr_cnt != reader.remaining() / sizeof(spec::WriteMultiEntry)) {
    return Error(EINVAL, "the message is not as long as its writes");
  }
  if (head.wr_cnt > max_multi_writes) {
    return Error(EINVAL, "more writes in one message than a client may have done in its turn");
  }
  for (std::uint64_t i = 0; i < head.wr_cnt; ++i) {
    OUTBOARD_TRY(const auto entry, reader.read<spec::WriteMultiEntry>());
    if (entry.count > max_multi_write_size) return Error(EINVAL, "a write of more than 8 bytes");
    const Bytes data = std::as_bytes(std::span(entry.data)).first(entry.count);
    OUTBOARD_CHECK(function.write_region(entry.region, entry.offset, data));
  }
  return head;
}

}  // namespace outboard::vfio_user
