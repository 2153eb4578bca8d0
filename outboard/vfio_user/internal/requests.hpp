#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/vfio_user/internal/awaited_replies.hpp>
#include <outboard/vfio_user/internal/channel.hpp>

namespace outboard::vfio_user {

/// A client's requests to its server. Several may be outstanding; each is completed exactly once: with its reply, with
/// ETIMEDOUT, or with the error that ended the connection. If the server is killed, that is ECONNRESET for all of them. While a
/// call waits, the server's commands are served. One thread. It waits in the kernel, so an injected clock does not apply.
class Requests {
 public:
  struct Reply {
    Bytes payload;  ///< until the completion returns
    std::vector<UniqueFd> fds;
  };
  using Completion = std::move_only_function<void(Result<Reply>)>;
  /// Serves one command of the server. An error ends the connection. Must not wait.
  using Server = std::move_only_function<Status(const Message&, Channel&)>;

  struct Request {
    spec::Command command{};
    Bytes head, tail;  ///< the payload, in two pieces; only for the call
    std::span<const int> fds{};
    std::size_t min_reply = 0, max_reply = 0;  ///< payload bytes
    bool reply_has_fds = false;
    std::optional<Duration> timeout{};  ///< instead of the usual one
  };
  /// Whether the connection stays or ends when a request is not answered in time.
  enum class OnTimeout : std::uint8_t { stay, end };
  struct Options {
    Channel::Limits channel;
    Duration timeout{std::chrono::seconds(5)};
    OnTimeout on_timeout = OnTimeout::stay;
    Duration spin{0};  ///< how long a wait looks for the reply before it sleeps
    std::size_t max_late = 256;  ///< requests that were given up and are unanswered; beyond, the connection ends
  };

  /// `broken` is called once, when the connection has ended and every request has been completed; `backlog` when a call leaves
  /// bytes in the channel that process() has to send.
  Requests(UniqueFd socket, const Options& options, Server server, std::move_only_function<void()> broken,
           std::move_only_function<void()> backlog);
  ~Requests();

  /// Replaces the three callbacks.
  void call(Server server, std::move_only_function<void()> broken, std::move_only_function<void()> backlog);

  /// The server's commands come on this socket from now on.
  void use_twin(UniqueFd socket);

  int fd() const { return channel_.fd(); }
  /// The second socket; -1: there is none.
  int twin_fd() const { return twin_ ? twin_->fd() : -1; }
  /// Replies wait for room in it.
  bool twin_wants_write() const { return twin_ && twin_->queued() != 0; }
  /// Registers the request, then sends it.
  void start(const Request& request, Completion done);
  /// Sends a command without a reply. What the socket does not take is kept; with more than 256 KiB kept, the call waits.
  Status post(spec::Command command, Bytes head, Bytes tail);
  /// Sends a REGION_WRITE without a reply. After merge_writes(), while the socket is full, several writes of up to 8 bytes
  /// become one REGION_WRITE_MULTI, which keeps its place before what is sent later.
  Status post_write(const spec::RegionAccess& access, Bytes data);
  /// The server takes REGION_WRITE_MULTI.
  void merge_writes() { merges_writes_ = true; }
  /// Waits until a completion has set `done`, at most until the last deadline.
  void wait(const bool& done);
  /// Dispatches messages that have arrived, about a thousand bytes of them, without waiting. If more have, fd() stays readable.
  void process();
  /// Bytes wait for room in the socket.
  bool wants_write() const { return channel_.queued() != 0; }

  /// Ends the connection: outstanding and later requests are completed with `error`.
  void end(const Error& error);
  /// What ended the connection. ECONNRESET: the server closed it or was killed; EPROTO: the server broke the protocol.
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

  Status bound_backlog();
  Status send_merged();
  Status flush();
  Status send(spec::Command command, std::uint16_t id, std::uint32_t flags, Bytes head, Bytes tail,
              std::span<const int> fds);
  bool dispatch_one();
  void dispatch_all();
  bool next_is_expected();
  Status dispatch(Message message);
  Status complete(Message message);
  static Result<Reply> check(const Pending& pending, Message message);
  void wait_for_socket();
  bool receive(Channel::Wait wait);
  bool receive_spinning(Duration limit);
  void poll_socket(Duration limit);
  void expire();
  TimePoint next_deadline() const;
  void fail(const Error& error);

  void receive_from_twin();
  Status serve_twin();

  Options options_;
  Channel channel_;
  std::optional<Channel> twin_;
  Server server_;
  std::move_only_function<void()> on_broken_, on_backlog_;
  std::optional<Error> error_;
  AwaitedReplies<Pending> replies_{"the server"};
  std::optional<std::uint64_t>
      stalled_at_;  // offset in the stream of the message that was incomplete at the last deadline
  std::vector<std::byte> scratch_;
  bool merges_writes_ = false;
  std::vector<spec::WriteMultiEntry> merged_;  // wait until the channel has sent what is before them
};

}  // namespace outboard::vfio_user
