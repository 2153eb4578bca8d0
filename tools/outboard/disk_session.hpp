#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/blk/driver.hpp>
#include <outboard/pci/handle.hpp>
#include <tools/outboard/command.hpp>

namespace outboard::command {

/// A disk that is being driven: the function, a loop, and the driver on it. One thread.
///
/// Its end waits for what is in flight, which uses memory of the process. A device that does not answer would keep the process
/// for ever. So the process ends, with a line on stderr, when the target's `end_patience` passes without an answer after a signal, or when
/// the end takes longer than that.
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

  /// Waits, at most `most`, until something is done on the loop, and does it.
  Status pump(Duration most = std::chrono::milliseconds(100));
  /// The same whether or not somebody wants us to end: for what is in flight.
  Status pump_regardless(Duration most = std::chrono::milliseconds(100));
  /// Does what can be done now.
  Status process();
  /// Waits until `events` (of poll(2)) are there on `fd`; what is in flight is looked after meanwhile. Ctrl-C: ECANCELED.
  Status wait_for(int fd, short events);
  /// To be told of each request that has ended: what is answered is waited for, also after a signal.
  void ended(const blk::Io& io);

  /// Gives the disk up: what is in flight ends with ECANCELED, from inside this call. For when the loop fails, while what
  /// was submitted is still there. The driver cannot be used afterwards.
  void abandon() { driver_.reset(); }

  /// Submits on the first queue and waits for the end of it, Ctrl-C or not.
  Status run(blk::Io& io);
  Status flush();
  /// A request that has ended with `code` while `doing` ("reading"). Says so where the device has gone.
  static Error io_error(int code, std::string_view doing);

  /// Whole sectors, one after the other. EINVAL when [offset, offset + length) is not on the disk.
  Status check_range(std::uint64_t offset, std::uint64_t length) const;

 private:
  DiskSession(StopSignal& stop, Duration end_patience) : stop_(stop), end_patience_(end_patience) {}
  std::string_view words_of_end() const;
  void bound_end(StopSignal::Start start, const std::string& name, std::string_view what) const;

  // In this order: the driver is destroyed first, the loop last.
  StopSignal& stop_;
  Duration end_patience_;
  bool in_this_process_ = false;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<pci::Handle> handle_;
  std::optional<blk::Driver> driver_;
};

/// The range of the disk that a verb is about.
struct RangeArguments {
  std::uint64_t offset = 0;
  std::optional<std::uint64_t> length;

  void add_to(CLI::App& verb, const std::string& default_length);
};

}  // namespace outboard::command
