#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/base/storage_identity.hpp>
#include <outboard/vduse/bus.hpp>
#include <outboard/vduse/control.hpp>
#include <outboard/vduse/export.hpp>
#include <outboard/virtio/journal_file.hpp>

namespace outboard::vduse {

/// Serves one virtio device under one VDUSE name: creates it, or takes over the one that a dead server left; attaches it
/// to the bus; and in the end takes everything away again. docs/vduse.md is about running it.
///
/// The device's loop is a reactor of the server's own, which run() runs; with Options::threads the queues have reactors on
/// threads of their own. Attaching and detaching happen on a thread that serves nothing. Installs no signal handlers.
///
/// Where a driver of this kernel is to have the device the thread that creates and runs the server, and all that it starts,
/// is an IoFlusher for as long: the kernel waits for its writes. Without the right to that, a warning.
class Server {
 public:
  struct Options {
    std::string name;
    Export::Options device{};  ///< api_version, groups, core
    /// Whether to put the device on the bus. false: somebody else does (`vdpa dev add name NAME mgmtdev vduse`).
    bool attach = true;
    BusDriver driver = BusDriver::virtio;
    /// What a dead server left under this name goes away, instead of being taken over.
    bool replace = false;
    /// Take over a device although other storage stands behind it than its driver has seen: whoever sets it knows that the
    /// contents are the same (an image that was moved or copied while no server ran).
    bool accept_other_storage = false;
    /// Waits until the kernel has ended the requests of a dead server on `before`, storage that this server does not have
    /// (accept_other_storage): their data still reach the memory of the driver. What storage::wait_for_requests_on() does
    /// for images. Without it, and with any error of it, the device is not taken over.
    std::function<Status(const StorageIdentity& before)> wait_for_requests_on{};
    /// Does not wait for them: whoever sets it knows that they have ended.
    bool old_requests_have_ended = false;
    /// Where the requests in flight are noted, for the server after this one; empty: RUN/vduse/NAME.journal.
    std::string journal{};
    /// Without: if the server is killed, the device cannot be taken over, and what is in flight waits for ever.
    bool no_journal = false;
    /// How the options of the server before, whose journal is of shape `before`, differ from this one's, for people: "with
    /// --queues 2, without --packed". Empty, or none: that cannot be told.
    std::function<std::string(const virtio::JournalFile::Shape& before, const virtio::JournalFile::Shape& now)>
        differing_options{};
    unsigned threads = 0;  ///< for queues; 0: they share the device's loop
    Duration spin{0};  ///< how long the loops look for work before they sleep
    std::string run = "/run/outboard";  ///< locks and journals
    std::string folder = device_folder;
    Bus::Options bus{};
    /// Whether to take the lock of the name. false: whoever handed the node over sees to it that there is one server.
    bool take_lock = true;
    /// How long a predecessor on its way out may keep the name.
    Duration lock_patience = std::chrono::seconds(5);
    /// How long an attach may take before the log says so, and a driver to turn up once the device is on the bus.
    Duration slow_attach = std::chrono::seconds(10);
    Duration driver_patience = std::chrono::seconds(10);
    /// A driver that is loaded has begun before the kernel says that the device is on the bus. Another one comes only if udev
    /// loads it: after so long without anything in udev's queue nobody will.
    Duration driver_quiet = std::chrono::milliseconds(500);
    std::string udev = "/run/udev";  ///< where its queue is
    /// The kernel's side, where a test has another one: by default Control::open() and vduse::open_node().
    std::function<Result<Control>(std::uint64_t api_version)> open_control{};
    std::function<Result<std::unique_ptr<Node>>(const std::string& name)> open_node{};
    Log log{};
  };

  using DeviceFactory = std::move_only_function<Result<std::unique_ptr<virtio::Device>>(Loop&, const Log&)>;

  /// Everything up to answering the kernel's messages. EBUSY: a live server has the name. EEXIST: a device of this name
  /// that is not this one's (another type, other features, a journal of something else), and nothing has been done to it.
  /// ESTALE: a driver uses the device that a dead server left, with other storage behind it than this one has, or with more of
  /// it, or with storage that ended with that server (StorageIdentity); or that storage is accepted, and it cannot be known
  /// whether the kernel still carries out requests on the other one (EBUSY: it does). EDEADLK: the storage, or the journal, is on
  /// the disk that is to be served.
  /// Otherwise what the device, Control, open_node or the journal say. With an error nothing is left behind that was not
  /// there before.
  static Result<Server> create(DeviceFactory factory, Options options);

  ~Server();
  Server(Server&&) noexcept;
  Server& operator=(Server&&) noexcept;

  /// Attaches the device and serves until stop(); then waits until nobody uses the disk, detaches, and removes the device.
  /// `ready` is called once, when a driver has taken the device (or, without attach, at once).
  ///
  /// An error of the attach, or the kernel's having given the device up, ends it too: the device is removed where that is
  /// possible, and the error says what is to be done where it is not.
  Status run(std::function<Status()> ready);
  /// Ends run(), in the order that loses nothing. Any thread, and from a signal handler.
  void stop();

  Loop& loop();
  virtio::Device& device();
  /// What has become of it: the disk's name ("vda"), or that of whatever else the driver has made. For people.
  std::string made() const;

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::vduse
