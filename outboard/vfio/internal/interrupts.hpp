#pragma once

#include <array>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio/internal/kernel.hpp>

namespace outboard::vfio {

/// The interrupts of a device, by VFIO_DEVICE_SET_IRQS. One of INTx, MSI and MSI-X is enabled at a time.
///
/// An MSI vector that is not used gets an eventfd that is not read, never none: without one the kernel zeroes the
/// message of a device that cannot mask, whose next interrupt is a write to address 0. Where vectors can only be enabled all
/// at once, a bind of more than before enables the kind anew with all that are bound; what comes in between is lost, and so
/// a driver looks at its device once afterwards. One thread at a time.
class Interrupts {
 public:
  Interrupts(Kernel& kernel, const DeviceFd& device, Log log)
      : kernel_(kernel), device_(device), log_(std::move(log)) {}

  Status discover(std::uint32_t kinds);
  /// The count is what the device has, or what the machine turned out to have for it.
  const pci::InterruptInfo& info(pci::InterruptKind kind) const { return infos_[index(kind)]; }

  /// As pci::Handle::bind_interrupts.
  Status bind(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds);
  Status bind_unmask(const EventFd& eventfd);
  Status disable(pci::InterruptKind kind);
  Status mask(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status unmask(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status trigger(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);
  /// Whatever is enabled.
  void disable_all();

  /// For the indexes that tell of events, which stand beside the three.
  Status arm(pci::InterruptKind kind, const EventFd& eventfd);

 private:
  using Eventfds = std::vector<EventFd>;
  static std::size_t index(pci::InterruptKind kind) { return static_cast<std::size_t>(kind); }
  Status check(pci::InterruptKind kind, std::uint64_t start, std::uint64_t count) const;
  Status may_enable(pci::InterruptKind kind) const;
  /// What the ioctl returns.
  int set(std::uint32_t flags, pci::InterruptKind kind, std::uint32_t start, std::uint32_t count,
          const std::vector<std::int32_t>& fds);
  Status act(std::uint32_t action, pci::InterruptKind kind, std::uint32_t start, std::uint32_t count,
             const char* doing);
  std::int32_t fd_for(pci::InterruptKind kind, const EventFd& eventfd) const;
  /// Hands the kernel `bound_[kind]` from `start`, `count` of them. What the ioctl returns.
  int send(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status failed(pci::InterruptKind kind, Eventfds before, int result, std::size_t wanted);

  Kernel& kernel_;
  const DeviceFd& device_;
  Log log_;
  std::array<pci::InterruptInfo, pci::interrupt_kind_count> infos_{};
  std::array<Eventfds, pci::interrupt_kind_count> bound_;  ///< ours of what the kernel has; empty: not enabled
  EventFd sink_;  ///< for vectors of MSI without an eventfd; made when MSI is bound
};

}  // namespace outboard::vfio
