#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <outboard/base/budget.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/memory/shared_files.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/channel.hpp>
#include <outboard/vfio_user/info_commands.hpp>
#include <outboard/vfio_user/irq_commands.hpp>
#include <outboard/vfio_user/message_dma.hpp>
#include <outboard/vfio_user/negotiation.hpp>
#include <outboard/vfio_user/region_commands.hpp>

namespace outboard::vfio_user {

/// One client's connection, on the server's side: from VERSION until the function has let go of what the client
/// brought. On the function's loop. Commands are answered in the order they come; an unmap or a reset that takes longer
/// holds back those behind it, replies to our DMA messages are taken meanwhile.
class Session : public std::enable_shared_from_this<Session> {
 public:
  /// Descriptors in replies that the client has not read; with more, its further commands wait: others have clients, too.
  static constexpr std::size_t max_queued_fds = 4;

  struct Limits {
    std::size_t max_data_transfer = spec::default_max_data_xfer_size;  ///< bytes of one region access
    unsigned max_fds = 16;  ///< of one message from the client
    std::size_t max_queued = std::size_t{8} << 20;  ///< bytes that the client does not read
    /// A message that has begun must end, and what we send be read, within this; VERSION must come within 5 seconds.
    Duration stall_deadline{std::chrono::seconds(30)};
    /// An unmap or reset that takes longer is answered ETIMEDOUT.
    Duration slow_operation{std::chrono::seconds(2)};
    Duration dma_deadline{std::chrono::seconds(30)};
    std::shared_ptr<Budget::Share> share{};  ///< of the process's mappings, for the client's files; null: no limit
    /// Those that the function holds for interrupts, some of them longer than the client is there; may be null.
    std::shared_ptr<Budget::OpenDescriptors> eventfds{};
  };

  Session(UniqueFd socket, Loop& loop, pci::Function& function, Log log, const Limits& limits);
  ~Session() { abandon(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// `ended` is posted to the loop once the function has let go of everything.
  Status start(Loop::Task ended);
  /// Ends the connection: at once for the client, then for the function.
  void end(const Error& why);
  bool ending() const { return ended_; }
  /// The client has closed its end; what it sent before is still being worked through.
  bool peer_hung_up() const;
  /// The client has bound the function's REQ interrupt: raising it asks for the function back.
  bool hears_requests() const { return bindings_.any(pci::InterruptKind::request); }
  /// Forgets the function, which is about to be destroyed. Nothing is called any more, `ended` neither.
  void abandon();

  /// Bytes of memory that are kept for replies.
  std::size_t scratch_size() const { return scratch_.capacity(); }
  /// Commands with NO_REPLY that failed.
  std::uint64_t failed_posted() const { return failed_posted_; }

 private:
  void on_ready(Ready ready);
  void read_once();
  void process();
  Status process_messages();
  void update_interest();
  void count_eventfds();
  void update_stall_timer();
  void check_stall();

  Status dispatch(Message message);
  Status dispatch_command(Message& message);
  Status negotiate(const Message& message);
  Status accept_version(const Message& message);

  Status dma_map(Message& message);
  Status dma_unmap(const Message& message);
  Status reset(const Message& message);
  Status bind_interrupts(Message& message);
  Status region_read(const Message& message);
  Status region_write(const Message& message);
  Status region_write_multi(const Message& message);

  Status answer(const spec::Header& request, Result<Answer> result);
  Status answer(const spec::Header& request, const Status& result);
  Status reply(const spec::Header& request, Bytes payload, Bytes data = {}, std::span<const int> fds = {});
  Status refuse(const spec::Header& request, const Error& error);

  // An unmap, reset or release that the function works on. One at a time.
  pci::Function::Completion begin_operation(const spec::Header& request, Bytes echo);
  Status operation_started();
  void operation_done(const Status& result);
  void operation_slow();
  Status answer_operation(const Status& result);
  void schedule_release();
  void release();
  void released();

  Loop& loop_;
  pci::Function* function_;
  Log log_;
  Limits limits_;
  Budget::OpenDescriptors descriptors_;
  Channel channel_;
  Registration watch_;
  Ready interest_ = Ready::readable;
  Regions regions_;
  memory::SharedFiles files_;
  std::shared_ptr<MessageDma> messages_;
  std::vector<std::byte> scratch_;  // replies are made here

  bool negotiated_ = false;
  bool write_multiple_ = false;
  unsigned client_max_fds_ = 0;
  IrqBindings bindings_;

  struct Operation {
    spec::Header request{};
    std::vector<std::byte> echo;
    bool running = false;  // in the function
    bool answered = false;  // too slow: the client has been told
    bool refused = false;  // ended with an error
  };
  Operation operation_;
  Registration slow_timer_;

  bool processing_ = false;
  bool blocked_ = false;  // a command waits in the channel
  Registration stall_timer_;
  std::uint64_t stalled_consumed_ = 0, stalled_sent_ = 0;

  bool ended_ = false;
  bool releasing_ = false;
  Loop::Task on_ended_;
  std::uint64_t failed_posted_ = 0;
};

}  // namespace outboard::vfio_user
