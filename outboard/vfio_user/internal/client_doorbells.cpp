#include <outboard/vfio_user/internal/client_doorbells.hpp>

#include <algorithm>
#include <string>

#include <outboard/vfio_user/internal/received_eventfd.hpp>

namespace outboard::vfio_user {
namespace {

using spec::Command;

/// Bytes of a reply: at the first try, and at the second one at most.
constexpr std::uint32_t usual_room = 4096, max_room = 65536;

/// Doorbells as a server describes them, in either of the forms that exist.
Result<std::vector<spec::IoEventFd>> parse_doorbells(Bytes reply) {
  ByteReader reader(reply);
  OUTBOARD_TRY(const auto head, reader.read<spec::RegionIoFds>());
  std::vector<spec::IoEventFd> entries;
  if (head.count == 0) return entries;
  const std::size_t stride = head.argsz > sizeof head ? (head.argsz - sizeof head) / head.count : 0;
  if (stride != sizeof(spec::IoEventFd) && stride != sizeof(spec::IoEventFdWithShadow)) {
    return Error(EPROTO, "the server describes its doorbells in an unknown form");
  }
  if (reader.remaining() / stride < head.count)
    return Error(EPROTO, "the server describes more doorbells than it sent");
  for (std::uint32_t i = 0; i < head.count; ++i) {
    OUTBOARD_TRY(const Bytes bytes, reader.take(stride));
    OUTBOARD_TRY(auto entry, ByteReader(bytes).read<spec::IoEventFd>());
    if (stride == sizeof(spec::IoEventFdWithShadow)) {
      OUTBOARD_TRY(const auto longer, ByteReader(bytes).read<spec::IoEventFdWithShadow>());
      entry.datamatch = longer.datamatch;
    }
    if (entry.type == spec::io_fd_type::ioeventfd) entries.push_back(entry);
  }
  return entries;
}

/// A server that does not know the command has no doorbells. Servers say so in different ways.
bool is_unknown_command(const Error& error) {
  return error.code() == ENOTSUP || error.code() == ENOSYS || error.code() == EINVAL;
}

bool is_width(std::uint64_t size) { return size == 0 || size == 1 || size == 2 || size == 4 || size == 8; }

}  // namespace

Result<std::vector<pci::IoEventFd>> ClientDoorbells::of(unsigned region) {
  Known& known = known_[region];
  if (!known.asked) {
    OUTBOARD_CHECK(connection_.may_wait());
    OUTBOARD_CHECK(ask_for(region));
  }
  return known.list;
}

/// Takes the reply about a region's doorbells. Returns the reply size that a second try needs, or 0 when the list is complete.
Result<std::uint32_t> ClientDoorbells::take(unsigned region, Requests::Reply& reply, std::uint32_t asked) {
  OUTBOARD_TRY(const auto head, ByteReader(reply.payload).read<spec::RegionIoFds>());
  if (head.argsz > asked) return head.argsz;
  OUTBOARD_TRY(const auto entries, parse_doorbells(reply.payload));
  Known& bells = known_[region];
  for (auto& fd : reply.fds) {
    // Some servers send shared memory with their doorbells: it keeps its index, and is no doorbell.
    auto eventfd = adopt_eventfd(std::move(fd));
    bells.fds.push_back(eventfd ? std::move(*eventfd) : EventFd());
  }
  for (const auto& entry : entries) {
    const bool fits = is_width(entry.size) && entry.fd_index < bells.fds.size() && bells.fds[entry.fd_index].valid() &&
                      range_within(entry.offset, std::max<std::uint64_t>(entry.size, 1),
                                   connection_.description().regions[region].info.size);
    if (!fits) continue;
    pci::IoEventFd bell{.offset = entry.offset,
                        .size = static_cast<std::uint32_t>(entry.size),
                        .fd = &bells.fds[entry.fd_index],
                        .datamatch = {}};
    if ((entry.flags & spec::ioeventfd_flag::datamatch) != 0) bell.datamatch = entry.datamatch;
    bells.list.push_back(bell);
  }
  return 0u;
}

const EventFd* ClientDoorbells::find(const std::vector<pci::IoEventFd>& list, const pci::IoEventFd& wanted) {
  for (const pci::IoEventFd& each : list) {
    if (each.offset == wanted.offset && each.size == wanted.size && each.datamatch == wanted.datamatch) return each.fd;
  }
  return nullptr;
}

Result<std::vector<ClientDoorbells::Pair>> ClientDoorbells::match(ClientDoorbells& server) {
  std::vector<Pair> pairs;
  for (unsigned region = 0; region < known_.size(); ++region) {
    if (known_[region].list.empty()) continue;
    OUTBOARD_CHECK(server.of(region));
    for (const pci::IoEventFd& bell : known_[region].list) {
      const EventFd* theirs = find(server.known_[region].list, bell);
      if (theirs == nullptr)
        return Error(ENOTSUP, "the server has other doorbells in region " + std::to_string(region));
      pairs.push_back({&known_[region].fds[static_cast<std::size_t>(bell.fd - known_[region].fds.data())], theirs});
    }
  }
  return pairs;
}

Status ClientDoorbells::ring(const std::vector<Pair>& pairs) {
  for (const Pair& pair : pairs) OUTBOARD_CHECK(pair.ours->become(*pair.theirs));
  return {};
}

Status ClientDoorbells::ask_for(unsigned region) {
  std::uint32_t room = usual_room;
  for (int attempt = 0; attempt < 2 && room != 0; ++attempt) {
    const spec::RegionIoFds question{.argsz = room, .flags = 0, .index = region, .count = 0};
    std::uint32_t needed = 0;
    const auto asked = ask(connection_.requests(),
                           {.command = Command::device_get_region_io_fds,
                            .head = as_bytes_of(question),
                            .min_reply = sizeof question,
                            .max_reply = room,
                            .reply_has_fds = true},
                           [&](Requests::Reply& reply) -> Status {
                             OUTBOARD_TRY(needed, take(region, reply, room));
                             return {};
                           });
    if (!asked && !is_unknown_command(asked.error())) return connection_.named(asked.error());
    room = needed <= max_room ? needed : 0;
  }
  known_[region].asked = true;
  return {};
}

}  // namespace outboard::vfio_user
