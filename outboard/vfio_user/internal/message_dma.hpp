#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/memory/internal/memory_port.hpp>
#include <outboard/vfio_user/internal/awaited_replies.hpp>
#include <outboard/vfio_user/internal/channel.hpp>

namespace outboard::vfio_user {

/// Reaches memory of the client by DMA_READ and DMA_WRITE messages. One for a connection. Address maps hold it, so it may
/// outlive the connection; then each transfer fails with ECONNRESET. On the control loop only.
///
/// While a client waits for a reply, it may leave DMA messages unanswered (QEMU does). So no reply to the client may wait for a
/// transfer: cancel() ends those that an unmap or a reset would wait for.
class MessageDma final : public memory::MemoryPort {
 public:
  struct Limits {
    std::uint64_t max_transfer = spec::max_dma_message;  ///< 0: the client takes no messages; transfers fail
    std::size_t max_in_flight = 16;  ///< messages that are sent and unanswered; further ones wait
    std::size_t max_waiting = 65536;  ///< messages that wait; beyond, EAGAIN
    std::size_t max_late = 256;  ///< messages that were cancelled and are unanswered; beyond, the connection ends
    Duration timeout{std::chrono::seconds(30)};  ///< for an answer: then ETIMEDOUT
  };

  struct Callbacks {
    std::move_only_function<void(Error)> broken;  ///< the connection cannot go on
    std::move_only_function<void()> sent;  ///< something was sent; the socket may not have taken all of it
  };
  MessageDma(Loop& loop, Channel& channel, Limits limits, Callbacks callbacks);

  void read(memory::Iova address, MutableBytes into, Completion done) override;
  void write(memory::Iova address, Bytes from, Completion done) override;
  std::uint64_t max_transfer() const override;

  /// A reply from the client. EPROTO: it answers no transfer, or another command than its transfer's.
  Status reply(const Message& message);
  /// Ends every transfer that touches `range` with `error`; late replies are dropped.
  void cancel(const memory::IovaRange& range, const Error& error);
  void cancel_all(const Error& error);
  /// The connection is gone.
  void close(const Error& error);

 private:
  struct Transfer {
    std::uint16_t id = 0;
    spec::Command command{};
    memory::Iova address{};
    MutableBytes into;  // DMA_READ
    Bytes from;  // DMA_WRITE
    Completion done;
    TimePoint deadline{};

    std::uint64_t size() const { return command == spec::Command::dma_read ? into.size() : from.size(); }
  };

  void start(Transfer transfer);
  void send_waiting();
  Status send(Transfer& transfer);
  Status finish(const Transfer& transfer, const Message& message) const;
  template <typename Match>
  void end_matching(const Error& error, const Match& match);
  void watch_deadline();
  void expire();

  Loop& loop_;
  Channel* channel_;  // null once closed
  Limits limits_;
  Callbacks callbacks_;
  AwaitedReplies<Transfer> replies_{"the client"};
  std::deque<Transfer> waiting_;
  bool sending_ = false;
  Registration timer_;
};

}  // namespace outboard::vfio_user
