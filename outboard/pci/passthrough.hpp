#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/pci/internal/client_memory.hpp>
#include <outboard/pci/internal/exporter_config.hpp>
#include <outboard/pci/internal/msix_table.hpp>

namespace outboard::pci {

/// Re-exports a function that this process drives: a real device (kernel VFIO) for another process or a virtual machine, over
/// vfio-user. One client at a time.
///
/// The client reaches registers of BARs by calls, each of which is one access through the handle; with Options::trust_client
/// also by mapped memory and eventfds, if the handle has them. While the client has decoding off, during a reset, and when the
/// device has gone, reads give all-ones and writes are dropped. Configuration space is that of ExporterConfig. The MSI-X table
/// of the client is kept in this process and masks nothing.
///
/// The client's eventfds are bound through the handle. Its memory is mapped for the device at its own addresses, see
/// ClientMemory; bus mastering stays off until some is mapped. If memory cannot be unmapped, bus mastering is turned off,
/// everything is unmapped, and the function does not answer until the client has left.
///
/// When the client leaves: bus mastering off, interrupts off, memory unmapped, a reset, in this order; then the next client
/// may come. A device without a reset keeps the state of the last client (logged).
///
/// When the device is to be unplugged, the client is told (interrupt kind `request`); after Options::unplug_timeout, or at
/// once without a client, the handle is revoked. An error of the device is reported as interrupt kind `error`.
class Passthrough final : public Function {
 public:
  struct Options {
    /// Gives the client the descriptor that the handle maps BARs from. With kernel VFIO this is the device's own descriptor: its
    /// holder can do all that this process can do, also what this class filters.
    bool trust_client = false;
    Duration unplug_timeout{std::chrono::seconds(5)};
    /// Called once, posted to the loop, when the device has gone and no client can be served any more.
    std::function<void(const std::string& why)> ended;
    /// Runs a call that may take long (a reset) and posts what follows; by default on a thread.
    std::function<void(Loop::Task)> run_blocking;
  };

  /// The device must be behind an IOMMU: without one the client could make it access all memory. Takes the handle over, with
  /// nothing enabled. EPROTO: the configuration space is malformed. Other errors: those of the
  /// handle.
  static Result<std::unique_ptr<Passthrough>> create(std::unique_ptr<Handle> handle, Loop& loop, Log log,
                                                     Options options);
  /// For a server. Makes one function.
  static FunctionFactory factory(std::unique_ptr<Handle> handle, Options options);
  ~Passthrough() override;

  RegionInfo region(unsigned index) const override;
  InterruptInfo interrupts(InterruptKind kind) const override;
  bool resettable() const override;
  std::vector<IoEventFd> io_eventfds(unsigned region) override;
  /// EBUSY: a reset is in progress. EIO: memory could not be unmapped before. Other errors: those of ClientMemory.
  Status map(memory::Mapping mapping) override;
  void unmap(memory::IovaRange range, Completion done) override;
  void unmap_all(Completion done) override;
  Status bind_interrupts(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds) override;
  Status bind_unmask(EventFd eventfd) override;
  std::uint64_t held_eventfds() const override;
  Status disable_interrupts(InterruptKind kind) override;
  Status trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  void reset(Completion done) override;
  void release_client(Completion done) override;

 private:
  /// Where the MSI-X table lies.
  struct Table {
    unsigned bar = 0;
    std::uint64_t start = 0;
    MsixTableBytes bytes;
  };
  enum class State : std::uint8_t { working, resetting, failed, gone };

  Passthrough(std::unique_ptr<Handle> handle, Loop& loop, Log log, Options options);
  Status begin();
  Status find_regions();
  Status find_msix_table();
  void keep_table_unmapped(RegionInfo& region, unsigned index) const;

  bool answers(unsigned region) const;
  Status ready() const;
  bool in_table(unsigned region, std::uint64_t offset) const;
  Status read_checked(unsigned region, std::uint64_t offset, MutableBytes into) override;
  Status write_checked(unsigned region, std::uint64_t offset, Bytes from) override;
  std::size_t piece_of(unsigned region, std::uint64_t offset, std::size_t length) const;

  void follow_memory();
  Status memory_failed(const Status& why);

  Status bind_notice(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds);
  Status bind_fixed(std::uint32_t start, std::vector<EventFd> eventfds);
  Status fill_gaps(std::vector<EventFd>& eventfds) const;
  EventFd* notice_of(InterruptKind kind);
  void end_interrupts();

  void blocking(std::function<Status()> call, Completion then);
  void came_back(const Status& result, Completion then);
  void restarted();
  void client_released(const Status& reset, Completion done);

  void on_event(Event event);
  void late_event(Event event);
  void unplug_requested();
  bool has_client() const;
  void give_up(const std::string& why);
  void has_gone(const std::string& why);

  Loop& loop_;
  Log log_;
  Options options_;
  std::vector<std::shared_ptr<memory::HostMemory>> kept_;  ///< what the device may reach until the handle has ended
  std::unique_ptr<Handle> handle_;
  std::unique_ptr<ExporterConfig> config_;
  std::optional<ClientMemory> memory_;
  std::array<RegionInfo, region::count> regions_;
  std::array<bool, 6> is_io_{};
  std::optional<Table> table_;
  State state_ = State::working;

  std::optional<InterruptKind> bound_;  ///< the one of INTx, MSI and MSI-X that the client has enabled
  std::vector<EventFd> vectors_;  ///< its eventfds
  EventFd sink_;  ///< in place of those that are not bound, where none is dangerous
  EventFd unmask_;
  Registration unmask_watch_;
  EventFd error_notice_, request_notice_;

  std::thread worker_;
  Registration unplug_timer_;
  std::vector<Event> late_events_;
  bool unplug_wanted_ = false, give_up_when_back_ = false;
  std::shared_ptr<char> alive_ = std::make_shared<char>();  ///< for what is posted to the loop
};

}  // namespace outboard::pci
