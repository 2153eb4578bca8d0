#include <outboard/vduse/internal/config_copy.hpp>

#include <algorithm>
#include <utility>

namespace outboard::vduse {

ConfigCopy::ConfigCopy(virtio::DeviceCore& core, Loop& control, Log log, std::function<void(Bytes)> changed)
    : core_(core), control_(control), log_(std::move(log)), changed_(std::move(changed)) {}

/// The kernel copies what it is given without a lock: a driver that reads meanwhile is only sure of one naturally aligned field.
/// So only what has changed is written, at most eight bytes at a time.
void ConfigCopy::publish() {
  if (node_ == nullptr) return;
  std::vector<std::byte> now(core_.identity().config_size);
  core_.read_config(0, now);
  if (copy_ == now) return;
  const bool all = copy_.size() != now.size();
  // If this server dies before the kernel has all of it, its successor must not take the copy for known.
  changed_({});
  constexpr std::size_t step = 8;
  for (std::size_t offset = 0; offset < now.size(); offset += step) {
    const auto bytes = Bytes(now).subspan(offset, std::min(step, now.size() - offset));
    if (!all && std::ranges::equal(bytes, Bytes(copy_).subspan(offset, bytes.size()))) continue;
    if (const Status set = node_->set_config(static_cast<std::uint32_t>(offset), bytes); !set)
      return log_.error("the configuration of the device cannot be changed: {}", set.error().message());
  }
  copy_ = std::move(now);
  changed_(copy_);
}

void ConfigCopy::interrupt() {
  pause_ = std::chrono::microseconds(500);
  try_interrupt();
}

void ConfigCopy::try_interrupt() {
  retry_.reset();
  if (node_ == nullptr) return;
  const Status told = node_->inject_config_interrupt();
  if (told || told.error().code() != EINVAL) return;
  constexpr Duration max_pause = std::chrono::milliseconds(20);
  pause_ = std::min(max_pause, pause_ * 2);
  retry_ = control_.after(pause_, [this] { try_interrupt(); });
}

}  // namespace outboard::vduse
