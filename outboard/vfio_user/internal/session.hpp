#pragma once

#include <memory>
#include <optional>
#include <vector>

#include <outboard/base/internal/budget.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/internal/channel.hpp>
#include <outboard/vfio_user/internal/client_commands.hpp>
#include <outboard/vfio_user/internal/message_dma.hpp>
#include <outboard/vfio_user/internal/migration_commands.hpp>
#include <outboard/vfio_user/internal/replies.hpp>
#include <outboard/vfio_user/internal/session_phase.hpp>
#include <outboard/vfio_user/internal/stall_timer.hpp>
#include <outboard/vfio_user/internal/twin_socket.hpp>

namespace outboard::vfio_user {

/// One client's connection, on the server's side: from VERSION until the function has let go of what the client brought; its
/// phases are those of session_phase.hpp. On the function's loop. Commands are answered in order. A DMA_UNMAP or DEVICE_RESET
/// that the function does not complete at once holds back the commands behind it; replies to DMA messages are taken meanwhile.
class Session : public std::enable_shared_from_this<Session> {
 public:
  /// Descriptors in replies that the client has not read; with more, its further commands wait: others have clients, too.
  static constexpr std::size_t max_queued_fds = 4;

  struct Limits {
    std::size_t max_data_transfer = spec::default_max_data_xfer_size;  ///< bytes of one region access
    unsigned max_fds = 16;  ///< of one message from the client
    std::size_t max_queued = std::size_t{8} << 20;  ///< bytes that the client does not read
    /// A message that has begun must end, and what is sent be read, within this; VERSION must come within 5 seconds.
    Duration stall_timeout{std::chrono::seconds(30)};
    /// An unmap or reset that takes longer is answered ETIMEDOUT.
    Duration operation_timeout{std::chrono::seconds(2)};
    Duration dma_timeout{std::chrono::seconds(30)};
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
  /// The connection is closed; the function may not have let go of everything yet.
  bool ending() const { return !is_connected(phase_); }
  /// The client has closed its end; what it sent before is still being worked through.
  bool peer_hung_up() const;
  /// The client has bound the function's REQ interrupt: raising it asks for the function back.
  bool hears_requests() const { return commands_ && commands_->hears_requests(); }
  /// Forgets the function, which is about to be destroyed. Nothing is called any more, `ended` neither.
  void abandon();

  /// Bytes of memory that are kept for replies.
  std::size_t scratch_size() const { return replies_.scratch_size(); }
  /// Commands without a reply that failed.
  std::uint64_t failed_posted() const { return replies_.failed_posted(); }

 private:
  /// What becomes of messages that have arrived.
  enum class Intake : std::uint8_t {
    open,  ///< they are received and dispatched
    dispatching,  ///< so is one now; what completes inside a command does not dispatch the next one
    held_back,  ///< a whole one waits in the channel, and nothing more is received
  };
  /// An unmap, a reset, a change of the state of migration or the release: what the function has been given last.
  struct Operation {
    enum class Outcome : std::uint8_t { pending, done, failed };
    std::uint64_t number = 0;
    spec::Header request{};
    std::vector<std::byte> echo;  ///< the payload of the reply
    Outcome outcome = Outcome::done;
  };

  void move(SessionEvent event) { phase_ = next_phase(phase_, event); }

  void on_ready(Ready ready);
  void receive_once();
  void process();
  Result<Intake> dispatch_messages();
  bool must_hold_back() const;
  void update_interest();

  Status dispatch(Message message);
  Status negotiate(const Message& message);
  Status serve(const Message& message, const VersionMessage& proposal);
  UniqueFd make_twin();

  Status unmap(const Message& message);
  Status reset(const Message& message);
  Status migrate(const Message& message);
  Status set_migration_state(const Message& message, MigrationState wanted);
  const char* operation_name() const;
  pci::Function::Completion begin_operation(SessionEvent event, const spec::Header& request, Bytes echo);
  void watch_operation();
  void operation_done(const Status& result);
  void operation_late();
  Status answer_operation(const Status& result);

  void post_release();
  void release();
  void released();

  Loop& loop_;
  pci::Function& function_;
  Log log_;
  Limits limits_;
  SessionPhase phase_ = SessionPhase::negotiating;
  Intake intake_ = Intake::open;

  Budget::OpenDescriptors descriptors_;
  Channel channel_;
  Registration watch_;
  Ready interest_ = Ready::readable;
  StallTimer stall_timer_;
  Replies replies_;

  // From VERSION on.
  std::unique_ptr<TwinSocket> twin_;  ///< null: the server's commands go over the first socket
  std::shared_ptr<MessageDma> messages_;
  std::optional<ClientCommands> commands_;
  std::shared_ptr<MigrationCommands> migration_;  ///< null: the function cannot be moved

  Operation operation_;
  Registration slow_timer_;
  Loop::Task on_ended_;
};

}  // namespace outboard::vfio_user
