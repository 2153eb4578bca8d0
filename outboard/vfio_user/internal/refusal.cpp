#include <outboard/vfio_user/internal/refusal.hpp>

#include <outboard/vfio_user/internal/message_header.hpp>

namespace outboard::vfio_user {
namespace {

constexpr std::size_t max_message = std::size_t{128} << 10;  // VERSION with the longest JSON that is taken

/// Answers the first message. What the socket does not take is dropped, since the connection is closed next.
void tell(Channel& channel, int error) {
  const Message message = channel.take();
  if (message.is_reply() || !message.wants_reply()) return;
  [[maybe_unused]] const auto sent = channel.send(as_bytes_of(error_header(message.header, error)));
}

}  // namespace

/// Whether the client can be disconnected: it has its reply, or has left.
bool Refusals::answer(Waiting& waiting) {
  while (true) {
    const auto ready = waiting.channel.ready();
    if (!ready) return true;
    if (*ready) {
      tell(waiting.channel, waiting.error);
      return true;
    }
    const auto received = waiting.channel.receive(Channel::Wait::no);
    if (!received || *received == Channel::Received::end) return true;
    if (*received == Channel::Received::nothing) return false;
  }
}

void Refusals::add(UniqueFd socket, int error) {
  const auto waiting = std::make_shared<Waiting>(std::move(socket), error,
                                                 Channel::Limits{.max_message = max_message, .max_fds = 0}, share_);
  if (answer(*waiting)) return;
  auto watch = loop_.watch(waiting->channel.fd(), Ready::readable, [this, weak = std::weak_ptr(waiting)](Ready) {
    if (const auto here = weak.lock()) on_ready(here);
  });
  if (!watch) return;
  waiting->watch = std::move(*watch);
  waiting->timer = loop_.after(timeout_, [this, weak = std::weak_ptr(waiting)] {
    if (const auto here = weak.lock()) remove(*here);
  });
  if (waiting_.size() == max_waiting) {
    answer(*waiting_.front());  // VERSION may have arrived since the loop last looked
    waiting_.pop_front();
  }
  waiting_.push_back(waiting);
}

void Refusals::on_ready(const std::shared_ptr<Waiting>& waiting) {
  if (answer(*waiting)) remove(*waiting);
}

/// In a callback of its own: the one that waits is kept by who called.
void Refusals::remove(const Waiting& waiting) {
  std::erase_if(waiting_, [&waiting](const auto& one) { return one.get() == &waiting; });
}

}  // namespace outboard::vfio_user
