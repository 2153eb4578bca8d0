#include <outboard/vfio_user/session.hpp>

#include <poll.h>

#include <algorithm>

#include <outboard/vfio_user/dma_commands.hpp>
#include <outboard/vfio_user/irq_commands.hpp>
#include <outboard/vfio_user/scratch.hpp>

namespace outboard::vfio_user {
namespace {

using spec::Command;

/// With more than this unread by the client, its further commands wait.
constexpr std::size_t high_water = std::size_t{256} << 10;
/// Whoever connects and says nothing keeps others from the function no longer than this.
constexpr Duration version_deadline = std::chrono::seconds(5);

bool is_known(std::uint16_t command) {
  return command >= static_cast<std::uint16_t>(Command::version) &&
         command <= static_cast<std::uint16_t>(Command::mig_data_write) && command != 14;
}

/// SPDK's client sends the file of the memory with DMA_UNMAP, too: nobody needs it, and it is closed.
bool may_bring_fds(Command command) {
  return command == Command::dma_map || command == Command::dma_unmap || command == Command::device_set_irqs;
}

std::span<const std::byte> bytes_of(const std::vector<std::byte>& bytes) { return bytes; }

}  // namespace

Session::Session(UniqueFd socket, Loop& loop, pci::Function& function, Log log, const Limits& limits)
    : loop_(loop),
      function_(&function),
      log_(std::move(log)),
      limits_(limits),
      descriptors_(limits.share, 1),
      channel_(std::move(socket),
               {.max_message = sizeof(spec::Header) + sizeof(spec::RegionAccess) + limits.max_data_transfer,
                .max_fds = limits.max_fds,
                .max_queued = limits.max_queued}),
      regions_(function, limits.max_data_transfer),
      files_(limits.share) {}

Status Session::start(Loop::Task ended) {
  on_ended_ = std::move(ended);
  OUTBOARD_TRY(watch_, loop_.watch(channel_.fd(), interest_, [this](Ready ready) { on_ready(ready); }));
  update_stall_timer();
  return {};
}

void Session::abandon() {
  function_ = nullptr;
  on_ended_ = nullptr;
  ended_ = true;
  watch_.reset();
  slow_timer_.reset();
  stall_timer_.reset();
  if (messages_) messages_->close(Error(ECONNRESET, "the server ends"));
  channel_.close();
}

bool Session::peer_hung_up() const {
  pollfd state{.fd = channel_.fd(), .events = POLLRDHUP, .revents = 0};
  return !ended_ && ::poll(&state, 1, 0) == 1 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

// Reading and the order of things.

void Session::on_ready(Ready ready) {
  const auto self = shared_from_this();
  if (has(ready, Ready::writable)) {
    if (auto flushed = channel_.flush(); !flushed) return end(flushed.error());
  }
  if (has(ready, Ready::readable) || has(ready, Ready::hangup)) {
    read_once();
  } else {
    process();
  }
}

/// Once for each turn of the loop, which is a message or about a thousand bytes: a client that floods us does not keep others
/// waiting, and one that has sent more than we took makes the descriptor readable again.
void Session::read_once() {
  if (!blocked_) {
    const auto received = channel_.receive(Channel::Wait::no);
    if (!received) return end(received.error());
    if (*received == Channel::Received::end) return end(Error(ECONNRESET, "the client has closed the connection"));
  }
  process();
}

void Session::process() {
  if (processing_ || ended_) return;  // from inside a command: the loop below goes on when that returns
  processing_ = true;
  const auto done = process_messages();
  processing_ = false;
  if (!done) return end(done.error());
  if (ended_) return;
  update_interest();
  update_stall_timer();
}

Status Session::process_messages() {
  blocked_ = false;
  while (!ended_) {
    OUTBOARD_TRY(const bool ready, channel_.ready());
    if (!ready) return {};
    const bool is_reply = (channel_.front().flags & spec::flag::type_mask) == spec::flag::reply;
    const bool held_back = operation_.running && !operation_.answered;
    const bool unread = channel_.queued() > high_water || channel_.queued_fds() > max_queued_fds;
    if ((held_back && !is_reply) || unread) {
      blocked_ = true;
      return {};
    }
    OUTBOARD_CHECK(dispatch(channel_.take()));
  }
  return {};
}

void Session::update_interest() {
  Ready wanted = blocked_ ? Ready::none : Ready::readable;
  if (channel_.queued() != 0) wanted = wanted | Ready::writable;
  if (wanted == interest_) return;
  if (auto changed = loop_.rewatch(watch_, wanted); !changed) return end(changed.error());
  interest_ = wanted;
}

void Session::update_stall_timer() {
  const bool waiting = !negotiated_ || channel_.partial() || channel_.queued() != 0;
  if (!waiting) stall_timer_.reset();
  if (!waiting || stall_timer_.active() || ended_) return;
  stalled_consumed_ = channel_.consumed();
  stalled_sent_ = channel_.sent();
  const Duration limit = negotiated_ ? limits_.stall_deadline : std::min(limits_.stall_deadline, version_deadline);
  stall_timer_ = loop_.after(limit, [this] { check_stall(); });
}

void Session::check_stall() {
  stall_timer_.reset();
  const bool no_command = !negotiated_ || (channel_.partial() && !blocked_);
  if (no_command && channel_.consumed() == stalled_consumed_) {
    return end(Error(ETIMEDOUT, negotiated_ ? "the client began a message and did not end it"
                                            : "the client connected and did not begin with VERSION"));
  }
  if (channel_.queued() != 0 && channel_.sent() == stalled_sent_) {
    return end(Error(ETIMEDOUT, "the client does not read what it is sent"));
  }
  update_stall_timer();
}

// Commands.

Status Session::dispatch(Message message) {
  if (message.is_reply()) {
    if (!messages_) return Error(EPROTO, "a reply that answers nothing");
    return messages_->reply(message);
  }
  if (!negotiated_) return negotiate(message);
  const std::uint16_t number = message.header.command;
  if (message.fds_lost) return refuse(message.header, Error(EINVAL, "more file descriptors than we take"));
  if (!is_known(number)) return refuse(message.header, Error(ENOSYS, "unknown command " + std::to_string(number)));
  if (!message.fds.empty() && !may_bring_fds(static_cast<Command>(number))) {
    return refuse(message.header, Error(EINVAL, "file descriptors with a command that takes none"));
  }
  return dispatch_command(message);
}

Status Session::dispatch_command(Message& message) {
  const spec::Header& header = message.header;
  switch (static_cast<Command>(header.command)) {
    case Command::region_read:
      return region_read(message);
    case Command::region_write:
      return region_write(message);
    case Command::region_write_multi:
      return region_write_multi(message);
    case Command::dma_map:
      return dma_map(message);
    case Command::dma_unmap:
      return dma_unmap(message);
    case Command::device_get_info:
      return answer(header, get_device_info(*function_, message.payload));
    case Command::device_get_region_info:
      return answer(header, get_region_info(*function_, message.payload, client_max_fds_));
    case Command::device_get_region_io_fds:
      return answer(header, get_region_io_fds(*function_, message.payload, client_max_fds_));
    case Command::device_get_irq_info:
      return answer(header, get_irq_info(*function_, message.payload));
    case Command::device_set_irqs:
      return bind_interrupts(message);
    case Command::device_reset:
      return reset(message);
    case Command::version:
      return refuse(header, Error(EINVAL, "VERSION has been negotiated already"));
    case Command::dma_read:
    case Command::dma_write:
      return refuse(header, Error(EINVAL, "a DMA command is for the client"));
    case Command::device_feature:
    case Command::mig_data_read:
    case Command::mig_data_write:
      break;
  }
  return refuse(header, Error(ENOTSUP, "command " + std::to_string(header.command) + " is not offered"));
}

/// The first message. Whatever is wrong with it is told, and ends the connection.
Status Session::negotiate(const Message& message) {
  const auto accepted = accept_version(message);
  if (accepted) return {};
  const Error& error = accepted.error();
  OUTBOARD_CHECK(refuse(message.header, error));
  return error;
}

Status Session::accept_version(const Message& message) {
  if (message.header.command != static_cast<std::uint16_t>(Command::version)) {
    return Error(EINVAL, "the client did not begin with VERSION");
  }
  if (!message.fds.empty() || message.fds_lost) return Error(EINVAL, "VERSION with file descriptors");
  if (!message.wants_reply()) return Error(EINVAL, "VERSION that wants no reply");
  OUTBOARD_TRY(const auto theirs, parse_version(message.payload));
  if (theirs.version.major != spec::version_major) {
    return Error(EINVAL, "the client speaks version " + std::to_string(theirs.version.major) + " of vfio-user, not " +
                             std::to_string(spec::version_major));
  }
  const Capabilities& client = theirs.capabilities;
  client_max_fds_ = static_cast<unsigned>(std::min<std::uint64_t>(client.max_msg_fds, spec::kernel_max_fds));
  write_multiple_ = client.write_multiple;
  messages_ = std::make_shared<MessageDma>(
      loop_, channel_,
      MessageDma::Limits{.max_transfer = std::min({std::uint64_t{limits_.max_data_transfer}, client.max_data_xfer_size,
                                                   spec::longest_dma_message}),
                         .deadline = limits_.dma_deadline},
      [this](const Error& why) { end(why); });
  negotiated_ = true;
  VersionMessage ours;
  ours.version.minor = std::min(theirs.version.minor, spec::version_minor);
  ours.capabilities.max_msg_fds = limits_.max_fds;
  ours.capabilities.max_data_xfer_size = limits_.max_data_transfer;
  ours.capabilities.write_multiple = write_multiple_;
  // What can be had whatever files the windows are on. More are taken as long as there is room.
  if (limits_.share) {
    ours.capabilities.max_dma_maps = std::min(spec::default_max_dma_maps, limits_.share->guaranteed_mappings());
  }
  return reply(message.header, build_version(ours));
}

Status Session::dma_map(Message& message) {
  auto mapping = mapping_for(message.payload, std::move(message.fds), files_, messages_);
  const auto mapped = mapping ? function_->map(std::move(*mapping)) : Status(mapping.error());
  // Without its memory a device does not work, and most clients go on as if nothing were wrong.
  const int code = mapped ? 0 : mapped.error().code();
  if (code == ENOTSUP || code == ENOSPC) {
    const std::string& cure = mapped.error().cure();
    log_.error("memory of the client cannot be used: {}{}{}", mapped.error().message(), cure.empty() ? "" : "; ", cure);
  }
  return answer(message.header, mapped);
}

Status Session::dma_unmap(const Message& message) {
  const auto unmap = parse_unmap(message.payload);
  if (!unmap) return refuse(message.header, unmap.error());
  if (operation_.running) return refuse(message.header, Error(EBUSY, "an earlier unmap or reset is still in progress"));
  auto done = begin_operation(message.header, as_bytes_of(unmap->echo));
  if (unmap->all) {
    function_->unmap_all(std::move(done));
  } else {
    function_->unmap(unmap->range, std::move(done));
  }
  if (operation_.refused) return {};  // nothing was taken away
  // The client answers no DMA message while it waits for us: those in the range must not be waited for.
  const Error gone(EFAULT, "the client has taken this memory away");
  if (unmap->all) {
    messages_->cancel_all(gone);
  } else {
    messages_->cancel(unmap->range, gone);
  }
  return operation_started();
}

Status Session::reset(const Message& message) {
  if (!function_->resettable()) return refuse(message.header, Error(ENOTSUP, "this function cannot be reset"));
  if (operation_.running) return refuse(message.header, Error(EBUSY, "an earlier unmap or reset is still in progress"));
  function_->reset(begin_operation(message.header, {}));
  if (operation_.refused) return {};
  messages_->cancel_all(Error(ECANCELED, "the device is being reset"));
  return operation_started();
}

Status Session::bind_interrupts(Message& message) {
  const auto done = set_irqs(*function_, message.payload, std::move(message.fds), bindings_);
  count_eventfds();
  return answer(message.header, done);
}

void Session::count_eventfds() {
  if (limits_.eventfds) limits_.eventfds->set(function_->held_eventfds());
}

Status Session::region_read(const Message& message) {
  const ScratchUse use(scratch_);
  const auto access = ByteReader(message.payload).read<spec::RegionAccess>();
  if (!access) return refuse(message.header, access.error());
  if (auto checked = regions_.check_read(*access); !checked) return refuse(message.header, checked.error());
  const std::size_t size = sizeof(spec::Header) + sizeof *access + access->count;
  scratch_.assign(size, std::byte{0});
  const spec::Header header{.msg_id = message.header.msg_id,
                            .command = message.header.command,
                            .msg_size = static_cast<std::uint32_t>(size),
                            .flags = spec::flag::reply,
                            .error = 0};
  std::memcpy(scratch_.data(), &header, sizeof header);
  std::memcpy(scratch_.data() + sizeof header, &*access, sizeof *access);
  const auto read = regions_.read(*access, MutableBytes(scratch_).subspan(sizeof header + sizeof *access));
  if (!read) return refuse(message.header, read.error());
  if (ended_ || !message.wants_reply()) return {};
  return channel_.send(scratch_);
}

Status Session::region_write(const Message& message) {
  ByteReader reader(message.payload);
  const auto access = reader.read<spec::RegionAccess>();
  if (!access) return refuse(message.header, access.error());
  if (auto written = regions_.write(*access, reader.rest()); !written) return refuse(message.header, written.error());
  return reply(message.header, as_bytes_of(*access));
}

Status Session::region_write_multi(const Message& message) {
  if (!write_multiple_) return refuse(message.header, Error(ENOTSUP, "WRITE_MULTI was not agreed on"));
  const auto result = regions_.write_multi(message.payload);
  if (!result.status) return refuse(message.header, result.status.error());
  return reply(message.header, as_bytes_of(spec::WriteMulti{.wr_cnt = result.written}));
}

// Answers.

Status Session::answer(const spec::Header& request, Result<Answer> result) {
  if (!result) return refuse(request, result.error());
  return reply(request, result->payload, {}, result->fds);
}

Status Session::answer(const spec::Header& request, const Status& result) {
  if (!result) return refuse(request, result.error());
  return reply(request, {});
}

/// Sends header and payload in one piece: some clients read them no other way.
Status Session::reply(const spec::Header& request, Bytes payload, Bytes data, std::span<const int> fds) {
  if (ended_ || (request.flags & spec::flag::no_reply) != 0) return {};
  const spec::Header header{.msg_id = request.msg_id,
                            .command = request.command,
                            .msg_size = static_cast<std::uint32_t>(sizeof(spec::Header) + payload.size() + data.size()),
                            .flags = spec::flag::reply,
                            .error = 0};
  scratch_.resize(sizeof header + payload.size());
  std::memcpy(scratch_.data(), &header, sizeof header);
  std::ranges::copy(payload, scratch_.begin() + sizeof header);
  return channel_.send(scratch_, data, fds);
}

Status Session::refuse(const spec::Header& request, const Error& error) {
  if (ended_) return {};
  if ((request.flags & spec::flag::no_reply) != 0) {
    ++failed_posted_;
    log_.debug("a posted command {} failed: {}", request.command, error.message());
    return {};
  }
  log_.debug("command {} is refused: {}", request.command, error.message());
  const spec::Header header{.msg_id = request.msg_id,
                            .command = request.command,
                            .msg_size = sizeof(spec::Header),
                            .flags = spec::flag::reply | spec::flag::error,
                            .error = static_cast<std::uint32_t>(error.code())};
  return channel_.send(as_bytes_of(header));
}

// Operations.

pci::Function::Completion Session::begin_operation(const spec::Header& request, Bytes echo) {
  operation_.request = request;
  operation_.echo.assign(echo.begin(), echo.end());
  operation_.running = true;
  operation_.answered = false;
  operation_.refused = false;
  return [weak = weak_from_this()](const Status& result) {
    if (const auto self = weak.lock()) self->operation_done(result);
  };
}

/// After the call into the function has returned: what has not ended by now is given a limited time.
Status Session::operation_started() {
  if (!operation_.running || ended_) return {};
  slow_timer_ = loop_.after(limits_.slow_operation, [this] { operation_slow(); });
  return {};
}

void Session::operation_done(const Status& result) {
  if (!operation_.running || function_ == nullptr) return;
  operation_.running = false;
  operation_.refused = !result;
  slow_timer_.reset();
  if (ended_) return releasing_ ? released() : schedule_release();
  if (operation_.answered) {
    log_.warning("the device has ended an unmap or reset that had been given up");
  } else if (auto answered = answer_operation(result); !answered) {
    return end(answered.error());
  }
  process();
}

Status Session::answer_operation(const Status& result) {
  if (!result) return refuse(operation_.request, result.error());
  return reply(operation_.request, bytes_of(operation_.echo));
}

/// A client must have its answer, or it gives the connection up; the device goes on and is not to be trusted.
void Session::operation_slow() {
  slow_timer_.reset();
  if (releasing_) return log_.error("the device still uses the memory of the client that has gone");
  const bool is_reset = operation_.request.command == static_cast<std::uint16_t>(Command::device_reset);
  log_.error("the device takes too long for {}; the client is told that it failed", is_reset ? "a reset" : "an unmap");
  if (!is_reset) function_->unmap_is_late("requests did not let go of memory that the client has taken away");
  operation_.answered = true;
  if (auto answered = answer_operation(Error(ETIMEDOUT, "the device takes too long")); !answered) {
    return end(answered.error());
  }
  process();
}

// The end.

void Session::end(const Error& why) {
  if (ended_) return;
  const auto self = shared_from_this();
  ended_ = true;
  log_.info("the connection ends: {}", why.message());
  watch_.reset();
  stall_timer_.reset();
  slow_timer_.reset();
  // First those who use the client's memory by messages, then the memory.
  if (messages_) messages_->close(Error(ECONNRESET, "the client is gone"));
  channel_.close();
  if (!operation_.running) schedule_release();
}

/// Not at once: whatever went wrong may have done so inside a call into the function.
void Session::schedule_release() {
  loop_.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->release();
  });
}

void Session::release() {
  if (function_ == nullptr) return;
  releasing_ = true;
  function_->release_client(begin_operation({}, {}));
  if (operation_.running) slow_timer_ = loop_.after(limits_.slow_operation, [this] { operation_slow(); });
}

void Session::released() {
  releasing_ = false;
  count_eventfds();
  loop_.post([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self && self->on_ended_) std::exchange(self->on_ended_, nullptr)();
  });
}

}  // namespace outboard::vfio_user
