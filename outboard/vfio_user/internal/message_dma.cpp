#include <outboard/vfio_user/internal/message_dma.hpp>

#include <algorithm>

#include <outboard/vfio_user/internal/message_header.hpp>

namespace outboard::vfio_user {

MessageDma::MessageDma(Loop& loop, Channel& channel, Limits limits, Callbacks callbacks)
    : loop_(loop), channel_(&channel), limits_(limits), callbacks_(std::move(callbacks)) {}

std::uint64_t MessageDma::max_transfer() const {
  // Never 0: a caller that splits transfers by it would loop. The transfer itself fails then.
  return limits_.max_transfer != 0 ? limits_.max_transfer : spec::max_dma_message;
}

void MessageDma::read(memory::Iova address, MutableBytes into, Completion done) {
  start(Transfer{.command = spec::Command::dma_read, .address = address, .into = into, .done = std::move(done)});
}

void MessageDma::write(memory::Iova address, Bytes from, Completion done) {
  start(Transfer{.command = spec::Command::dma_write, .address = address, .from = from, .done = std::move(done)});
}

void MessageDma::start(Transfer transfer) {
  if (channel_ == nullptr) return transfer.done(Error(ECONNRESET, "the client that owns this memory has disconnected"));
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
  while (channel_ != nullptr && !waiting_.empty() && replies_.awaited().size() < limits_.max_in_flight) {
    Transfer transfer = std::move(waiting_.front());
    waiting_.pop_front();
    if (auto sent = send(transfer); !sent) {
      transfer.done(sent.error());
      callbacks_.broken(sent.error());
    } else {
      replies_.add(std::move(transfer));
    }
  }
  sending_ = false;
  if (channel_ != nullptr && channel_->queued() != 0) callbacks_.sent();
  watch_deadline();
}

Status MessageDma::send(Transfer& transfer) {
  transfer.id = replies_.new_id();
  transfer.deadline = loop_.clock().now() + limits_.timeout;
  struct {
    spec::Header header;
    spec::DmaAccess access;
  } const message{command_header(transfer.command, transfer.id, spec::flag::command,
                                 sizeof(spec::DmaAccess) + transfer.from.size()),
                  {.address = raw(transfer.address), .count = transfer.size()}};
  return channel_->send(as_bytes_of(message), transfer.from);
}

Status MessageDma::reply(const Message& message) {
  OUTBOARD_TRY(const Transfer* found, replies_.find(message.header));
  if (found == nullptr) return {};
  Transfer transfer = replies_.take(found);
  transfer.done(finish(transfer, message));
  send_waiting();
  return {};
}

/// Checks a reply and, for a read, copies its data.
Status MessageDma::finish(const Transfer& transfer, const Message& message) const {
  if (!message.fds.empty() || message.fds_lost) return Error(EPROTO, "a DMA reply came with file descriptors");
  if (is_error(message.header)) return Error(error_code(message.header), "the client refused a DMA message");
  const bool reading = transfer.command == spec::Command::dma_read;
  ByteReader reader(message.payload);
  // The specification says 12 bytes for the reply to a write, QEMU 10 sends none, other clients send 16.
  if (!reading && (message.payload.empty() || message.payload.size() == 12)) return {};
  const auto echo = reader.read<spec::DmaAccess>();
  if (!echo) return Error(EPROTO, "a DMA reply is too short");
  if (echo->address != raw(transfer.address) || echo->count != transfer.size() ||
      reader.remaining() != transfer.into.size()) {
    return Error(EPROTO, "a DMA reply has another address or size than its request");
  }
  if (reading) copy_bytes(reader.rest(), transfer.into);
  return {};
}

/// Ends the transfers that `match`. Completions may start others, which are not touched.
template <typename Match>
void MessageDma::end_matching(const Error& error, const Match& match) {
  std::vector<Transfer> ended = replies_.give_up(match);
  std::erase_if(waiting_, [&](Transfer& transfer) {
    if (!match(transfer)) return false;
    ended.push_back(std::move(transfer));
    return true;
  });
  for (Transfer& transfer : ended) transfer.done(error);
  if (channel_ == nullptr) return;
  if (replies_.late() > limits_.max_late) {
    callbacks_.broken(Error(ETIMEDOUT, "the client does not answer DMA messages"));
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
}

void MessageDma::watch_deadline() {
  if (replies_.awaited().empty() || channel_ == nullptr || timer_.active()) return;
  timer_ = loop_.after(replies_.awaited().front().deadline - loop_.clock().now(), [this] { expire(); });
}

void MessageDma::expire() {
  timer_.reset();
  const TimePoint now = loop_.clock().now();
  end_matching(Error(ETIMEDOUT, "the client did not answer a DMA message"),
               [now](const Transfer& one) { return one.deadline <= now; });
  watch_deadline();
}

}  // namespace outboard::vfio_user
