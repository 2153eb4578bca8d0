#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/memory/memory_port.hpp>
#include <outboard/vfio_user/channel.hpp>

namespace outboard::vfio_user {

/// Memory of the client that is reached by DMA_READ and DMA_WRITE messages. One for a connection; outlives it, since
/// address maps hold it, and then fails every transfer with ECONNRESET. On the control loop only.
///
/// The client may leave any of these unanswered for as long as it waits for us (QEMU does): so nothing that answers the
/// client may wait for a transfer, and cancel() takes back those that would be in the way.
class MessageDma final : public memory::MemoryPort {
 public:
  struct Limits {
    std::uint64_t max_transfer = spec::longest_dma_message;  ///< 0: the client takes no messages; transfers fail
    std::size_t max_in_flight = 16;  ///< messages; further ones wait here
    std::size_t max_waiting = 65536;  ///< of these; beyond, EAGAIN
    std::size_t max_abandoned = 256;  ///< taken back and still unanswered; beyond, the connection ends
    Duration deadline{std::chrono::seconds(30)};  ///< for an answer: then ETIMEDOUT
  };

  /// `broken` is called when the connection cannot go on.
  MessageDma(Loop& loop, Channel& channel, Limits limits, std::move_only_function<void(Error)> broken);

  void read(memory::Iova address, MutableBytes into, Completion done) override;
  void write(memory::Iova address, Bytes from, Completion done) override;
  std::uint64_t max_transfer() const override;

  /// A reply from the client. EPROTO: no transfer of ours has this id, or it is for another command.
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
  struct Abandoned {
    std::uint16_t id;
    spec::Command command;
  };

  void start(Transfer transfer);
  void send_waiting();
  Status send(Transfer& transfer);
  std::uint16_t new_id();
  Status drop_late_reply(const Message& message);
  Status finish(const Transfer& transfer, const Message& message) const;
  template <typename Match>
  void end_matching(const Error& error, Match&& match);
  void watch_deadline();
  void expire();

  Loop& loop_;
  Channel* channel_;  // null once closed
  Limits limits_;
  std::move_only_function<void(Error)> broken_;
  std::vector<Transfer> sent_;
  std::deque<Transfer> waiting_;
  std::vector<Abandoned> abandoned_;
  std::uint16_t next_id_ = 0;
  bool sending_ = false;
  Registration timer_;
};

}  // namespace outboard::vfio_user
