#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <outboard/pci/handle.hpp>
#include <outboard/testing/config_device.hpp>

namespace outboard::testing {

/// A pci::Handle without a device: configuration space and BARs are bytes, and calls are recorded in order. For tests of code
/// that uses a handle. It refuses what a kernel would: memory that overlaps, is not whole pages or lies outside the ranges;
/// vectors beyond the count; a second kind of interrupt; an access to a BAR without decoding.
class FakeHandle final : public pci::Handle {
 public:
  FakeHandle();
  ~FakeHandle() override {
    if (at_end) at_end();
  }

  // What it is; before it is used.
  ConfigDevice config_space;
  std::array<pci::RegionInfo, pci::region::count> regions;
  std::array<pci::InterruptInfo, pci::interrupt_kind_count> irqs;
  bool can_be_reset = true;
  memory::DmaSpace::Limits limits{.page_size = 4096,
                                  .max_mappings = 8,
                                  .valid = {{memory::Iova{0}, 0xFEE00000}, {memory::Iova{0xFEF00000}, 0x8000000000}}};

  // What it answers; at any time. 0: it works.
  int bind_error = 0, unmap_error = 0, reset_error = 0;

  // What was done: "command 0x0002", "bind msi 0 4", "disable msi", "map 0x1000 0x2000 rw", "unmap ...", "reset", "revoke".
  std::vector<std::string> calls;
  std::vector<std::string> take_calls() { return std::exchange(calls, {}); }
  /// The bound eventfds of the enabled kind, by vector.
  std::vector<EventFd> bound;
  std::optional<pci::InterruptKind> enabled;
  EventFd unmask_bound;
  bool takes_unmask_eventfds = true;
  std::map<std::uint64_t, std::pair<std::uint64_t, MutableBytes>> mapped;  ///< address to size and memory
  std::array<std::vector<std::byte>, 7> memory;
  bool attached = false;
  std::function<void()> at_end;  ///< called when it is destroyed

  void event(pci::Event what) { raise(what); }

  std::string name() const override { return "fake"; }
  Result<pci::RegionInfo> region(unsigned index) override;
  Result<pci::InterruptInfo> interrupts(pci::InterruptKind kind) override;
  Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) override;
  Status write_region(unsigned region, std::uint64_t offset, Bytes from) override;
  Result<pci::Window> map_window(unsigned, std::uint64_t, std::uint64_t) override;
  Result<std::vector<pci::IoEventFd>> io_eventfds(unsigned region) override;
  memory::DmaSpace& dma() override { return *pool_; }
  memory::DmaMapper& dma_mapper() override { return mapper_; }
  bool resettable() const override { return can_be_reset; }
  Status reset() override;
  Status attach(Loop&) override;
  void detach() override { attached = false; }
  void revoke() override;
  bool gone() const override { return gone_; }
  Status bind_interrupts(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) override;
  Status bind_unmask(const EventFd& eventfd) override;
  Status disable_interrupts(pci::InterruptKind kind) override;
  Status mask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status unmask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status trigger_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override;

 private:
  class Mapper final : public memory::DmaMapper {
   public:
    explicit Mapper(FakeHandle& handle) : handle_(handle) {}
    Status map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
               std::uint64_t offset) override;
    Status unmap(memory::IovaRange range) override;
    memory::DmaSpace::Limits limits() const override { return handle_.limits; }

   private:
    FakeHandle& handle_;
  };

  Status check(unsigned region, std::uint64_t offset, std::size_t size) const;
  bool decodes() const;

  Mapper mapper_{*this};
  std::optional<memory::DmaPool> pool_;
  EventFd doorbell_;
  bool gone_ = false;
};

}  // namespace outboard::testing
