#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <outboard/base/internal/io_flusher.hpp>
#include <outboard/base/reactor.hpp>
#include <outboard/base/reactor_pool.hpp>
#include <outboard/journal/file.hpp>
#include <outboard/vduse/server.hpp>

namespace outboard::vduse {

/// What a Server consists of. One thread, that of its loop.
struct Server::State {
  explicit State(Options given);
  ~State();

  // How it begins: server_begin.cpp.
  Status prepare(DeviceFactory& factory);
  Status make_device(DeviceFactory& factory);
  Error about_this_device(const Error& error) const;
  Status begin_fresh();
  Status begin_again();
  Status take_over();
  Status clear_away(DeviceFactory& factory);
  Status end_at_once();
  void forget_device();
  void bring_to_rest();
  unsigned in_flight() const;
  Status destroy(Control& control) const;
  Result<std::unique_ptr<Node>> open_with_retry() const;
  Status make_journal();
  bool is_another(Bytes instance) const;
  void use_journal();
  void look_after_journal();
  void renew_journal();
  Result<Export::Predecessor> read_journal();
  Result<journal::File::Shape> journal_shape();
  Error without_journal(const Error& why, const journal::File::Shape& now) const;
  std::vector<std::byte> transport_area(const std::vector<std::uint32_t>& spaces) const;
  bool exists() const;

  // Which storage stands behind it: server_storage.cpp.
  void become_io_flusher();
  Status check_not_on_itself() const;
  Status check_storage() const;
  Status wait_for_old_requests(const Result<StorageIdentity>& before) const;
  Status note_storage();

  // How it goes on and ends: server_run.cpp.
  Status run(std::function<Status()> ready_);
  void attach();
  void attached(Status done);
  void be_ready();
  void end(std::optional<Error> why);
  void end_when_unused();
  void wait_for_users(const std::string& users);
  void detached(const Status& done);
  void close(bool remove);
  void given_up(const Error& why);
  void finish();
  /// Runs `work` on a thread that serves nothing, and `then` here. The kernel may keep the thread for longer than there is
  /// a server, so `work` gets all that it needs.
  void in_background(std::function<Status(Bus&)> work, std::function<void(Status)> then);
  void let_background_go();

  Options options;
  Log log;
  Bus bus;
  std::optional<IoFlusher> flusher;  ///< outlives every thread below
  EventFd stop_event;
  UniqueFd lock;
  std::unique_ptr<Reactor> own;
  std::unique_ptr<ReactorPool> pool;
  std::unique_ptr<journal::File> journal;
  std::shared_ptr<journal::File> lost_journal;  ///< which the core still tells, since there is no other
  std::vector<std::byte> config;  ///< as the journal has it
  std::vector<std::uint32_t> spaces;  ///< likewise
  std::unique_ptr<Export> exported;

  std::function<Status()> ready;
  /// What the background thread may still reach of the server, while there is one.
  struct Reach {
    std::mutex mutex;
    Loop* loop = nullptr;
    Log log;
  };
  std::shared_ptr<Reach> reach;
  std::thread background;
  bool working = false;  ///< on the background thread
  bool ending = false;
  bool finished = false;
  /// Bits of all that the driver has written since it was attached.
  std::shared_ptr<std::atomic<std::uint8_t>> seen_status = std::make_shared<std::atomic<std::uint8_t>>();
  std::optional<Error> failure;
  std::string told_users;
  Registration stop_watch;
  Registration timer;
};

}  // namespace outboard::vduse
