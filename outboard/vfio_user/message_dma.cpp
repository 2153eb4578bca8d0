#include <outboard/vfio_user/message_dma.hpp>

#include <algorithm>

namespace outboard::vfio_user {
namespace {

constexpr std::uint32_t largest_errno = 4095;

/// The error of an error reply; never 0, whatever was sent.
Error error_of(const spec::Header& header) {
  const bool sane = header.error != 0 && header.error <= largest_errno;
  return Error(sane ? static_cast<int>(header.error) : EIO, "the client refused a DMA message");
}

}  // namespace

MessageDma::MessageDma(Loop& loop, Channel& channel, Limits limits, std::move_only_function<void(Error)> broken)
    : loop_(loop), channel_(&channel), limits_(limits), broken_(std::move(broken)) {}

std::uint64_t MessageDma::max_transfer() const {
  // Never 0: whoever splits a transfer by it would not get on. The transfer itself fails then.
  return limits_.max_transfer != 0 ? limits_.max_transfer : spec::longest_dma_message;
}

void MessageDma::read(memory::Iova address, MutableBytes into, Completion done) {
  start(Transfer{.command = spec::Command::dma_read, .address = address, .into = into, .done = std::move(done)});
}

void MessageDma::write(memory::Iova address, Bytes from, Completion done) {
  start(Transfer{.command = spec::Command::dma_write, .address = address, .from = from, .done = std::move(done)});
}

void MessageDma::start(Transfer transfer) {
  if (channel_ == nullptr) return transfer.done(Error(ECONNRESET, "the client that has this memory is gone"));
  if (transfer.size() == 0) return transfer.done({});
  if (transfer.size() > limits_.max_transfer) {
    const bool none = limits_.max_transfer == 0;
    return transfer.done(none ? Error(ENOTSUP, "the client takes no DMA messages")
                              : Error(E2BIG, "a DMA message of " + std::to_string(transfer.size()) + " bytes"));
  }
  if (waiting_.size() >= limits_.max_waiting) return transfer.done(Error(EAGAIN, "too many DMA messages are waiting"));
  waiting_.push_back(std::move(transfer));
  send_waiting();
}

void MessageDma::send_waiting() {
  if (sending_) return;  // a completion started another transfer; the loop below sees it
  sending_ = true;
  while (channel_ != nullptr && !waiting_.empty() && sent_.size() < limits_.max_in_flight) {
    Transfer transfer = std::move(waiting_.front());
    waiting_.pop_front();
    if (auto sent = send(transfer); !sent) {
      transfer.done(sent.error());
      broken_(sent.error());
    } else {
      sent_.push_back(std::move(transfer));
    }
  }
  sending_ = false;
  watch_deadline();
}

Status MessageDma::send(Transfer& transfer) {
  transfer.id = new_id();
  transfer.deadline = loop_.clock().now() + limits_.deadline;
  struct {
    spec::Header header;
    spec::DmaAccess access;
  } const message{{.msg_id = transfer.id,
                   .command = static_cast<std::uint16_t>(transfer.command),
                   .msg_size = static_cast<std::uint32_t>(sizeof(message) + transfer.from.size()),
                   .flags = spec::flag::command,
                   .error = 0},
                  {.address = raw(transfer.address), .count = transfer.size()}};
  return channel_->send(as_bytes_of(message), transfer.from);
}

/// An id that no reply to come can have. At most max_in_flight + max_abandoned are taken, of 65536.
std::uint16_t MessageDma::new_id() {
  const auto taken = [this](std::uint16_t id) {
    return std::ranges::any_of(sent_, [id](const Transfer& one) { return one.id == id; }) ||
           std::ranges::any_of(abandoned_, [id](const Abandoned& one) { return one.id == id; });
  };
  while (taken(next_id_)) ++next_id_;
  return next_id_++;
}

Status MessageDma::reply(const Message& message) {
  const auto found = std::ranges::find(sent_, message.header.msg_id, &Transfer::id);
  if (found == sent_.end()) return drop_late_reply(message);
  if (static_cast<std::uint16_t>(found->command) != message.header.command) {
    return Error(EPROTO, "a reply for another command than the one it answers");
  }
  Transfer transfer = std::move(*found);
  sent_.erase(found);
  transfer.done(finish(transfer, message));
  send_waiting();
  return {};
}

Status MessageDma::drop_late_reply(const Message& message) {
  const auto found = std::ranges::find(abandoned_, message.header.msg_id, &Abandoned::id);
  if (found == abandoned_.end()) return Error(EPROTO, "a reply that answers nothing");
  if (static_cast<std::uint16_t>(found->command) != message.header.command) {
    return Error(EPROTO, "a reply for another command than the one it answers");
  }
  abandoned_.erase(found);
  return {};
}

/// Checks a reply and, for a read, copies what it brought.
Status MessageDma::finish(const Transfer& transfer, const Message& message) const {
  if (!message.fds.empty() || message.fds_lost) return Error(EPROTO, "a DMA reply came with file descriptors");
  if ((message.header.flags & spec::flag::error) != 0) return error_of(message.header);
  const bool reading = transfer.command == spec::Command::dma_read;
  ByteReader reader(message.payload);
  // The specification prints 12 bytes for the reply to a write, QEMU 10 sends none, everybody else 16.
  if (!reading && (message.payload.empty() || message.payload.size() == 12)) return {};
  const auto echo = reader.read<spec::DmaAccess>();
  if (!echo) return Error(EPROTO, "a DMA reply is too short");
  if (echo->address != raw(transfer.address) || echo->count != transfer.size() ||
      reader.remaining() != transfer.into.size()) {
    return Error(EPROTO, "a DMA reply is not for what was asked");
  }
  std::ranges::copy(reader.rest(), transfer.into.begin());
  return {};
}

/// Ends the transfers that `match`. Completions may start others, which are not touched.
template <typename Match>
void MessageDma::end_matching(const Error& error, Match&& match) {
  std::vector<Transfer> ended;
  for (auto at = sent_.begin(); at != sent_.end();) {
    if (!match(*at)) {
      ++at;
      continue;
    }
    abandoned_.push_back({at->id, at->command});
    ended.push_back(std::move(*at));
    at = sent_.erase(at);
  }
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    if (!match(*at)) {
      ++at;
      continue;
    }
    ended.push_back(std::move(*at));
    at = waiting_.erase(at);
  }
  for (Transfer& transfer : ended) transfer.done(error);
  if (channel_ == nullptr) return;
  if (abandoned_.size() > limits_.max_abandoned) {
    broken_(Error(ETIMEDOUT, "the client leaves its DMA messages unanswered"));
  } else {
    send_waiting();
  }
}

void MessageDma::cancel(const memory::IovaRange& range, const Error& error) {
  end_matching(error, [&range](const Transfer& one) { return range.overlaps({one.address, one.size()}); });
}

void MessageDma::cancel_all(const Error& error) {
  end_matching(error, [](const Transfer&) { return true; });
}

void MessageDma::close(const Error& error) {
  channel_ = nullptr;
  timer_.reset();
  cancel_all(error);
  abandoned_.clear();
}

void MessageDma::watch_deadline() {
  if (sent_.empty() || channel_ == nullptr || timer_.active()) return;
  timer_ = loop_.after(sent_.front().deadline - loop_.clock().now(), [this] { expire(); });
}

void MessageDma::expire() {
  timer_.reset();
  const TimePoint now = loop_.clock().now();
  end_matching(Error(ETIMEDOUT, "the client did not answer a DMA message"),
               [now](const Transfer& one) { return one.deadline <= now; });
  watch_deadline();
}

}  // namespace outboard::vfio_user
