#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::vfio_user {

/// Drives the PCI function that a vfio-user server serves. One thread, and the loop of attach() must be that thread's.
///
/// A call that needs the server waits for it, at most Options::timeout, and reads the socket itself: while it waits it
/// answers the server's DMA commands from what dma() has mapped, and keeps events for later. No call can be made from
/// inside the event handler that would have to wait (EDEADLK). When the server goes, every call says ECONNRESET from
/// then on, gone() is true, Event::gone is raised once from process() or the loop, and windows read as all-ones.
class Client final : public pci::Handle {
 public:
  /// What becomes of the connection when a command has not been answered in time: it stays, and the next command waits as
  /// long; or it ends, and the server is gone.
  enum class OnTimeout : std::uint8_t { stay, end };
  struct Options {
    Log log;
    /// For any answer, and for connecting.
    Duration timeout{std::chrono::seconds(5)};
    OnTimeout on_timeout = OnTimeout::stay;
    /// For the answer to a reset, which may take a device longer.
    Duration reset_timeout{std::chrono::seconds(30)};
    /// How long a call looks for the answer before it sleeps.
    Duration spin{0};
    /// How long to wait for a server that is still starting: nobody listens at the path yet.
    Duration wait{0};
  };

  /// ENOENT, ECONNREFUSED: nobody listens there. EBUSY: another client drives the function. EPROTO: what answers speaks
  /// another protocol, another version of it, or does not describe a PCI function. ETIMEDOUT: nothing answers.
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

  Status bind_interrupts(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) override;
  Status bind_unmask(const EventFd& eventfd) override;
  Status disable_interrupts(pci::InterruptKind kind) override;
  Status mask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status unmask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status trigger_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;

 private:
  class State;
  explicit Client(std::unique_ptr<State> state);
  void tell_gone();
  std::unique_ptr<State> state_;
};

}  // namespace outboard::vfio_user
