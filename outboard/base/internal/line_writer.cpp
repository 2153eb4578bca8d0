#include <outboard/base/internal/line_writer.hpp>

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/internal/thread.hpp>

namespace outboard {
namespace {

constexpr std::size_t max_waiting = std::size_t{4} << 20;
constexpr std::size_t max_note = 128;
constexpr Duration between_starts = std::chrono::seconds(1);

TimePoint now() { return Clock::system().now(); }

/// Whether a write would not wait, as far as poll() can tell.
bool has_room(int fd, int milliseconds) {
  pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
  return ::poll(&room, 1, milliseconds) == 1;
}

mode_t kind_of(int fd) {
  struct stat about{};
  return ::fstat(fd, &about) == 0 ? about.st_mode & S_IFMT : 0;
}

/// Not a terminal, which calls itself writable with room for a part of a line.
bool tells_its_room(int fd) {
  const mode_t kind = kind_of(fd);
  return kind == S_IFREG || kind == S_IFIFO || kind == S_IFSOCK;
}

/// One line a call: a pipe takes each in one piece, whoever else writes to it. A file takes all at once, and keeps up with any burst.
std::string_view piece_of(std::string_view text, mode_t kind) {
  return kind == S_IFREG ? text : text.substr(0, std::min(text.find('\n'), text.size() - 1) + 1);
}

/// Which threads take the signals is for the program to say. False: it cannot be started, for want of memory or of threads.
bool start_without_signals(std::move_only_function<void()> body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool has_started = true;
  try {
    auto thread = start_thread("a log", std::move(body));
    has_started = thread.has_value();
    if (has_started) thread->detach();
  } catch (const std::bad_alloc&) {  // for the words of an error
    has_started = false;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return has_started;
}

std::atomic<LineWriter*> made_for_stderr = nullptr;

}  // namespace

/// The thread keeps it: a write that waits for ever must not keep the owner of the LineWriter.
struct LineWriter::State {
  State(UniqueFd to, Failed on_failure) : fd(std::move(to)), failed(std::move(on_failure)) {
    for (std::string* text : {&waiting, &taken}) text->reserve(max_waiting + max_note);
  }

  /// The child of a fork() has neither the thread nor, maybe, a mutex that anybody unlocks.
  bool is_child() const { return process != ::getpid(); }

  /// How much of `text` is done with: written or, if the kernel refuses it, lost. 0: it would have to wait.
  std::size_t write_piece(std::string_view text) const {
    const std::string_view piece = piece_of(text, kind_of(fd.get()));
    const ssize_t written = ::write(fd.get(), piece.data(), piece.size());
    if (written >= 0) return static_cast<std::size_t>(written);
    if (errno == EINTR || errno == EAGAIN) return 0;
    try {
      if (failed) failed(Error::from_errno("writing"));
    } catch (const std::bad_alloc&) {
      return piece.size();  // and nobody can be told
    }
    return piece.size();
  }

  void write_as_child(std::string_view line) const {
    std::array<char, PIPE_BUF> copy;
    const std::size_t size = line.copy(copy.data(), copy.size());
    if (size < line.size()) copy.back() = '\n';
    if (has_room(fd.get(), 0)) write_piece({copy.data(), size});
  }

  // The rest under the mutex.
  bool is_idle() const { return waiting.empty() && left.empty(); }

  void add(std::string_view line) {
    if (is_idle()) waited_in_vain = false;
    const std::string_view start = line.substr(0, PIPE_BUF);
    // In order: as long as one is missing, no later one is taken.
    if (dropped != 0 || waiting.size() + start.size() > max_waiting) {
      ++dropped;
      return;
    }
    waiting += start;
    if (start.size() < line.size()) waiting.back() = '\n';
  }

  void take() {
    taken.clear();
    taken.swap(waiting);
    if (const auto missing = std::exchange(dropped, 0); missing != 0) {
      std::array<char, max_note> note{};
      const auto end = fmt::format_to_n(note.data(), note.size(),
                                        "({} lines were dropped here: more than could be written)\n", missing);
      taken.append(note.data(), end.out);
    }
    left = taken;
  }

  /// In the place of the thread.
  bool write_what_finds_room() {
    while (!is_idle() && tells_its_room(fd.get()) && has_room(fd.get(), 0)) {
      if (left.empty()) take();
      left.remove_prefix(write_piece(left));
    }
    return is_idle();
  }

