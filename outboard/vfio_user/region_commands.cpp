#include <outboard/vfio_user/region_commands.hpp>

namespace outboard::vfio_user {

Regions::Regions(pci::Function& function, std::uint64_t max_transfer)
    : function_(function), max_transfer_(max_transfer) {
  for (unsigned index = 0; index < pci::region::count; ++index) {
    const pci::RegionInfo info = function.region(index);
    shapes_[index] = {.size = info.size, .readable = info.readable, .writable = info.writable};
  }
}

Status Regions::check(const spec::RegionAccess& access, Direction direction) const {
  if (access.region >= shapes_.size()) return Error(EINVAL, "there is no region " + std::to_string(access.region));
  const Shape& shape = shapes_[access.region];
  if (access.count > max_transfer_) return Error(EINVAL, "the access is longer than a message may be");
  if (shape.size == 0 || !range_within(access.offset, access.count, shape.size)) {
    return Error(EINVAL, "the access is not inside the region");
  }
  const bool allowed = direction == Direction::read ? shape.readable : shape.writable;
  if (!allowed) return Error(EACCES, "the region does not allow that direction");
  return {};
}

Status Regions::read(const spec::RegionAccess& access, MutableBytes into) {
  OUTBOARD_CHECK(check(access, Direction::read));
  if (into.empty()) return {};
  return function_.read_region(access.region, access.offset, into);
}

Status Regions::write(const spec::RegionAccess& access, Bytes data) {
  if (data.size() != access.count) return Error(EINVAL, "the data are not as long as the access says");
  OUTBOARD_CHECK(check(access, Direction::write));
  if (data.empty()) return {};
  return function_.write_region(access.region, access.offset, data);
}

Regions::MultiResult Regions::write_multi(Bytes request) {
  ByteReader reader(request);
  const auto head = reader.read<spec::WriteMulti>();
  if (!head) return {.written = 0, .status = head.error()};
  if (reader.remaining() % sizeof(spec::WriteMultiEntry) != 0 ||
      head->wr_cnt != reader.remaining() / sizeof(spec::WriteMultiEntry)) {
    return {.written = 0, .status = Error(EINVAL, "the message is not as long as its entries")};
  }
  if (head->wr_cnt > most_writes)
    return {.written = 0,
            .status = Error(EINVAL, "more writes in one message than a client may have done in its turn")};
  MultiResult result;
  for (; result.written < head->wr_cnt; ++result.written) {
    const auto entry = reader.read<spec::WriteMultiEntry>();
    if (!entry) return {.written = result.written, .status = entry.error()};
    if (entry->count > sizeof entry->data) {
      result.status = Error(EINVAL, "an entry has more than 8 bytes");
      break;
    }
    const spec::RegionAccess access{.offset = entry->offset, .region = entry->region, .count = entry->count};
    result.status = write(access, std::as_bytes(std::span(entry->data)).first(entry->count));
    if (!result.status) break;
  }
  return result;
}

}  // namespace outboard::vfio_user
