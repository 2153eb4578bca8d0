#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/peer.hpp>

namespace outboard::vfio_user {

class ListeningSocket;

/// Serves one PCI function on one UNIX socket, to one client at a time. A second client is refused at once (EBUSY). When a
/// client has left, the next one finds the function in the state that it was left in.
///
/// Everything happens on one thread, that of the loop: either Options::loop, or a reactor of the server's own, which run()
/// runs, or fd() and process() put into another event loop. Who may connect is decided by the permissions of the socket and its
/// directory. Errors go to stderr unless Options::log says otherwise. No signal handler is installed, but for memory's fault
/// guard by run() (Options::fault_guard).
///
/// What a client sends is never trusted: it can break its own connection and confuse its own device, no more. It gets a share
/// of the process's mappings and descriptors, so that the clients of other servers have theirs.
class Server {
 public:
  /// Whether run() installs memory's fault guard, or leaves that to the program.
  enum class FaultGuard : std::uint8_t { install, leave };

  struct Options {
    Loop* loop = nullptr;  ///< null: a reactor of its own
    Log log = Log::to_stderr(Level::error);
    /// Memory that its client could truncate (QEMU's usual memory-backend-memfd, files, huge pages) is mapped only where
    /// memory::install_fault_guard() has been called; else DMA_MAP is refused, with a line in the log. run() calls it.
    FaultGuard fault_guard = FaultGuard::install;
    /// How long the server's own reactor polls before it sleeps.
    Duration spin{0};
    /// Permissions of the socket: who may write may connect. By default what the umask leaves (0755: only its owner).
    std::optional<mode_t> socket_mode;
    /// Others are answered with EACCES.
    AllowedPeers allowed{};
    /// Of one region access, in bytes; 4096...64 MiB.
    std::size_t max_data_transfer = std::size_t{1} << 20;
    /// A client that does not complete a message, or does not read what it is sent, within this is disconnected.
    Duration stall_timeout{std::chrono::seconds(30)};
    /// An unmap or a reset that the function has not completed by then is answered with ETIMEDOUT; a client that connects while
    /// the function has not released the last one, with EBUSY.
    Duration operation_timeout{std::chrono::seconds(2)};
    /// A DMA message that the client has not answered by then fails.
    Duration dma_timeout{std::chrono::seconds(30)};
    /// After stop(), run() asks the client to release the function, by its REQ interrupt, and waits so long for it to leave.
    /// Clients that have not bound that interrupt (QEMU does not) are not asked. 0: no client is.
    Duration unplug_timeout{0};
    /// How long listen() blocks the calling thread while another server has the path: a process that was killed keeps it until
    /// its memory is freed.
    Duration path_timeout{std::chrono::seconds(1)};
  };

  /// Listens at `path`. The socket of a dead server is replaced; at the end the path is removed if it is still the server's.
  /// The path appears last: a client that finds it can connect. EADDRINUSE: a live server has the path, or it is not a socket.
  /// ECANCELED: the program is to end. EMFILE: the process's limit of descriptors is too low for the function's interrupts and
  /// a client. Otherwise the error of `factory`.
  static Result<Server> listen(const std::string& path, pci::FunctionFactory factory, Options options);
  static Result<Server> listen(const std::string& path, pci::FunctionFactory factory);
  /// Serves on a socket that listens already (socket activation); it is closed, not removed, at the end.
  static Result<Server> adopt(UniqueFd listening_socket, pci::FunctionFactory factory, Options options);

  ~Server();
  Server(Server&&) noexcept;
  Server& operator=(Server&&) noexcept;

  /// Serves until stop(), then disconnects the client (see Options::unplug_timeout) and gives the function operation_timeout to
  /// release it. Returns an exit status for main: 0, or 1 (and a line in the log) if the loop or the fault guard failed. Only
  /// with a reactor of the server's own.
  int run();
  /// Ends run(). Any thread, and from a signal handler. Does nothing where Options::loop was given.
  void stop();

  /// For another event loop: readable when process() has work. -1 where Options::loop was given.
  int fd() const;
  Status process();

  pci::Function& function();
  Loop& loop();
  /// The client that is connected; none while the function releases the last one.
  std::optional<Peer> client() const;

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  static Result<Server> make(ListeningSocket socket, pci::FunctionFactory factory, Options options);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::vfio_user
