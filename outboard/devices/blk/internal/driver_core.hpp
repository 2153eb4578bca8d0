#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/blk/driver.hpp>
#include <outboard/devices/blk/driver_limits.hpp>
#include <outboard/devices/blk/driver_queue.hpp>
#include <outboard/virtio/transport.hpp>

namespace outboard::blk {

/// What is behind a Driver: the device's life, from reset to reset. Control loop, but for report() and the getters.
class DriverCore : public std::enable_shared_from_this<DriverCore> {
 public:
  static Result<std::shared_ptr<DriverCore>> start(virtio::Transport& transport,
                                                   std::unique_ptr<virtio::Transport> owned,
                                                   const Driver::Options& options);
  ~DriverCore();

  /// The device has broken a rule, or does not answer: reset it and go on. Any thread.
  void report(const Error& error);
  /// A look at the status, when something seems wrong. Any thread.
  void suspect();
  /// Resets the device, ends what is in flight with ECANCELED. Control loop.
  void shut_down();
  void stop_queues(std::move_only_function<void()> done);

  const Driver::Options& options() const { return options_; }
  virtio::Transport& transport() { return transport_; }
  Loop& control() { return *control_; }
  Reactor* reactor() { return reactor_.get(); }
  const virtio::Features& features() const { return features_; }
  const Limits& limits() const { return limits_; }
  std::uint64_t capacity() const { return capacity_.load(std::memory_order_relaxed); }
  std::vector<std::unique_ptr<Queue>>& queues() { return queues_; }
  int dead() const { return dead_.load(std::memory_order_relaxed); }
  unsigned recoveries() const { return recovered_; }

 private:
  DriverCore(virtio::Transport& transport, std::unique_ptr<virtio::Transport> owned, const Driver::Options& options);

  Status choose_loop();
  Status prepare();
  Status agree();
  Status read_config();
  Status build_queues();
  Status watch_vectors();
  std::optional<unsigned> wanted_vector(unsigned queue) const;
  Queue* first_with(unsigned vector) const;
  void watch_queue_vector(unsigned vector);
  void vector_fired(unsigned vector, Loop& here);
  void config_changed();

  void recover(const Error& reason);
  void paused();
  void restart();
  Status bring_back();
  void resume(int reason);
  bool may_recover();
  void give_up(int error, const Error& reason);
  void on_loop(Loop& loop, std::move_only_function<void()> task);
  void on_each_queue(void (*task)(Queue& queue), std::move_only_function<void()> done);

  virtio::Transport& transport_;
  std::unique_ptr<virtio::Transport> owned_;
  Driver::Options options_;
  std::unique_ptr<Reactor> reactor_;
  Loop* control_ = nullptr;
  virtio::Features features_;
  Limits limits_;
  std::atomic<std::uint64_t> capacity_{0};
  std::atomic<int> dead_{0};
  unsigned vectors_ = 0;
  std::vector<std::unique_ptr<Queue>> queues_;
  Registration config_watch_;
  bool recovering_ = false;
  bool stopped_ = false;  // the queues, for good
  int reason_ = 0;  // of the recovery, as an errno value
  std::size_t pausing_ = 0;
  std::atomic<unsigned> recovered_{0};
  std::deque<TimePoint> recent_;
};

}  // namespace outboard::blk