  bool wait_until(std::unique_lock<std::mutex>& lock, TimePoint end) {
    while (!has_thread) {
      if (write_what_finds_room()) return true;
      const auto time = std::chrono::ceil<std::chrono::milliseconds>(end - now());
      if (time.count() <= 0 || !tells_its_room(fd.get())) return false;
      lock.unlock();
      has_room(fd.get(), static_cast<int>(time.count()));
      lock.lock();
    }
    return changed.wait_until(lock, end, [this] { return is_idle(); });
  }
  bool wait(std::unique_lock<std::mutex>& lock, Duration limit) {
    const bool is_written = wait_until(lock, now() + limit);
    waited_in_vain = !is_written;
    return is_written;
  }

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return !is_idle() || ended; });
      if (is_idle()) return;
      if (left.empty()) take();
      lock.unlock();
      write_all(left);
      lock.lock();
      left = {};
      changed.notify_all();
    }
  }
  void write_all(std::string_view text) const {
    while (!text.empty()) {
      const std::size_t done = write_piece(text);
      if (done == 0) has_room(fd.get(), -1);  // somebody has made it non-blocking: ssh and some shells do
      text.remove_prefix(done);
    }
  }

  const UniqueFd fd;
  const Failed failed;
  const pid_t process = ::getpid();
  std::mutex mutex;
  std::condition_variable changed;
  bool has_thread = false;
  TimePoint next_start;
  std::string waiting;  ///< never longer than what is reserved
  std::string taken;  ///< what is being written; only the thread touches it, where there is one
  std::string_view left;  ///< of `taken`
  std::uint64_t dropped = 0;
  Duration timeout = Duration::zero();  ///< how long each line waits: since the end of the process has begun
  TimePoint paid_until;  ///< of brief waits: each is paid with twenty times as much time
  bool waited_in_vain = false;  ///< and since then not all has been written
  bool ended = false;
};

LineWriter::LineWriter(UniqueFd fd, Failed failed) : state_(std::make_shared<State>(std::move(fd), std::move(failed))) {
  const std::lock_guard lock(state_->mutex);
  start();
}

LineWriter::~LineWriter() {
  if (state_->is_child()) return;
  flush(end_timeout);
  const std::lock_guard lock(state_->mutex);
  state_->ended = true;
  state_->changed.notify_all();
}

/// Under the mutex.
void LineWriter::start() {
  state_->next_start = now() + between_starts;
  state_->has_thread = start_without_signals([state = state_] { state->run(); });
}

LineWriter& LineWriter::of_stderr() {
  // Never destroyed: whatever is destroyed late may still log.
  static LineWriter& writer = *[] {
    auto* made = new LineWriter(UniqueFd(STDERR_FILENO));
    made_for_stderr = made;
    std::atexit(end_stderr);
    std::at_quick_exit(end_stderr);
    return made;
  }();
  return writer;
}

void LineWriter::flush_stderr() {
  if (LineWriter* writer = made_for_stderr) writer->flush(end_timeout);
}

void LineWriter::end_stderr() {
  State& state = *made_for_stderr.load()->state_;
  if (state.is_child()) return;
  std::unique_lock lock(state.mutex);
  state.timeout = end_timeout;
  state.wait(lock, end_timeout);
}

void LineWriter::write(std::string_view line) {
  State& state = *state_;
  if (state.is_child()) return state.write_as_child(line);
  std::unique_lock lock(state.mutex);
  state.add(line);
  if (!state.has_thread && now() >= state.next_start) start();
  if (state.has_thread)
    state.changed.notify_all();
  else
    state.write_what_finds_room();
  if (state.timeout != Duration::zero() && !state.waited_in_vain) state.wait(lock, state.timeout);
}

bool LineWriter::flush(Duration limit) {
  if (state_->is_child()) return true;
  std::unique_lock lock(state_->mutex);
  if (!state_->has_thread) start();
  return state_->wait(lock, limit);
}

bool LineWriter::flush_briefly(Duration limit) {
  State& state = *state_;
  if (state.is_child()) return true;
  std::unique_lock lock(state.mutex);
  const TimePoint start = now();
  if (state.waited_in_vain || state.paid_until > start + std::chrono::seconds(1)) return state.is_idle();
  const bool is_written = state.wait(lock, limit);
  state.paid_until = std::max(state.paid_until, start) + 20 * (now() - start);
  return is_written;
}

}  // namespace outboard
