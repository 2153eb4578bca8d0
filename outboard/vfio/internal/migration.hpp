#pragma once

#include <functional>
#include <string>

#include <outboard/pci/migration.hpp>
#include <outboard/vfio/internal/kernel.hpp>

namespace outboard::vfio {

/// A device's migration by VFIO_DEVICE_FEATURE. The kernel walks through the states between two by itself, and opens a stream
/// for the states in which there are data; this owns it. One thread. Besides the errors of pci::Migration: those of the
/// kernel's driver; EPROTO: an answer that makes no sense.
class DeviceMigration final : public pci::Migration {
 public:
  /// `usable` says what keeps calls from reaching the device. Kernel and device outlive this.
  DeviceMigration(Kernel& kernel, const DeviceFd& device, std::string name, std::function<Status()> usable);

  Result<Support> support() override;
  Result<pci::MigrationState> state() override;
  Status set_state(pci::MigrationState wanted) override;
  Result<std::size_t> read(MutableBytes into) override;
  Status write(Bytes from) override;
  Result<std::uint64_t> start_dirty_log(std::uint64_t page_size, std::span<const memory::IovaRange> ranges) override;
  Status report_dirty(memory::IovaRange range, std::uint64_t page_size, MutableBytes bitmap) override;
  Status stop_dirty_log() override;

  /// After a reset, and before the device is closed.
  void close_stream() { stream_.reset(); }

 private:
  template <typename Data>
  Status use(std::uint32_t feature, Data& data, const char* doing);
  Status check_stream() const;
  Error failed(int code, const std::string& doing) const;

  Kernel& kernel_;
  const DeviceFd& device_;
  std::string name_;
  std::function<Status()> usable_;
  UniqueFd stream_;
};

}  // namespace outboard::vfio
