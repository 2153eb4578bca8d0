#pragma once

#include <array>
#include <optional>
#include <string>

#include <outboard/pci/internal/event_set.hpp>
#include <outboard/vfio/handle.hpp>
#include <outboard/vfio/internal/info.hpp>
#include <outboard/vfio/internal/interrupts.hpp>
#include <outboard/vfio/internal/mapper.hpp>
#include <outboard/vfio/internal/migration.hpp>
#include <outboard/vfio/internal/windows.hpp>

namespace outboard::vfio {

/// What is behind a Handle. For handle*.cpp only.
struct Handle::State {
  State(Kernel& the_kernel, OpenedDevice opened, FunctionFacts the_facts, const Options& options);

  Error named(const Error& error) const { return Error(error).on(name); }
  /// What keeps a call from reaching the device.
  Status usable() const;
  Status check(unsigned region, std::uint64_t offset, std::uint64_t length) const;

  Status read(unsigned region, std::uint64_t offset, MutableBytes into);
  Status write(unsigned region, std::uint64_t offset, Bytes from);
  Error failed_access(int code, const char* doing, unsigned region);

  // Configuration space, without the rules of Handle::write_region.
  std::optional<std::uint16_t> read_config16(std::uint64_t offset);
  void set_bus_master(bool on);
  bool decodes();
  /// Whether a write would take the registers away from behind the windows.
  bool hides_registers(std::uint64_t offset, Bytes from) const;
  /// Whether a write would let the device reach memory that was taken back.
  bool frees_quarantined(std::uint64_t offset, Bytes from) const;

  Status reset_device();
  Status feature(std::uint32_t id, std::uint32_t operation);
  void close();

  Kernel& kernel;
  FunctionFacts facts;
  std::string name;
  Log log;
  DeviceFd device;
  Interface interface;
  std::string node;
  bool resettable = false;
  std::array<RegionFacts, pci::region::count> regions;
  struct MsixTable {
    unsigned bar;
    std::uint64_t offset, size;
  };
  std::optional<MsixTable> msix_table;
  std::optional<std::uint64_t> power_control;  ///< where PMCSR is
  std::optional<DeviceMigration> migration;
  Windows windows;
  Interrupts interrupts;
  pci::EventSet events;
  EventFd lost;  ///< signalled when a read has found that the device does not answer
  Registration watch;
  bool asked_to_go = false;  ///< once already
  bool asleep = false;       ///< by the kernel's low power
  bool gone = false;
  std::optional<Error> broken;  ///< a reset has failed: only closing helps
  Mapper mapper;
  std::optional<memory::DmaPool> pool;  ///< last: it unmaps when it goes
};

}  // namespace outboard::vfio
