#include <outboard/vfio_user/client_state.hpp>

#include <sys/epoll.h>

#include <algorithm>

#include <outboard/vfio_user/received_eventfd.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using spec::Command;

constexpr std::uint32_t usual_doorbell_room = 4096, largest_doorbell_room = 65536;

Capabilities our_capabilities() { return {.max_msg_fds = spec::kernel_max_fds, .write_multiple = true}; }

Requests::Options request_options(const Client::Options& options) {
  return {
      .channel = {.max_message = sizeof(spec::Header) + sizeof(spec::RegionAccess) + spec::default_max_data_xfer_size,
                  .max_fds = spec::kernel_max_fds},
      .timeout = options.timeout,
      .on_timeout = options.on_timeout == Client::OnTimeout::end ? Requests::OnTimeout::end : Requests::OnTimeout::stay,
      .spin = options.spin};
}

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

std::uint32_t dma_flags(memory::Access access) {
  return (allows(access, memory::Access::read) ? abi::dma_map_flag::read : 0) |
         (allows(access, memory::Access::write) ? abi::dma_map_flag::write : 0);
}

bool is_width(std::uint64_t size) { return size == 0 || size == 1 || size == 2 || size == 4 || size == 8; }

}  // namespace

// Setting up.

Client::State::State(UniqueFd socket, std::string given_name, Options given_options)
    : options_(std::move(given_options)),
      name_(std::move(given_name)),
      served_(spec::default_max_data_xfer_size),
      requests_(
          std::move(socket), request_options(options_),
          [this](const Message& command, Channel& channel) { return served_.serve(command, channel); },
          [this] { revoke(); }, [this] { update_poll(); }) {}

Status Client::State::start() {
  OUTBOARD_TRY(description_.server, negotiate(requests_, our_capabilities()));
  if (description_.server.write_multiple) requests_.merge_writes();
  served_.set_max_transfer(std::min(description_.server.max_data_xfer_size, spec::default_max_data_xfer_size));
  OUTBOARD_CHECK(discover(requests_, description_, options_.log));
  dma_.emplace(*this);
  return {};
}

Status Client::State::may_wait() const {
  if (in_handler_) return named(Error(EDEADLK, "a call from inside an event handler would wait for itself"));
  if (requests_.broken()) return named(*requests_.broken());
  return {};
}

Status Client::State::ask_named(const Requests::Request& request) {
  OUTBOARD_CHECK(may_wait());
  if (auto done = ask(requests_, request); !done) return named(done.error());
  return {};
}

// Memory.

Status Client::State::map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
                          std::uint64_t offset) {
  OUTBOARD_CHECK(may_wait());
  const bool by_file = fd != nullptr && description_.server.max_msg_fds != 0;
  const spec::DmaMap message{.argsz = sizeof(spec::DmaMap),
                             .flags = dma_flags(access),
                             .offset = by_file ? offset : 0,
                             .address = raw(range.start),
                             .size = range.size};
  const int attached = by_file ? fd->get() : -1;
  // Before the server knows of it: it may use it before we have its answer.
  served_.add(range, memory.data(), access);
  const auto mapped = ask(requests_, {.command = Command::dma_map,
                                      .head = as_bytes_of(message),
                                      .fds = std::span<const int>(&attached, by_file ? 1 : 0),
                                      .max_reply = sizeof message});
  if (mapped) return {};
  served_.remove(range);
  return Error(mapped.error()).while_doing("mapping memory for DMA").on(name_);
}

void Client::State::unmap_all() {
  if (served_.windows() < 2 || !may_wait()) return;
  const spec::DmaUnmap message{
      .argsz = sizeof(spec::DmaUnmap), .flags = abi::dma_unmap_flag::all, .address = 0, .size = 0};
  const auto unmapped =
      ask(requests_, {.command = Command::dma_unmap, .head = as_bytes_of(message), .max_reply = sizeof message});
  all_unmapped_ = unmapped.has_value();
  if (!unmapped) options_.log.debug("{}: memory goes piece by piece: {}", name_, unmapped.error().message());
}

Status Client::State::unmap(memory::IovaRange range) {
  if (all_unmapped_) {
    served_.remove(range);
    return {};
  }
  OUTBOARD_CHECK(may_wait());
  const spec::DmaUnmap message{
      .argsz = sizeof(spec::DmaUnmap), .flags = 0, .address = raw(range.start), .size = range.size};
  const auto unmapped =
      ask(requests_, {.command = Command::dma_unmap, .head = as_bytes_of(message), .max_reply = sizeof message});
  // Whatever the server says: the memory is going.
  served_.remove(range);
  if (unmapped) return {};
  return Error(unmapped.error()).while_doing("taking DMA memory back").on(name_);
}

