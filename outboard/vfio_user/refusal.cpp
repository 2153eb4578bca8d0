#include <outboard/vfio_user/refusal.hpp>

namespace outboard::vfio_user {
namespace {

constexpr std::size_t most_waiting = 8;

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

void Refusals::add(UniqueFd socket) {
  if (waiting_.size() >= most_waiting) return;  // closed without a word
  auto waiting = std::make_unique<Waiting>(std::move(socket), Channel::Limits{.max_message = 131072});
  Waiting& here = *waiting;
  auto watch = loop_.watch(here.channel.fd(), Ready::readable, [this, &here](Ready) { on_ready(here); });
  if (!watch) return;
  here.watch = std::move(*watch);
  here.timer = loop_.after(deadline_, [this, &here] { remove(here); });
  waiting_.push_back(std::move(waiting));
}

void Refusals::on_ready(Waiting& waiting) {
  const auto received = waiting.channel.receive(Channel::Wait::no);
  if (!received || *received == Channel::Received::end) return remove(waiting);
  const auto ready = waiting.channel.ready();
  if (ready && !*ready) return;
  if (ready) tell_busy(waiting.channel);
  remove(waiting);
}

void Refusals::remove(const Waiting& waiting) {
  std::erase_if(waiting_, [&waiting](const auto& one) { return one.get() == &waiting; });
}

}  // namespace outboard::vfio_user
