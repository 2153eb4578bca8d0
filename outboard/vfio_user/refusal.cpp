#include <outboard/vfio_user/refusal.hpp>

namespace outboard::vfio_user {
namespace {

constexpr std::size_t longest_message = std::size_t{128} << 10;  // VERSION with the longest JSON that is taken

/// Answers whatever has come first. What cannot be sent is not tried again: the connection is closed next anyway.
void tell_busy(Channel& channel) {
  const Message message = channel.take();
  if (message.is_reply() || !message.wants_reply()) return;
  const spec::Header header{.msg_id = message.header.msg_id,
                            .command = message.header.command,
                            .msg_size = sizeof(spec::Header),
                            .flags = spec::flag::reply | spec::flag::error,
                            .error = EBUSY};
  [[maybe_unused]] const auto sent = channel.send(as_bytes_of(header));
}

}  // namespace

/// Whether this client is done with: it has been told, or has left.
bool Refusals::answer(Waiting& waiting) {
  while (true) {
    const auto ready = waiting.channel.ready();
    if (!ready) return true;
    if (*ready) {
      tell_busy(waiting.channel);
      return true;
    }
    const auto received = waiting.channel.receive(Channel::Wait::no);
    if (!received || *received == Channel::Received::end) return true;
    if (*received == Channel::Received::nothing) return false;
  }
}

void Refusals::add(UniqueFd socket) {
  const auto waiting = std::make_shared<Waiting>(std::move(socket),
                                                 Channel::Limits{.max_message = longest_message, .max_fds = 0}, share_);
  if (answer(*waiting)) return;
  auto watch = loop_.watch(waiting->channel.fd(), Ready::readable, [this, weak = std::weak_ptr(waiting)](Ready) {
    if (const auto here = weak.lock()) on_ready(here);
  });
  if (!watch) return;
  waiting->watch = std::move(*watch);
  waiting->timer = loop_.after(deadline_, [this, weak = std::weak_ptr(waiting)] {
    if (const auto here = weak.lock()) remove(*here);
  });
  if (waiting_.size() == max_waiting) {
    answer(*waiting_.front());  // it may have spoken since the loop last looked
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
