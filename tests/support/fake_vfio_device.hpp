#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/endian.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/pci/address.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio_abi/kernel.hpp>
#include <tests/support/fake_vfio_migration.hpp>

namespace outboard::testing {

/// A device of FakeVfio: what the kernel makes of a PCI function for who has its file. Ioctls, accesses and mappings as the
/// kernel has them, with its rules: sizes, one interrupt mode, BARs and enable bits that only the kernel writes, registers
/// that are not there while memory is not decoded. What a real kernel would answer with harm later is a violation.
class FakeVfioDevice {
 public:
  struct Options {
    pci::Address address{0, 0, 4, 0};
    unsigned group = 7;
    std::string cdev;  ///< "vfio0"; empty: the kernel has no such nodes
    bool resettable = true;
    bool low_power = true;
    bool dynamic_msix = true;
    bool msix_mappable = false;  ///< BARs with areas are mappable whole, the table included
    std::optional<std::string> vf_token;
    std::optional<FakeVfioMigration::Options> migration;  ///< nothing: vfio-pci itself, which moves no device
  };

  FakeVfioDevice(Options options, std::unique_ptr<pci::Function> function, std::function<void()> pump);

  const Options& options() const { return options_; }
  pci::Function& function() { return *function_; }
  const std::function<void()>& pump() const { return pump_; }

  // What the kernel does when the file is opened for the first time and closed for the last.
  void open();
  void close();
  /// Mappings of its BARs in this process that are onto the device still.
  std::size_t live_mappings() const;

  // The file.
  int ioctl(unsigned long request, std::uintptr_t argument);
  ssize_t pread(MutableBytes into, std::uint64_t offset);
  ssize_t pwrite(Bytes from, std::uint64_t offset);
  void* map(std::uint64_t length, int protection, std::uint64_t offset, void* fixed);

  // What a test does to it.
  /// Changes what the kernel answers about a region: the bytes of the whole answer.
  std::function<void(unsigned index, std::vector<std::byte>& answer)> change_region_info;
  /// How many vectors the machine has for a kind, where those are fewer than the function's.
  std::map<pci::InterruptKind, int> machine_vectors;
  /// Each takes one errno value off, before the call does anything.
  std::map<vfio_abi::DeviceRequest, std::vector<int>> failures;
  std::optional<FakeVfioMigration> migration;
  bool mmap_fails = false;
  bool dead = false;  ///< every register reads as all-ones, but for what the kernel makes up
  void request_unplug() const;
  void report_error() const;

  // What happened.
  std::vector<std::string> violations;
  unsigned resets = 0, opens = 0;
  bool asleep = false;
  std::vector<vfio_abi::DeviceIoEventFd> ioeventfds;
  struct Access {
    unsigned region;
    std::uint64_t offset;
    std::size_t size;
    bool write;
    friend bool operator==(const Access&, const Access&) = default;
  };
  std::vector<Access> accesses;  ///< to BARs

 private:
  static constexpr std::uint64_t region_stride = UINT64_C(1) << 36;  ///< not the kernel's 2^40: it is to be asked for
  struct Irq {
    std::vector<bool> bound;  ///< by vector; empty: not enabled
    EventFd event;  ///< of the error and request indexes
  };

  int get_info(std::uintptr_t argument) const;
  int get_region_info(std::uintptr_t argument);
  int get_irq_info(std::uintptr_t argument) const;
  int set_irqs(std::uintptr_t argument);
  int set_event(pci::InterruptKind kind, const vfio_abi::IrqSet& set, const std::vector<int>& fds);
  int set_trigger(pci::InterruptKind kind, const vfio_abi::IrqSet& set, const std::vector<int>& fds);
  int bind(pci::InterruptKind kind, const vfio_abi::IrqSet& set, const std::vector<int>& fds);
  int set_mask(pci::InterruptKind kind, const vfio_abi::IrqSet& set, const std::vector<int>& fds);
  int reset();
  int feature(std::uintptr_t argument);
  int ioeventfd(std::uintptr_t argument);
  int disable(pci::InterruptKind kind);

  std::vector<std::byte> region_answer(unsigned index) const;
  vfio_abi::IrqInfo irq_info(unsigned index) const;
  ssize_t access_bar(unsigned region, std::uint64_t offset, std::size_t size, bool write,
                     const std::function<Status()>& access);
  ssize_t write_config(Bytes from, std::uint64_t offset);
  void write_config_byte(std::uint64_t offset, std::byte value);
  void add_made_up(MutableBytes into, std::uint64_t offset);
  bool decodes();
  void registers_vanish(const char* why);
  void set_message_enable(std::uint16_t capability, bool on);
  std::optional<std::uint64_t> find(std::uint16_t capability);
  std::uint32_t config(std::uint64_t offset, std::size_t size);
  void put_config(std::uint64_t offset, std::uint32_t value, std::size_t size);

  Options options_;
  std::unique_ptr<pci::Function> function_;
  std::function<void()> pump_;
  std::array<std::byte, 0x40> virtual_header_{};  ///< BARs and ROM as written, and Command
  std::array<Irq, pci::interrupt_kind_count> irqs_;
  bool unmask_bound_ = false;
  std::map<std::uint64_t, std::size_t> mappings_at_rest_;  ///< inode to how many there are without ours
};

}  // namespace outboard::testing
