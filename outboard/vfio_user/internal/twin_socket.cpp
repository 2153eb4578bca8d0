#include <outboard/vfio_user/internal/twin_socket.hpp>

#include <sys/socket.h>

#include <utility>

namespace outboard::vfio_user {

TwinSocket::TwinSocket(UniqueFd socket, Loop& loop, const Channel::Limits& limits, std::shared_ptr<Budget::Share> share,
                       Callbacks callbacks)
    : loop_(loop),
      descriptor_(std::move(share), 1),
      channel_(std::move(socket), limits),
      callbacks_(std::move(callbacks)) {}

Result<TwinSocket::Made> TwinSocket::create(Loop& loop, const Channel::Limits& limits,
                                            std::shared_ptr<Budget::Share> share, Callbacks callbacks) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    return Error::from_errno("creating a second socket");
  UniqueFd ours(ends[0]), clients(ends[1]);
  Made made{.ours = std::unique_ptr<TwinSocket>(
                new TwinSocket(std::move(ours), loop, limits, std::move(share), std::move(callbacks))),
            .clients = std::move(clients)};
  TwinSocket& twin = *made.ours;
  OUTBOARD_TRY(twin.watch_,
               loop.watch(twin.channel_.fd(), twin.interest_, [&twin](Ready ready) { twin.on_ready(ready); }));
  return made;
}

/// One receive a turn, as on the first socket.
void TwinSocket::on_ready(Ready ready) {
  Status done = has(ready, Ready::writable) ? channel_.flush() : Status();
  if (done && (has(ready, Ready::readable) || has(ready, Ready::hangup))) {
    const auto received = channel_.receive(Channel::Wait::no);
    if (!received) done = received.error();
    if (received && *received == Channel::Received::end)
      done = Error(ECONNRESET, "the client has closed the connection's second socket");
  }
  if (done) done = take_replies();
  if (!done) return callbacks_.ended(done.error());
  update_interest();
}

Status TwinSocket::take_replies() {
  while (watch_.active()) {
    OUTBOARD_TRY(const bool ready, channel_.ready());
    if (!ready) return {};
    const Message message = channel_.take();
    if (!message.is_reply()) return Error(EPROTO, "the client sent a command on the second socket");
    OUTBOARD_CHECK(callbacks_.reply(message));
  }
  return {};
}

void TwinSocket::update_interest() {
  const Ready wanted = channel_.queued() != 0 ? Ready::readable | Ready::writable : Ready::readable;
  if (wanted == interest_ || !watch_.active()) return;
  if (auto changed = loop_.rewatch(watch_, wanted); !changed) return callbacks_.ended(changed.error());
  interest_ = wanted;
}

void TwinSocket::close() {
  watch_.reset();
  channel_.close();
}

}  // namespace outboard::vfio_user
