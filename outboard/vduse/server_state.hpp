#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include <outboard/base/reactor.hpp>
#include <outboard/base/reactor_pool.hpp>
#include <outboard/vduse/server.hpp>
#include <outboard/virtio/journal_file.hpp>

namespace outboard::vduse {

/// What a Server consists of. One thread, that of its loop.
struct Server::State {
  explicit State(Options given);
  ~State();

  // How it begins: server_begin.cpp.
  Status prepare(DeviceFactory& factory);
  Status make_device(DeviceFactory& factory);
  Status begin_fresh();
  Status begin_again();
  Status take_over();
  Status clear_away(DeviceFactory& factory);
  Result<std::unique_ptr<Node>> open_patiently() const;
  Status make_journal();
  Result<Export::Living> read_journal();
  Result<virtio::JournalFile::Shape> journal_shape();
  std::vector<std::byte> transport_area(const std::vector<std::uint32_t>& spaces) const;
  void tell_journal();
  bool exists() const;

  // How it goes on and ends: server_run.cpp.
  Status run(std::function<Status()> ready_);
  void attach();
  Status wait_for_driver() const;
  void attached(Status done);
  void be_ready();
  void end(std::optional<Error> why);
  void end_when_unused();
  void detach();
  void detached(const Status& done);
  void close(bool remove);
  void given_up(const Error& why);
  void finish();
  /// Runs `work` on a thread that serves nothing, and `then` here.
  void in_background(std::function<Status()> work, std::function<void(Status)> then);

  Options options;
  Log log;
  Bus bus;
  EventFd stop_event;
  UniqueFd lock;
  std::unique_ptr<Reactor> own;
  std::unique_ptr<ReactorPool> pool;
  std::unique_ptr<virtio::JournalFile> journal;
  std::unique_ptr<Export> exported;

  std::function<Status()> ready;
  std::thread background;
  bool working = false;  ///< on the background thread
  bool ending = false;
  bool finished = false;
  std::atomic<std::uint8_t> seen_status{0};  ///< bits of all that the driver has written since it was attached
  std::optional<Error> failure;
  std::string told_users;
  Registration stop_watch;
  Registration timer;
};

}  // namespace outboard::vduse
