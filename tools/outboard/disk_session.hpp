#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/blk/driver.hpp>
#include <outboard/pci/handle.hpp>
#include <tools/outboard/target_arguments.hpp>

namespace outboard::command {

/// Drives a disk: the function, a loop, and the driver on it. One thread.
///
/// The destructor waits for the requests in flight, which use memory of the process. A device that does not answer would keep the
/// process for ever. Therefore the process ends, with a line on stderr, when after a signal no answer comes for the target's
/// `end_timeout`, or when the destructor takes longer than that.
class DiskSession {
 public:
  static Result<std::unique_ptr<DiskSession>> open(const TargetArguments& target, Context& context,
                                                   blk::Driver::Options options);
  ~DiskSession();
  DiskSession(const DiskSession&) = delete;
  DiskSession& operator=(const DiskSession&) = delete;

  blk::Driver& driver() { return *driver_; }
  pci::Handle& handle() { return *handle_; }
  std::uint64_t capacity() const { return driver_->capacity(); }
  std::uint32_t block_size() const { return driver_->limits().block_size; }
  const StopSignal& stop() const { return stop_; }

  /// Runs the loop once, waiting at most `max_wait`. ECANCELED: a signal came.
  Status pump(Duration max_wait = std::chrono::milliseconds(100));
  /// The same also after a signal, for the requests in flight.
  Status pump_regardless(Duration max_wait = std::chrono::milliseconds(100));
  /// Does what can be done without waiting.
  Status process();
  /// Waits for `events` (of poll(2)) on `fd`, and processes completions meanwhile. ECANCELED: Ctrl-C.
  Status wait_for(int fd, short events);
  /// Call it for each request that has ended: as long as answers come, the session waits for them, also after a signal.
  void ended(const blk::Io& io);

  /// Gives the disk up: requests in flight end with ECANCELED, inside this call. Call it when the loop fails, while the
  /// submitted requests still exist. The driver cannot be used afterwards.
  void abandon() { driver_.reset(); }

  /// Submits on the first queue and waits for the completion, also after Ctrl-C.
  Status run(blk::Io& io);
  Status flush();
  /// The error of a request that has ended with `code`. `doing`: "reading".
  static Error io_error(int code, std::string_view doing);

  /// EINVAL: [offset, offset + length) is not within the disk.
  Status check_range(std::uint64_t offset, std::uint64_t length) const;

 private:
  DiskSession(StopSignal& stop, Duration end_timeout) : stop_(stop), end_timeout_(end_timeout) {}
  std::string_view end_message() const;
  void bound_end(StopSignal::Start start, const std::string& name, std::string_view what) const;

  // In this order: the driver is destroyed first, the loop last.
  StopSignal& stop_;
  Duration end_timeout_;
  bool in_this_process_ = false;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<pci::Handle> handle_;
  std::optional<blk::Driver> driver_;
};

/// The options --offset and --length.
struct RangeArguments {
  std::uint64_t offset = 0;
  std::optional<std::uint64_t> length;

  void add_to(const Verb& verb, const std::string& default_length);
};

}  // namespace outboard::command
