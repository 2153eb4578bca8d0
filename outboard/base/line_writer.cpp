#include <outboard/base/line_writer.hpp>

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/thread.hpp>

namespace outboard {
namespace {

constexpr std::size_t max_waiting = 65536;

bool has_room(int fd, Duration limit) {
  pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(limit);
  return ::poll(&room, 1, static_cast<int>(ms.count())) == 1 && (room.revents & POLLOUT) != 0;
}

Status write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {  // somebody has made it non-blocking: ssh and some shells do
      pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
      ::poll(&room, 1, -1);
      continue;
    }
    if (written < 0) return Error::from_errno("writing");
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

std::size_t first_line(std::string_view text) { return std::min(text.find('\n'), text.size() - 1) + 1; }

/// What a pipe takes in one piece.
std::string cut(std::string_view line) {
  std::string text(line.substr(0, PIPE_BUF));
  if (text.size() < line.size()) text.back() = '\n';
  return text;
}

/// One line a call: a pipe takes each in one piece, whoever else writes to it.
Status write_lines(int fd, std::string_view text) {
  while (!text.empty()) {
    const std::size_t size = first_line(text);
    OUTBOARD_CHECK(write_all(fd, text.substr(0, size)));
    text.remove_prefix(size);
  }
  return {};
}

/// Which threads take the signals is for the program to say.
Result<std::thread> start_without_signals(std::move_only_function<void()> body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  auto thread = start_thread("a log", std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

std::atomic<LineWriter*> used_stderr = nullptr;

}  // namespace

/// The thread keeps it: a write that waits for ever must not keep the owner of the LineWriter.
struct LineWriter::State {
  State(UniqueFd to, Failed on_failure) : fd(std::move(to)), failed(std::move(on_failure)) {}

  /// The child of a fork() has neither the thread nor, maybe, a mutex that anybody unlocks.
  bool is_child() const { return process != ::getpid(); }
  bool is_idle() const { return waiting.empty() && !writing; }

  // These three under the mutex.
  void add(std::string_view whole) {
    const std::string line = cut(whole);
    // In order: as long as one is missing, no later one is taken.
    if (dropped != 0 || waiting.size() + line.size() > max_waiting) {
      ++dropped;
      return;
    }
    waiting += line;
  }
  std::string take() {
    std::string text = std::exchange(waiting, {});
    const auto missing = std::exchange(dropped, 0);
    if (missing != 0) text += fmt::format("({} lines were dropped here: nobody read them)\n", missing);
    return text;
  }
  bool write_where_there_is_room(Duration limit) {
    while (!waiting.empty() || dropped != 0) {
      if (!has_room(fd.get(), limit)) return false;
      if (waiting.empty()) waiting = take();
      const std::string line = waiting.substr(0, first_line(waiting));
      waiting.erase(0, line.size());
      write_out(line);
    }
    return true;
  }

  void write_out(const std::string& text) const {
    if (const auto written = write_lines(fd.get(), text); !written && failed) failed(written.error());
  }

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return !waiting.empty() || ended; });
      if (waiting.empty()) return;
      const std::string text = take();
      writing = true;
      lock.unlock();
      write_out(text);
      lock.lock();
      writing = false;
      changed.notify_all();
    }
  }

  const UniqueFd fd;
  const Failed failed;
  const pid_t process = ::getpid();
  bool has_thread = false;
  std::mutex mutex;
  std::condition_variable changed;
  std::string waiting;
  std::uint64_t dropped = 0;
  bool writing = false;
  bool ended = false;
};

LineWriter::LineWriter(UniqueFd fd, Failed failed) : state_(std::make_shared<State>(std::move(fd), std::move(failed))) {
  const std::lock_guard lock(state_->mutex);
  auto thread = start_without_signals([state = state_] { state->run(); });
  if (!thread) return;
  thread->detach();
  state_->has_thread = true;
}

LineWriter::~LineWriter() {
  if (state_->is_child()) return;
  flush(end_patience);
  const std::lock_guard lock(state_->mutex);
  state_->ended = true;
  state_->changed.notify_all();
}

LineWriter& LineWriter::of_stderr() {
  // Never destroyed: whatever is destroyed late may still log.
  static LineWriter& writer = *[] {
    auto* made = new LineWriter(UniqueFd(STDERR_FILENO));
    used_stderr = made;
    std::atexit(flush_stderr);
    return made;
  }();
  return writer;
}

void LineWriter::flush_stderr() {
  if (LineWriter* writer = used_stderr) writer->flush(end_patience);
}

void LineWriter::write(std::string_view line) {
  if (state_->is_child()) {
    if (has_room(state_->fd.get(), Duration::zero())) state_->write_out(cut(line));
    return;
  }
  const std::lock_guard lock(state_->mutex);
  state_->add(line);
  if (state_->has_thread)
    state_->changed.notify_all();
  else
    state_->write_where_there_is_room(Duration::zero());
}

bool LineWriter::flush(Duration limit) {
  if (state_->is_child()) return true;
  std::unique_lock lock(state_->mutex);
  if (!state_->has_thread) return state_->write_where_there_is_room(limit);
  return state_->changed.wait_for(lock, limit, [this] { return state_->is_idle(); });
}

}  // namespace outboard
