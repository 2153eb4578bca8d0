#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/socket_path.hpp>

namespace outboard::vfio_user {

/// Serves one PCI function on one UNIX socket, to one client at a time; the next one is served when a client has left,
/// on the state that the function is in then. A second one that connects meanwhile is refused at once (EBUSY).
///
/// Everything happens on one thread, that of the loop: either Options::loop, or a reactor of the server's own, which
/// run() runs, or fd() and process() put into another event loop. Who may connect is decided by the permissions of the
/// socket and its directory. Errors go to stderr unless Options::log says otherwise. No signal handler is installed, but for
/// memory's fault guard by run() (Options::fault_guard).
///
/// What a client sends is never trusted: it can break its own connection and confuse its own device, no more. The mappings
/// and descriptors that it may take are a share of the process's (base/budget.hpp), so that other servers have theirs.
class Server {
 public:
  /// What run() does. `leave`: it is the program's to install it, or not.
  enum class FaultGuard : std::uint8_t { install, leave };

  struct Options {
    Loop* loop = nullptr;  ///< null: a reactor of its own
    Log log = Log::to_stderr(Level::error);
    /// Memory that its client could truncate (QEMU's usual memory-backend-memfd, files, huge pages) is mapped only where
    /// memory::install_fault_guard() has been called; else DMA_MAP is refused, with a line in the log. run() calls it.
    FaultGuard fault_guard = FaultGuard::install;
    /// How long the server's own reactor looks for work before it sleeps.
    Duration spin{0};
    /// Permissions of the socket: who may write may connect. By default what the umask leaves (0755: only its owner).
    std::optional<mode_t> socket_mode;
    /// Of one region access, in bytes; 4096...64 MiB.
    std::size_t max_data_transfer = std::size_t{1} << 20;
    /// A message that has begun must be complete, and what is sent be read, within this; else the connection ends.
    Duration stall_deadline{std::chrono::seconds(30)};
    /// An unmap or a reset that the function has not ended by then is answered ETIMEDOUT, and whoever wants to be the next
    /// client while it has not let go of the last one EBUSY.
    Duration slow_operation{std::chrono::seconds(2)};
    /// A DMA message that the client has not answered by then has failed.
    Duration dma_deadline{std::chrono::seconds(30)};
    /// After stop(), run() asks a client that hears of such requests (one that has bound the function's REQ interrupt; QEMU
    /// does not) to let go of the function, and waits so long for it to leave. 0: nobody is asked.
    Duration unplug_wait{0};
  };

  /// Listens at `path`; a socket that a dead server left is replaced, and the path is removed at the end if it is still
  /// the server's. The path appears last, when a client that finds it can connect. EADDRINUSE: a live server has it, or it is
  /// no socket. EMFILE: the process's limit of descriptors does not allow for what the function's interrupts and a client can
  /// take. What making the function said otherwise.
  static Result<Server> listen(const std::string& path, pci::FunctionFactory factory, Options options);
  static Result<Server> listen(const std::string& path, pci::FunctionFactory factory);
  /// Serves on a socket that listens already (socket activation); it is closed, not removed, at the end.
  static Result<Server> adopt(UniqueFd listening_socket, pci::FunctionFactory factory, Options options);

  ~Server();
  Server(Server&&) noexcept;
  Server& operator=(Server&&) noexcept;

  /// Serves until stop(), then lets go of the client (see Options::unplug_wait), giving the function slow_operation for
  /// it. Returns an exit status for main: 0, or 1 (and a line in the log) when the loop or the fault guard could not be had.
  /// Only with a reactor of the server's own.
  int run();
  /// Ends run(). Any thread, and from a signal handler. Nothing where Options::loop was given.
  void stop();

  /// For another event loop: readable when process() has something to do. -1 where Options::loop was given.
  int fd() const;
  Status process();

  pci::Function& function();
  Loop& loop();
  /// Who is connected. Nobody while the last client's connection is being cleaned up.
  std::optional<Peer> client() const;

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  static Result<Server> make(ListeningSocket socket, pci::FunctionFactory factory, Options options);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::vfio_user