memory::DmaSpace::Limits Client::State::limits() const {
  return {.page_size = description_.server.pgsizes & (~description_.server.pgsizes + 1),
          .max_mappings = description_.server.max_dma_maps,
          .valid = memory::DmaSpace::Limits::all_but_first_page()};
}

// Regions.

Status Client::State::check_access(unsigned region, std::uint64_t offset, std::uint64_t size) const {
  if (region >= description_.regions.size())
    return named(Error(EINVAL, "there is no region " + std::to_string(region)));
  const auto& known = description_.regions[region];
  if (known.refused) return named(*known.refused);
  if (range_within(offset, size, known.info.size)) return {};
  return named(Error(EINVAL, "an access beyond the end of region " + std::to_string(region)));
}

std::uint64_t Client::State::max_transfer() const {
  return std::min(description_.server.max_data_xfer_size, spec::default_max_data_xfer_size);
}

Status Client::State::read(const spec::RegionAccess& access, MutableBytes into) {
  return ask(requests_,
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
               std::ranges::copy(reader.rest(), into.begin());
               return {};
             });
}

Status Client::State::write(const spec::RegionAccess& access, Bytes from) {
  return ask(requests_,
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

Result<pci::Window> Client::State::window(unsigned region, std::uint64_t offset, std::uint64_t length) {
  OUTBOARD_CHECK(check_access(region, offset, length));
  if (requests_.broken()) return named(*requests_.broken());
  for (const MappedArea& mapped : mapped_[region]) {
    if (mapped.contains(offset, length)) return mapped.window(offset, length);
  }
  const auto& known = description_.regions[region];
  for (const pci::MmapArea& area : known.info.areas) {
    if (length == 0 || offset < area.offset || !range_within(offset - area.offset, length, area.size)) continue;
    const auto access = known.info.writable ? memory::Access::read_write : memory::Access::read;
    // Not the whole area: its size is the server's word, and each page has to be covered again when the server goes.
    auto mapped = MappedArea::map(known.fd, known.info.fd_offset, pages_around(offset, length), access);
    if (!mapped) return Error(ENOTSUP, mapped.error().what()).while_doing("mapping a part of a BAR").on(name_);
    mapped_[region].push_back(std::move(*mapped));
    return mapped_[region].back().window(offset, length);
  }
  return named(Error(ENOTSUP, "this part of region " + std::to_string(region) + " cannot be mapped"));
}

/// Takes the reply about a region's doorbells. Returns how much room a second try must leave, or 0 when this was all.
Result<std::uint32_t> Client::State::take_doorbells(unsigned region, Requests::Reply& reply, std::uint32_t asked) {
  OUTBOARD_TRY(const auto head, ByteReader(reply.payload).read<spec::RegionIoFds>());
  if (head.argsz > asked) return head.argsz;
  OUTBOARD_TRY(const auto entries, parse_doorbells(reply.payload));
  Doorbells& bells = doorbells_[region];
  for (auto& fd : reply.fds) {
    // Shared memory comes with the doorbells of some servers: it keeps its number, and rings nothing.
    auto eventfd = adopt_eventfd(std::move(fd));
    bells.fds.push_back(eventfd ? std::move(*eventfd) : EventFd());
  }
  for (const auto& entry : entries) {
    const bool fits =
        is_width(entry.size) && entry.fd_index < bells.fds.size() && bells.fds[entry.fd_index].valid() &&
        range_within(entry.offset, std::max<std::uint64_t>(entry.size, 1), description_.regions[region].info.size);
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

Status Client::State::get_doorbells(unsigned region) {
  std::uint32_t room = usual_doorbell_room;
  for (int attempt = 0; attempt < 2 && room != 0; ++attempt) {
    const spec::RegionIoFds question{.argsz = room, .flags = 0, .index = region, .count = 0};
    std::uint32_t needed = 0;
    const auto asked = ask(requests_,
                           {.command = Command::device_get_region_io_fds,
                            .head = as_bytes_of(question),
                            .min_reply = sizeof question,
                            .max_reply = room,
                            .reply_has_fds = true},
                           [&](Requests::Reply& reply) -> Status {
                             OUTBOARD_TRY(needed, take_doorbells(region, reply, room));
                             return {};
                           });
    if (!asked && !is_unknown_command(asked.error())) return named(asked.error());
    room = needed <= largest_doorbell_room ? needed : 0;
  }
  doorbells_[region].known = true;
  return {};
}

// Interrupts.

Status Client::State::set_irqs(const abi::IrqSet& set, std::span<const int> fds) {
  return ask_named({.command = Command::device_set_irqs, .head = as_bytes_of(set), .fds = fds});
}

Status Client::State::act_on_irqs(std::uint32_t action, pci::InterruptKind kind, std::uint32_t start,
                                  std::uint32_t count) {
  return set_irqs({.argsz = sizeof(abi::IrqSet),
                   .flags = abi::irq_set_flag::data_none | action,
                   .index = static_cast<std::uint32_t>(kind),
                   .start = start,
                   .count = count},
                  {});
}

/// In messages of as many descriptors as the server takes, all on their way at once. Vectors without an eventfd go in
/// messages without descriptors.
Status Client::State::bind(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  OUTBOARD_CHECK(may_wait());
  const std::size_t most = std::min<std::uint64_t>(description_.server.max_msg_fds, spec::kernel_max_fds);
  const bool any = std::ranges::any_of(eventfds, &EventFd::valid);
  if (any && most == 0) return named(Error(ENOTSUP, "the server takes no file descriptors, so no interrupts"));
  std::optional<Error> first_error;
  Batch batch(requests_);
  for (std::size_t i = 0; i < eventfds.size();) {
    const bool valid = eventfds[i].valid();
    std::vector<int> fds;
    std::size_t run = 0;
    while (i + run < eventfds.size() && eventfds[i + run].valid() == valid && (!valid || run < most)) {
      if (valid) fds.push_back(eventfds[i + run].get());
      ++run;
    }
    const abi::IrqSet set{.argsz = sizeof(abi::IrqSet),
                          .flags = abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_trigger,
                          .index = static_cast<std::uint32_t>(kind),
                          .start = static_cast<std::uint32_t>(start + i),
                          .count = static_cast<std::uint32_t>(run)};
    batch.add({.command = Command::device_set_irqs, .head = as_bytes_of(set), .fds = fds},
              [&first_error](const Result<Requests::Reply>& reply) {
                if (!reply && !first_error) first_error = reply.error();
              });
    i += run;
  }
  batch.wait();
  if (!first_error) return {};
  return Error(*first_error).while_doing("binding interrupts").on(name_);
}

// Events.

/// One descriptor for the socket and what signals events.
int Client::State::poll_fd() {
  if (poll_) return poll_.get();
  poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{.events = EPOLLIN, .data = {}};
  ::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, requests_.fd(), &event);
  for (const EventFd* eventfd : {&error_event_, &request_event_}) {
    if (eventfd->valid()) ::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, eventfd->get(), &event);
  }
  update_poll();
  return poll_.get();
}

void Client::State::update_poll() {
  if (!poll_ || told_gone_ || requests_.wants_write() == poll_writes_) return;
  poll_writes_ = requests_.wants_write();
  epoll_event event{.events = poll_writes_ ? EPOLLIN | EPOLLOUT : std::uint32_t{EPOLLIN}, .data = {}};
  ::epoll_ctl(poll_.get(), EPOLL_CTL_MOD, requests_.fd(), &event);
}

/// Asks the server for errors and unplug requests, where it has them, and does not wait for the answer: without them life
/// goes on.
Status Client::State::watch_events() {
  if (std::exchange(events_bound_, true) || description_.server.max_msg_fds == 0) return {};
  for (const auto& [kind, eventfd] :
       {std::pair{pci::InterruptKind::error, &error_event_}, std::pair{pci::InterruptKind::request, &request_event_}}) {
    if (description_.interrupts[static_cast<std::size_t>(kind)].count == 0) continue;
    OUTBOARD_TRY(*eventfd, EventFd::create());
    const int fd = eventfd->get();
    const abi::IrqSet set{.argsz = sizeof(abi::IrqSet),
                          .flags = abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_trigger,
                          .index = static_cast<std::uint32_t>(kind),
                          .start = 0,
                          .count = 1};
    requests_.start(
        {.command = Command::device_set_irqs, .head = as_bytes_of(set), .fds = std::span<const int>(&fd, 1)},
        [this](const Result<Requests::Reply>& reply) {
          if (!reply) options_.log.info("{}: no events: {}", name_, reply.error().message());
        });
    if (!poll_) continue;
    epoll_event event{.events = EPOLLIN, .data = {}};
    ::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, eventfd->get(), &event);
  }
  return {};
}

void Client::State::revoke() {
  for (const auto& areas : mapped_) {
    for (const MappedArea& area : areas) area.revoke();
  }
}

}  // namespace outboard::vfio_user
