#include <outboard/vduse/internal/interrupts.hpp>

#include <algorithm>
#include <utility>

#include <outboard/base/internal/run_on.hpp>

namespace outboard::vduse {

namespace {

constexpr Duration first_pause = std::chrono::microseconds(20);
constexpr Duration longest_pause = std::chrono::milliseconds(5);
/// With these pauses, about five seconds.
constexpr unsigned tries_before_alarm = 1000;

}  // namespace

Interrupts::Interrupts(const std::vector<Loop*>& loops, Log log) : log_(std::move(log)) {
  for (Loop* const loop : loops) {
    lines_.push_back(std::make_unique<Line>());
    lines_.back()->loop = loop;
  }
}

void Interrupts::connect(Node& node) {
  for (const auto& line : lines_) run_on(*line->loop, [&line, &node] { line->node = &node; });
}

void Interrupts::disconnect() {
  for (const auto& line : lines_) {
    run_on(*line->loop, [&line] {
      line->retry.reset();
      line->node = nullptr;
    });
  }
}

void Interrupts::flush() {
  for (unsigned queue = 0; queue < lines_.size(); ++queue) {
    run_on(*lines_[queue]->loop, [this, queue] {
      if (lines_[queue]->retry.active()) try_again(queue);
    });
  }
}

void Interrupts::raise(unsigned queue) {
  // One that is being tried again tells of these buffers too.
  if (!lines_[queue]->retry.active()) try_again(queue);
}

void Interrupts::try_again(unsigned queue) {
  Line& line = *lines_[queue];
  line.retry.reset();
  if (line.node == nullptr) return;
  const Status raised = line.node->inject_interrupt(queue);
  // What else can go wrong is told by the node's descriptor.
  if (raised || raised.error().code() != EINVAL || !live_.load(std::memory_order_acquire)) {
    line.tries = 0;
    return;
  }
  if (++line.tries == tries_before_alarm) {
    // docs/vduse.md, "What hangs".
    log_.error(
        "queue {}: the kernel takes no interrupts though DRIVER_OK was acknowledged: the process that attached the device "
        "was killed meanwhile, and its driver waits for ever; only a restart of the machine mends that",
        queue);
  }
  const Duration pause = std::min(longest_pause, first_pause * (1U << std::min(line.tries, 8U)));
  line.retry = line.loop->after(pause, [this, queue] { try_again(queue); });
}

}  // namespace outboard::vduse
