#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/vfio_user/migrate.hpp>

namespace outboard::vfio_user {

/// Drives the PCI function that a vfio-user server serves. One thread, and the loop of attach() must be that thread's.
///
/// A call that needs the server waits for its reply, at most Options::timeout, and reads the socket itself. While it waits it
/// serves the server's DMA commands from the memory that dma() has mapped, and keeps events for later. Inside an event handler,
/// a call that would have to wait returns EDEADLK.
///
/// When the server ends or is killed, outstanding and later calls return ECONNRESET, gone() is true, Event::gone is raised
/// once, from process() or the loop, and windows read as all-ones.
class Client final : public pci::Handle {
 public:
  /// When a command is not answered in time: `stay` keeps the connection, and the next command waits as long; `end` closes the
  /// connection, and the server counts as gone.
  enum class OnTimeout : std::uint8_t { stay, end };
  struct Options {
    Log log;
    /// For the reply to a command, and for connecting.
    Duration timeout{std::chrono::seconds(5)};
    OnTimeout on_timeout = OnTimeout::stay;
    /// For the reply to a reset, which may take longer.
    Duration reset_timeout{std::chrono::seconds(30)};
    /// How long a call polls for the reply before it sleeps.
    Duration spin{0};
    /// Offers a second socket for the server's DMA messages. They then do not wait behind replies, and the other way round. It
    /// makes each wait for a reply look at two sockets.
    bool twin_socket = false;
    /// Maps memory with its file, which the server maps as well. Without: the server reaches it by messages, which the client serves
    /// while it waits for a reply, in process(), and on the loop of attach().
    bool share_memory = true;
    /// How long to retry while no server listens at the path yet.
    Duration wait{0};
    /// Waits between two attempts to connect; false: give up (ECANCELED). By default the thread sleeps until the program is to
    /// end.
    std::function<bool(Duration)> pause{};
  };

  /// ENOENT, ECONNREFUSED: no server listens at the path. EBUSY: another client drives the function. EPROTO: the listener
  /// speaks another protocol or version, or does not describe a PCI function. ETIMEDOUT: it does not answer. ECANCELED: see
  /// Options::pause.
  static Result<std::unique_ptr<Client>> connect(const std::string& path, Options options);
  static Result<std::unique_ptr<Client>> connect(const std::string& path) { return connect(path, Options{}); }
  /// The same over a socket that is connected already; `name` is for messages.
  static Result<std::unique_ptr<Client>> over(UniqueFd socket, std::string name, Options options);
  ~Client() override;

  std::string name() const override;
  Result<pci::RegionInfo> region(unsigned index) override;
  Result<pci::InterruptInfo> interrupts(pci::InterruptKind kind) override;
  Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) override;
  Status write_region(unsigned region, std::uint64_t offset, Bytes from) override;
  Status post_write(unsigned region, std::uint64_t offset, Bytes from) override;
  Result<pci::Window> map_window(unsigned region, std::uint64_t offset, std::uint64_t length) override;
  Result<std::vector<pci::IoEventFd>> io_eventfds(unsigned region) override;
  memory::DmaSpace& dma() override;
  memory::DmaMapper& dma_mapper() override;
  bool resettable() const override;
  Status reset() override;
  Status attach(Loop& loop) override;
  void detach() override;
  int fd() const override;
  Status process() override;
  void revoke() override;
  bool gone() const override;

  pci::Migration* migration() override;
  /// Moves the function to the server at `path` while its driver runs: afterwards this object drives it there, and the driver has
  /// noticed nothing. Memory stays mapped; windows, doorbells and interrupts are the new server's. No other thread may use
  /// windows meanwhile. The new server must not have a client, and must serve the same device with the same options.
  ///
  /// Until the new server has answered that the function runs there, an error lets it run on at the old one. If the new server's
  /// last answer is lost, nobody knows whether it ran: it is disconnected, and the old one goes on, or says that it cannot, since
  /// the driver's memory shows that it has run. ENOTSUP: one of the two cannot move its function, or they differ. EINVAL: the
  /// new server refuses the state. EALREADY: it is being moved. Other errors: those of connect(), of the servers, and of what
  /// `options` has.
  Result<MigrationReport> migrate_to(const std::string& path, const MigrationOptions& options);
  Result<MigrationReport> migrate_to(const std::string& path) { return migrate_to(path, MigrationOptions{}); }
  /// The same to a server over a socket that is connected already; `name` is for messages.
  Result<MigrationReport> migrate_over(UniqueFd socket, std::string name, const MigrationOptions& options);

  Status bind_interrupts(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) override;
  Status bind_unmask(const EventFd& eventfd) override;
  Status disable_interrupts(pci::InterruptKind kind) override;
  Status mask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status unmask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status trigger_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;

 private:
  struct State;
  explicit Client(std::unique_ptr<State> state);
  bool tell(pci::Event event);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::vfio_user
