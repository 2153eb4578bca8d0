#pragma once

#include <memory>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/pci/address.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/vfio/internal/interface.hpp>
#include <outboard/vfio/internal/sysfs.hpp>

namespace outboard::vfio {

/// Drives a PCI function of this machine through the kernel's VFIO. Only one process at a time can open it. If the function can
/// be reset, the kernel resets it when it is opened and when it is closed, which takes about 0.1 s. One thread, which must also
/// run the loop of attach(); windows as in pci::Handle.
///
/// Right after open() the function decodes its BARs, does no DMA and sends no MSI: call enable_bus_master() when there is
/// memory for it. The kernel makes the enable bits of MSI and MSI-X follow the interrupts that are bound: what is written
/// to them is dropped, as is what is written to the BARs. Memory is pinned where it is mapped (EFAULT: it cannot be), and
/// counted against RLIMIT_MEMLOCK.
///
/// The kernel reports an unplug or unbind request (Event::unplug_requested), and repeats it every 10 seconds. At the second one
/// the handle revokes itself, since the requester waits. A suspend of the machine is not reported: close the device first. A
/// DMA access outside of mapped memory is dropped, and reported only in the kernel's log.
///
/// A forked child must exec: it has neither the windows nor, when it does, the descriptors.
class Handle final : public pci::Handle {
 public:
  struct Options {
    Kernel* kernel = nullptr;  ///< null: the one this process runs on
    Sysfs sysfs{};
    InterfaceOptions interface{};
    /// Memory for DMA in huge pages, where the machine has some free.
    bool huge_pages = false;
    Log log{};
  };

  /// Errors as open_device(), with the function as their subject; ENODEV: there is no such function; EPROTO: the kernel's
  /// answers are invalid.
  static Result<std::unique_ptr<Handle>> open(pci::Address address, const Options& options);
  static Result<std::unique_ptr<Handle>> open(pci::Address address) { return open(address, Options{}); }
  ~Handle() override;

  std::string name() const override;
  std::optional<int> numa_node() const override;
  /// The interface, and the node that was opened.
  Interface interface() const;
  const std::string& node() const;

  /// The `fd` of a mappable region is the device's file: a process that gets it can use the whole device.
  Result<pci::RegionInfo> region(unsigned index) override;
  Result<pci::InterruptInfo> interrupts(pci::InterruptKind kind) override;
  /// EIO, with the reason, where the function does not decode memory or sleeps.
  Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) override;
  Status write_region(unsigned region, std::uint64_t offset, Bytes from) override;
  /// ENOTSUP also over the MSI-X table: it is the kernel's.
  Result<pci::Window> map_window(unsigned region, std::uint64_t offset, std::uint64_t length) override;
  /// Makes each signal of `eventfd` write `value`, little-endian, to a register of 1, 2 or 4 bytes of a BAR.
  Status ring_by_eventfd(unsigned region, std::uint64_t offset, unsigned width, std::uint64_t value,
                         const EventFd& eventfd);

  memory::DmaSpace& dma() override;
  memory::DmaMapper& dma_mapper() override;
  bool resettable() const override;
  Status reset() override;
  Status enter_low_power() override;
  Status exit_low_power() override;

  /// Null where the kernel's driver of the function cannot move it (vfio-pci itself; the variant drivers of some devices can).
  /// Good for as long as the handle is. A dirty log takes 1 to 256 ranges: the kernel has none for everything.
  pci::Migration* migration() override;

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
  struct State;
  explicit Handle(std::unique_ptr<State> state);
  Status discover(const Options& options);
  Status find_registers();
  Status arm_events();
  std::unique_ptr<State> state_;
};

}  // namespace outboard::vfio
