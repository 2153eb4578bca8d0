#include <outboard/vduse/internal/bus_remove.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include <outboard/base/internal/thread.hpp>
#include <outboard/journal/file.hpp>
#include <outboard/vduse/internal/node_caretaker.hpp>

namespace outboard::vduse {
namespace {

constexpr Duration retry_pause = std::chrono::milliseconds(50);
constexpr unsigned retries = 40;

/// VDUSE-14: says after a while that something takes long, and why that may be. Without a thread it is not said.
class Reminder {
 public:
  Reminder(Duration after, std::function<void()> say) {
    auto thread = start_thread("a reminder", [this, after, say = std::move(say)] {
      std::unique_lock lock(mutex_);
      if (!over_.wait_for(lock, after, [this] { return done_; })) say();
    });
    if (thread) thread_ = std::move(*thread);
  }
  ~Reminder() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    over_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  Reminder(const Reminder&) = delete;
  Reminder& operator=(const Reminder&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace

Removal::Removal(Bus& bus, Control& control, Options options)
    : bus_(bus), control_(control), options_(std::move(options)) {
  if (!options_.open)
    options_.open = [folder = options_.folder](const std::string& name) { return open_node(name, {}, folder); };
  if (!options_.pause) {
    options_.pause = [](Duration time) {
      std::this_thread::sleep_for(time);
      return true;
    };
  }
}

Status Removal::remove(const std::string& name) {
  OUTBOARD_CHECK(check_name(name));
  const auto known = bus_.devices();
  if (std::ranges::find(known, name) == known.end())
    return Error(ENOENT, "there is no VDUSE device of this name").on(name).cure("outboard vduse list");
  // Who has the node open serves the device, and nobody else can.
  auto node = options_.open(name);
  if (!node) {
    // Given up by the kernel: no messages come any more. No node: none can be answered.
    const int code = node.error().code();
    if (code != EPERM && code != ENOENT && code != ENODEV) return node.error();
    options_.log.info("{}; it is removed without answering its messages", node.error().message());
  }
  if (bus_.attached(name)) {
    OUTBOARD_TRY(const UniqueFd claim, claim_unused(name));
    OUTBOARD_CHECK(take_off(name, node ? std::move(*node) : nullptr));
  }
  node = std::unique_ptr<Node>();  // the last reference
  OUTBOARD_CHECK(destroy(name));
  if (options_.journal.empty()) return {};
  if (const auto gone = journal::File::discard(options_.journal); !gone)
    options_.log.warning("{}: it stays", gone.error().message());
  return {};
}

Status Removal::check_idle(const std::string& name, const std::string& disk) const {
  const unsigned requests = bus_.in_flight(disk);
  if (requests == 0) return {};
  return Error(EBUSY, fmt::format("{} requests of the disk {} are in flight, and only its server can finish them",
                                  requests, disk))
      .on(name)
      .cure("start its server again, with the options and the journal that it had, and end it with SIGTERM");
}

/// Whoever looks at a new disk for a moment (udev) is waited for.
Result<UniqueFd> Removal::claim_unused(const std::string& name) {
  const auto child = bus_.child(name);
  if (!child || child->made.empty()) return UniqueFd();
  // With requests in flight, opening the disk would wait for ever, and could not be killed.
  OUTBOARD_CHECK(check_idle(name, child->made));
  auto claim = bus_.claim_unused(child->made);
  const auto is_busy = [&claim] { return !claim && claim.error().code() == EBUSY; };
  for (unsigned tries = 0; is_busy() && tries < retries / 2 && options_.pause(retry_pause); ++tries)
    claim = bus_.claim_unused(child->made);
  if (is_busy()) {
    return Error(EBUSY, fmt::format("the disk {} is in use: {}", child->made, claim.error().what()))
        .on(name)
        .cure(
            "unmount it, or end what has it open, first; where that hangs, start its server again: it takes the disk over");
  }
  if (!claim) return claim;
  OUTBOARD_CHECK(check_idle(name, child->made));
  return claim;
}

Status Removal::take_off(const std::string& name, std::unique_ptr<Node> node) {
  std::unique_ptr<Caretaker> caretaker;
  if (node) {
    OUTBOARD_TRY(caretaker, Caretaker::start(std::move(node), options_.log));
  }
  const Reminder reminder(std::chrono::seconds(10), [&] {
    options_.log.warning(
        "{}: its driver does not let go of it; it may have requests in flight: start its server "
        "again, which takes them over. Killing this process changes nothing",
        name);
  });
  return bus_.detach(name);
}

Status Removal::destroy(const std::string& name) {
  return control_.destroy_with_retry(
      name, [this, tries = 0U]() mutable { return tries++ < retries && options_.pause(retry_pause); });
}

}  // namespace outboard::vduse
