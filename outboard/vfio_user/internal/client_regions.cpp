#include <outboard/vfio_user/internal/client_regions.hpp>

#include <algorithm>
#include <string>

namespace outboard::vfio_user {
namespace {

using spec::Command;

memory::Access access_of(const pci::RegionInfo& region) {
  return region.writable ? memory::Access::read_write : memory::Access::read;
}

}  // namespace

Result<pci::RegionInfo> ClientRegions::info(unsigned region) const {
  OUTBOARD_CHECK(check_access(region, 0, 0));
  const auto& known = connection_.description().regions[region];
  pci::RegionInfo info = known.info;
  if (known.fd) info.fd = &known.fd;
  return info;
}

Status ClientRegions::check_access(unsigned region, std::uint64_t offset, std::uint64_t size) const {
  const auto& regions = connection_.description().regions;
  if (region >= regions.size()) {
    return connection_.named(Error(EINVAL, "there is no region " + std::to_string(region)));
  }
  const auto& known = regions[region];
  if (known.refused) return connection_.named(*known.refused);
  if (range_within(offset, size, known.info.size)) return {};
  return connection_.named(Error(EINVAL, "an access beyond the end of region " + std::to_string(region)));
}

Status ClientRegions::read(unsigned region, std::uint64_t offset, MutableBytes into) {
  OUTBOARD_CHECK(check_access(region, offset, into.size()));
  OUTBOARD_CHECK(connection_.may_wait());
  const std::uint64_t max = connection_.max_transfer();
  while (!into.empty()) {
    const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(into.size(), max));
    const spec::RegionAccess access{.offset = offset, .region = region, .count = count};
    if (auto done = read_once(access, into.first(count)); !done) return connection_.named(done.error());
    into = into.subspan(count);
    offset += count;
  }
  return {};
}

Status ClientRegions::write(unsigned region, std::uint64_t offset, Bytes from) {
  OUTBOARD_CHECK(check_access(region, offset, from.size()));
  OUTBOARD_CHECK(connection_.may_wait());
  const std::uint64_t max = connection_.max_transfer();
  while (!from.empty()) {
    const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(from.size(), max));
    const spec::RegionAccess access{.offset = offset, .region = region, .count = count};
    if (auto done = write_once(access, from.first(count)); !done) return connection_.named(done.error());
    from = from.subspan(count);
    offset += count;
  }
  return {};
}

Status ClientRegions::post_write(unsigned region, std::uint64_t offset, Bytes from) {
  if (from.size() > connection_.max_transfer()) return write(region, offset, from);
  OUTBOARD_CHECK(check_access(region, offset, from.size()));
  OUTBOARD_CHECK(connection_.may_wait());
  if (from.empty()) return {};
  const spec::RegionAccess access{.offset = offset, .region = region, .count = static_cast<std::uint32_t>(from.size())};
  if (auto posted = connection_.requests().post_write(access, from); !posted) return connection_.named(posted.error());
  return {};
}

Status ClientRegions::read_once(const spec::RegionAccess& access, MutableBytes into) {
  return ask(connection_.requests(),
             {.command = Command::region_read,
              .head = as_bytes_of(access),
              .min_reply = sizeof access,
              .max_reply = sizeof access + into.size()},
             [&into](const Requests::Reply& reply) -> Status {
               ByteReader reader(reply.payload);
               OUTBOARD_TRY(const auto echo, reader.read<spec::RegionAccess>());
               if (echo.count != into.size() || reader.remaining() != into.size()) {
                 return Error(EPROTO, "the server sent other data than were asked for");
               }
               copy_bytes(reader.rest(), into);
               return {};
             });
}

Status ClientRegions::write_once(const spec::RegionAccess& access, Bytes from) {
  return ask(connection_.requests(),
             {.command = Command::region_write,
              .head = as_bytes_of(access),
              .tail = from,
              .min_reply = sizeof access,
              .max_reply = sizeof access},
             [&access](const Requests::Reply& reply) -> Status {
               OUTBOARD_TRY(const auto echo, ByteReader(reply.payload).read<spec::RegionAccess>());
               if (echo.count == access.count) return {};
               return Error(EPROTO, "the server wrote other data than were sent");
             });
}

Result<pci::Window> ClientRegions::window(unsigned region, std::uint64_t offset, std::uint64_t length) {
  OUTBOARD_CHECK(check_access(region, offset, length));
  if (connection_.gone()) return connection_.named(*connection_.requests().broken());
  for (const MappedArea& mapped : mapped_[region]) {
    if (mapped.contains(offset, length)) return mapped.window(offset, length);
  }
  const auto& known = connection_.description().regions[region];
  for (const pci::MmapArea& area : known.info.areas) {
    if (length == 0 || offset < area.offset || !range_within(offset - area.offset, length, area.size)) continue;
    // Not the whole area: its size is the server's word, and each page has to be covered again when the server goes.
    auto mapped = MappedArea::map(known.fd, known.info.fd_offset, pages_around(offset, length), access_of(known.info));
    if (!mapped) {
      return Error(ENOTSUP, mapped.error().what()).while_doing("mapping a part of a BAR").on(connection_.name());
    }
    mapped_[region].push_back(std::move(*mapped));
    return mapped_[region].back().window(offset, length);
  }
  return connection_.named(Error(ENOTSUP, "this part of region " + std::to_string(region) + " cannot be mapped"));
}

Status ClientRegions::map_windows_from(const Description& server) const {
  for (unsigned region = 0; region < mapped_.size(); ++region) {
    const auto& theirs = server.regions[region];
    for (const MappedArea& mapped : mapped_[region]) {
      const bool offered = std::ranges::any_of(theirs.info.areas, [&](const pci::MmapArea& area) {
        return mapped.area().offset >= area.offset &&
               range_within(mapped.area().offset - area.offset, mapped.area().size, area.size);
      });
      if (!offered) return Error(ENOTSUP, "a part of region " + std::to_string(region) + " cannot be mapped there");
      OUTBOARD_CHECK(mapped.replace_file(theirs.fd, theirs.info.fd_offset, access_of(theirs.info)));
    }
  }
  return {};
}

void ClientRegions::revoke() const {
  for (const auto& areas : mapped_) {
    for (const MappedArea& area : areas) area.revoke();
  }
}

}  // namespace outboard::vfio_user
