#include <tools/outboard/disk_session.hpp>

#include <poll.h>

#include <array>
#include <cerrno>

#include <fmt/format.h>

#include <outboard/base/options.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tools/outboard/end_verdict.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/text.hpp>

namespace outboard::command {

Result<std::unique_ptr<DiskSession>> DiskSession::open(const TargetArguments& target, Context& context,
                                                       blk::Driver::Options options) {
  std::unique_ptr<DiskSession> session(new DiskSession(context.stop, target.end_timeout));
  session->in_this_process_ = target.target.starts_with("local:");
  OUTBOARD_TRY(session->reactor_, Reactor::create());
  OUTBOARD_TRY(session->handle_, target.open(context));
  session->bound_end(StopSignal::Start::at_signal, session->handle_->name(), session->end_message());
  options.loop = session->reactor_.get();
  options.log = context.log;
  OUTBOARD_TRY(auto transport, virtio_pci::Transport::open(*session->handle_));
  auto driver = blk::Driver::start(std::move(transport), options);
  if (!driver) return driver.error();
  session->driver_.emplace(std::move(*driver));
  return session;
}

DiskSession::~DiskSession() {
  if (handle_) bound_end(StopSignal::Start::now, handle_->name(), end_message());
  driver_.reset();
  handle_.reset();
  stop_.unbound();  // what the verb does afterwards takes its time
}

std::string_view DiskSession::end_message() const {
  return in_this_process_
             ? "ending although not all requests have been answered. The image stays locked until the kernel has carried "
               "them out"
             : "ending although not all requests have been answered";
}

void DiskSession::bound_end(StopSignal::Start start, const std::string& name, std::string_view what) const {
  const auto say = [name, what = std::string(what)] { print_error(Error(ETIMEDOUT, what).on(name)); };
  command::bound_end(stop_, start, end_timeout_, say);
}

void DiskSession::ended(const blk::Io& io) {
  // With any other error the driver has given up, or the device has gone.
  const bool is_answered = io.error == 0 || io.error == EIO;
  if (is_answered && stop_.requested()) stop_.show_life();
}

Status DiskSession::pump(Duration max_wait) {
  if (stop_.requested()) return StopSignal::interrupted();
  return pump_regardless(max_wait);
}

Status DiskSession::pump_regardless(Duration max_wait) {
  OUTBOARD_CHECK(reactor_->run_once(max_wait));
  return {};
}

Status DiskSession::process() { return reactor_->process(); }

Status DiskSession::wait_for(int fd, short events) {
  std::array<pollfd, 3> fds{{{fd, events, 0}, {stop_.fd(), POLLIN, 0}, {reactor_->fd(), POLLIN, 0}}};
  while (true) {
    if (poll(fds.data(), fds.size(), -1) < 0) {
      if (errno == EINTR) continue;
      return Error::from_errno("poll");
    }
    if (fds[1].revents != 0) return StopSignal::interrupted();
    if (fds[2].revents != 0) OUTBOARD_CHECK(process());
    if (fds[0].revents != 0) return {};
  }
}

Status DiskSession::run(blk::Io& io) {
  bool done = false;
  io.context = &done;
  io.done = [](blk::Io& ended) { *static_cast<bool*>(ended.context) = true; };
  blk::Queue& queue = driver_->queue(0);
  OUTBOARD_CHECK(queue.submit(io));
  queue.publish();
  // The driver's own timeout limits the wait.
  while (!done) {
    auto pumped = pump_regardless();
    if (!pumped) abandon();
    if (!pumped) return pumped;
  }
  ended(io);
  if (io.error != 0) return Error(io.error);
  return {};
}

Error DiskSession::io_error(int code, std::string_view doing) {
  if (code != ENODEV) return Error(code).while_doing(doing);
  return Error(code, fmt::format("{}: the device has gone: its server ended, or it was unplugged or given up", doing))
      .cure("-v shows why; if its server has ended, start it again");
}

Status DiskSession::flush() {
  if (!driver_->limits().flush) return {};
  blk::Io io;
  io.kind = blk::Io::Kind::flush;
  if (auto done = run(io); !done) return Error(done.error()).while_doing("flushing the disk");
  return {};
}

Status DiskSession::check_range(std::uint64_t offset, std::uint64_t length) const {
  if (range_within(offset, length, capacity())) return {};
  return Error(EINVAL, fmt::format("{} bytes at offset {} are beyond the end of the disk, which has {}", length, offset,
                                   capacity()))
      .cure("the default of --length is the rest of the disk");
}

void RangeArguments::add_to(const Verb& verb, const std::string& default_length) {
  verb.add_size("--offset", offset, "first byte (512, 64K, 1G; default 0)");
  verb.add_size("--length", length, "number of bytes (default: " + default_length + ")");
}

}  // namespace outboard::command
