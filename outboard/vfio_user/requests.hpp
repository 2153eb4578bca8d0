#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/vfio_user/channel.hpp>

namespace outboard::vfio_user {

/// What a client asks of its server: several requests may be on their way at once, each is completed exactly once, with
/// its reply, with ETIMEDOUT, or with what ended the connection. While a call waits, commands from the server are
/// served. One thread. Real time only: it waits in the kernel.
class Requests {
 public:
  struct Reply {
    Bytes payload;  ///< until the completion returns
    std::vector<UniqueFd> fds;
  };
  using Completion = std::move_only_function<void(Result<Reply>)>;
  /// Serves one command of the server's. An error ends the connection. Must not wait.
  using Server = std::move_only_function<Status(const Message&, Channel&)>;

  struct Request {
    spec::Command command{};
    Bytes head, tail;  ///< the payload, in two pieces; only for the call
    std::span<const int> fds{};
    std::size_t min_reply = 0, max_reply = 0;  ///< payload bytes
    bool reply_has_fds = false;
    std::optional<Duration> timeout{};  ///< instead of the usual one
  };
  /// What becomes of the connection when a request has not been answered in time.
  enum class OnTimeout : std::uint8_t { stay, end };
  struct Options {
    Channel::Limits channel;
    Duration timeout{std::chrono::seconds(5)};
    OnTimeout on_timeout = OnTimeout::stay;
    Duration spin{0};  ///< how long a wait looks for the reply before it sleeps
    std::size_t max_abandoned = 256;
  };

  /// `broken` is called once, when the connection has ended and every request has been completed; `backlog` when a call
  /// leaves something behind that process() is to send.
  Requests(UniqueFd socket, const Options& options, Server server, std::move_only_function<void()> broken,
           std::move_only_function<void()> backlog);
  ~Requests();

  int fd() const { return channel_.fd(); }
  /// Registers the request, then sends it.
  void start(const Request& request, Completion done);
  /// A command that is not answered. What the socket does not take is kept; with too much of that, waits.
  Status post(spec::Command command, Bytes head, Bytes tail);
  /// A REGION_WRITE that is not answered. While the socket is full, and after merge_writes(), several short ones become one
  /// REGION_WRITE_MULTI; whatever is sent later comes after them.
  Status post_write(const spec::RegionAccess& access, Bytes data);
  /// The server takes REGION_WRITE_MULTI.
  void merge_writes() { merges_writes_ = true; }
  /// Waits until a completion has set `done`; deadlines see to it that one does.
  void wait(const bool& done);
  /// Serves some of what has come, without waiting; with more to come, the descriptor stays readable.
  void process();
  /// Something waits for the socket to take it.
  bool wants_write() const { return channel_.queued() != 0; }

  /// Ends the connection: everything that waits, and every later request, is completed with `error`.
  void end(const Error& error);
  /// What ended the connection. ECONNRESET: the server closed it; EPROTO: it sent what it must not.
  const std::optional<Error>& broken() const { return error_; }

 private:
  struct Pending {
    std::uint16_t id = 0;
    spec::Command command{};
    std::size_t min_reply = 0, max_reply = 0;
    bool reply_has_fds = false;
    TimePoint deadline{};
    Completion done;
  };
  struct Abandoned {
    std::uint16_t id;
    spec::Command command;
  };

  Status bound_backlog();
  Status send_merged();
  Status flush();
  std::uint16_t new_id();
  Status send(spec::Command command, std::uint16_t id, std::uint32_t flags, Bytes head, Bytes tail,
              std::span<const int> fds);
  bool dispatch_one();
  void dispatch_all();
  bool next_is_expected();
  Status dispatch(Message message);
  Status complete(Message message);
  Status drop_late(const Message& message);
  static Result<Reply> check(const Pending& pending, Message message);
  void wait_for_socket();
  bool receive(Channel::Wait wait);
  bool receive_spinning(Duration limit);
  void poll_socket(Duration limit);
  void expire();
  TimePoint next_deadline() const;
  void fail(const Error& error);

  Options options_;
  Channel channel_;
  Server server_;
  std::move_only_function<void()> on_broken_, on_backlog_;
  std::optional<Error> error_;
  std::vector<Pending> pending_;
  std::vector<Abandoned> abandoned_;
  std::uint16_t next_id_ = 1;
  std::optional<std::uint64_t> stalled_at_;  // where a message had begun when a request came to its deadline
  std::vector<std::byte> scratch_;
  bool merges_writes_ = false;
  std::vector<spec::WriteMultiEntry> merged_;  // not in the channel yet, which has something to send before them
};

}  // namespace outboard::vfio_user
