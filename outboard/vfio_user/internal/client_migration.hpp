#pragma once

#include <outboard/pci/migration.hpp>
#include <outboard/vfio_user/internal/server_connection.hpp>

namespace outboard::vfio_user {

/// DEVICE_FEATURE, MIG_DATA_READ and MIG_DATA_WRITE, as a client uses them. One thread. Besides the errors of pci::Migration:
/// EPROTO: a reply that makes no sense.
class ClientMigration final : public pci::Migration {
 public:
  explicit ClientMigration(ServerConnection& connection) : connection_(connection) {}

  Result<Support> support() override;
  Result<pci::MigrationState> state() override;
  Status set_state(pci::MigrationState wanted) override;
  Result<std::size_t> read(MutableBytes into) override;
  Status write(Bytes from) override;
  Result<std::uint64_t> start_dirty_log(std::uint64_t page_size, std::span<const memory::IovaRange> ranges) override;
  Status report_dirty(memory::IovaRange range, std::uint64_t page_size, MutableBytes bitmap) override;
  Status stop_dirty_log() override;

  /// Bytes of a bitmap that fits into one message.
  std::size_t max_bitmap() const;

 private:
  /// Uses a feature (a number of vfio_abi::device_feature and a flag of device_feature_flag). `take` gets `reply_size` bytes.
  template <typename Take>
  Status use(std::uint32_t feature, Bytes data, std::size_t reply_size, Take&& take);
  Result<std::size_t> read_piece(MutableBytes into);
  Status write_piece(Bytes from);

  ServerConnection& connection_;
};

}  // namespace outboard::vfio_user
