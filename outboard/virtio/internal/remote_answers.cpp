#include <outboard/virtio/internal/remote_answers.hpp>

#include <utility>

namespace outboard::virtio {

std::vector<RemoteAnswers::Answer> RemoteAnswers::take() {
  std::vector<Answer> answers;
  const std::lock_guard lock(mutex_);
  if (!abandoned()) answers.swap(answers_);
  return answers;
}

void RemoteAnswers::abandon(std::uint32_t tokens, std::shared_ptr<DeviceQueue> queue) {
  const std::lock_guard lock(mutex_);
  abandoned_.store(true, std::memory_order_relaxed);
  tokens_ = tokens - static_cast<std::uint32_t>(answers_.size());
  answers_.clear();
  if (tokens_ != 0) queue_ = std::move(queue);
}

}  // namespace outboard::virtio
