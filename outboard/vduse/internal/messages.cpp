#include <outboard/vduse/internal/messages.hpp>

#include <algorithm>
#include <utility>

namespace outboard::vduse {

Messages::Messages(Loop& control, Log log, Handlers handlers)
    : control_(control),
      log_(std::move(log)),
      handlers_(std::move(handlers)),
      self_(std::make_shared<Messages*>(this)) {}

Status Messages::read_ahead(Node& node) {
  while (true) {
    OUTBOARD_TRY(const auto request, node.read());
    if (!request) return {};
    pending_.push_back(*request);
  }
}

Status Messages::listen(Node& node) {
  node_ = &node;
  OUTBOARD_TRY(watch_, control_.watch(node.fd(), Ready::readable, [this](Ready ready) { handle(ready); }));
  return {};
}

void Messages::handle_pending() {
  control_.post([this, weak = std::weak_ptr(self_)] {
    if (!weak.expired()) handle(Ready::none);
  });
}

void Messages::drop() {
  pending_.clear();
  unanswered_.reset();
}

void Messages::disconnect() {
  watch_.reset();
  node_ = nullptr;
}

void Messages::handle(Ready ready) {
  while (!unanswered_ && node_ != nullptr) {
    const auto request = next(ready);
    if (!request) return;
    unanswered_ = request->request_id;
    undo_ = nullptr;
    handlers_.message(*request);
  }
  // The next message waits in the kernel until this one has been answered.
  if (unanswered_ && node_ != nullptr) [[maybe_unused]]
    const auto silenced = control_.rewatch(watch_, Ready::none);
}

std::optional<spec::Request> Messages::next(Ready ready) {
  if (!pending_.empty()) {
    const spec::Request request = pending_.front();
    pending_.pop_front();
    return request;
  }
  if (ready != Ready::none && has(ready, Ready::hangup)) {
    handlers_.lost(Error(EPERM, "the kernel has given the device up: a message was not answered in time"));
    return std::nullopt;
  }
  auto read = node_->read();
  if (read) return *read;
  handlers_.lost(read.error());
  return std::nullopt;
}

void Messages::answer(std::uint32_t id, std::uint32_t result, Bytes payload) {
  if (unanswered_ != id || node_ == nullptr) return;
  unanswered_.reset();
  deadline_.reset();
  spec::Response response{};
  response.request_id = id;
  response.result = result;
  copy_bytes(payload.first(std::min(payload.size(), response.payload.size())), response.payload);
  const Status replied = node_->reply(response);
  if (!replied && replied.error().code() == ENOENT) {
    if (undo_) std::exchange(undo_, nullptr)();
  } else if (!replied) {
    log_.error("the kernel does not take an answer: {}", replied.error().message());
  }
  if (!watch_.active()) return;
  if (auto listening = control_.rewatch(watch_, Ready::readable); !listening) return handlers_.lost(listening.error());
  if (!pending_.empty()) handle_pending();
}

}  // namespace outboard::vduse
