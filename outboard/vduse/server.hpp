#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <outboard/base/internal/storage_identity.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/journal/file.hpp>
#include <outboard/vduse/bus.hpp>
#include <outboard/vduse/control.hpp>
#include <outboard/vduse/export.hpp>

namespace outboard::vduse {

/// Serves one virtio device under one VDUSE name: creates the device, or takes over the one that a dead server left; attaches
/// it to the bus; at the end detaches and destroys it. docs/vduse.md describes its operation.
///
/// The device's loop is a reactor of the server, which run() runs; with Options::threads the queues have reactors on threads of
/// their own. A separate thread, which serves nothing, attaches and detaches. Installs no signal handlers. Created, run and
/// destroyed on one thread.
///
/// If a driver of this kernel is to use the device, the thread that creates and runs the server, and all threads that it
/// starts, are IoFlushers meanwhile, since the kernel waits for their writes. Without the right to that, the server logs a
/// warning.
class Server {
 public:
  struct Options {
    std::string name;
    Export::Options device{};  ///< api_version, groups, core
    /// Whether the server attaches the device to the bus. false: the administrator does (`vdpa dev add name NAME mgmtdev
    /// vduse`).
    bool attach = true;
    BusDriver driver = BusDriver::virtio;
    /// Destroys the device that a dead server left under this name, instead of taking it over.
    bool replace = false;
    /// Takes over a device although this server's storage is not the storage that the driver has used. Set it only if the
    /// contents are the same (an image that was moved or copied while no server ran).
    bool accept_other_storage = false;
    /// Waits until the kernel has ended the requests of a dead server on `before`, storage that this server does not have
    /// (accept_other_storage): until then they may write to the memory of the driver. For images:
    /// storage::wait_for_requests_on(). If it is empty, or returns an error, the device is not taken over.
    std::function<Status(const StorageIdentity& before)> wait_for_requests_on{};
    /// Does not wait for these requests. Set it only if they are known to have ended.
    bool old_requests_have_ended = false;
    /// The path of the journal, which records the requests in flight for the next server; empty: RUN/vduse/NAME.journal.
    std::string journal{};
    /// Without a journal: if the server is killed, the device cannot be taken over, and the requests in flight never end.
    bool no_journal = false;
    /// Describes how the options of the previous server, whose journal has shape `before`, differ from this one's: "with
    /// --queues 2, without --packed". An empty result, or no function: unknown.
    std::function<std::string(const journal::File::Shape& before, const journal::File::Shape& now)> differing_options{};
    unsigned threads = 0;  ///< for queues; 0: they share the device's loop
    Duration spin{0};  ///< how long the loops poll for work before they sleep
    std::string run = "/run/outboard";  ///< locks and journals
    std::string folder = device_folder;
    Bus::Options bus{};
    /// Whether to lock the name. false: the process that passed the node's descriptor makes sure that there is only one server.
    bool take_lock = true;
    /// How long create() waits for a predecessor that is ending and still holds the name.
    Duration lock_timeout = std::chrono::seconds(5);
    /// An attach that takes longer than this is logged.
    Duration slow_attach = std::chrono::seconds(10);
    /// How long run() waits for a driver to bind to the device after it is on the bus.
    Duration driver_timeout = std::chrono::seconds(10);
    /// A driver that is loaded binds before the attach ends. Another one must be loaded by udev: when udev's queue has been
    /// empty for this long, run() waits no longer.
    Duration driver_quiet = std::chrono::milliseconds(500);
    std::string udev = "/run/udev";  ///< the folder of udev's queue
    /// Open the control node and the device's node; for tests. By default Control::open() and vduse::open_node().
    std::function<Result<Control>(std::uint64_t api_version)> open_control{};
    std::function<Result<std::unique_ptr<Node>>(const std::string& name)> open_node{};
    Log log{};
  };

  using DeviceFactory = std::move_only_function<Result<std::unique_ptr<virtio::Device>>(Loop&, const Log&)>;

  /// Creates the device or takes it over, and answers the kernel's messages from then on. EBUSY: a live server has the name; or
  /// the kernel still carries out requests on the old storage (accept_other_storage). EEXIST: the name belongs to another
  /// device (another type, other features, another journal); it has not been changed. ESTALE: a driver uses the device that a
  /// dead server left, and this server has other storage, or less of it, or the storage ended with that server
  /// (StorageIdentity); or, with accept_other_storage, it is unknown whether the kernel still carries out requests on the old
  /// storage. EDEADLK: the storage or the journal is on the disk that is to be served. Other errors: those of the device,
  /// Control, open_node or the journal. After an error nothing is left behind that did not exist before.
  static Result<Server> create(DeviceFactory factory, Options options);

  /// Waits for the threads of the queues, and for storage that still carries out requests, without a timeout. A program that
  /// must end in any case needs a timeout of its own, as `outboard serve` has.
  ~Server();
  Server(Server&&) noexcept;
  Server& operator=(Server&&) noexcept;

  /// Attaches the device and serves until stop(); then waits until the disk is not in use, detaches it, and destroys the
  /// device. `ready` is called once, when a driver has bound to the device (without attach: at once).
  ///
  /// Also ends, with an error, if the attach fails or the kernel gives the device up. The device is then destroyed if possible;
  /// otherwise the error says what to do.
  Status run(std::function<Status()> ready);
  /// Ends run() in an orderly way; no request is lost. Any thread, and from a signal handler.
  void stop();

  Loop& loop();
  virtio::Device& device();
  /// The name of what the driver has made of the device, for messages: of a disk ("vda"), for example.
  std::string made() const;

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::vduse
