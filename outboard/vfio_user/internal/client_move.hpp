#pragma once

#include <map>
#include <optional>
#include <vector>

#include <outboard/vfio_user/internal/client_doorbells.hpp>
#include <outboard/vfio_user/internal/client_interrupts.hpp>
#include <outboard/vfio_user/internal/client_memory.hpp>
#include <outboard/vfio_user/internal/client_migration.hpp>
#include <outboard/vfio_user/internal/client_regions.hpp>
#include <outboard/vfio_user/migrate.hpp>

namespace outboard::vfio_user {

/// The parts of a client that a move concerns.
struct MovedClient {
  ServerConnection& connection;
  ClientRegions& regions;
  ClientDoorbells& doorbells;
  ClientInterrupts& interrupts;
  ClientMemory& memory;
  ServedMemory& served;
};

/// Moves the function of a client to another server. Until the new server has said that the function runs there, it is the old
/// one's: what fails before lets it run on. One thread, and for one move.
class ClientMove {
 public:
  ClientMove(MovedClient client, ServerConnection& to, const MigrationOptions& options);
  ~ClientMove();

  /// Afterwards the driver's windows, doorbells, interrupts and memory are the new server's; `to` is still its connection.
  /// ENOTSUP: one of the servers cannot move its function, or the two functions are not alike. Other errors: those of the
  /// servers, of the memory and of MigrationOptions::between_rounds.
  Result<MigrationReport> run();

 private:
  Status check_alike() const;
  Status begin();
  Status start_log();
  Status map_all();
  Status map_at_new(const ClientMapping& mapping);
  void unmap_at_new(const ClientMapping& mapping);
  Status run_rounds();
  Result<std::uint64_t> copy_dirty();
  Result<std::uint64_t> copy_dirty(const ClientMapping& mapping);
  /// Pages that the old server notes, the last one perhaps in part.
  std::uint64_t pages_of(memory::IovaRange range) const {
    return range.size / page_size_ + (range.size % page_size_ != 0 ? 1 : 0);
  }
  void copy_written(memory::IovaRange range);
  void copy_pages(memory::IovaRange range, Bytes bitmap);
  Status move_state();
  Status move_data();
  Status arrive();
  Status go_back();
  void end_observing();

  MovedClient client_;
  ServerConnection& to_;
  const MigrationOptions& options_;
  ClientMigration from_migration_, to_migration_;
  ClientMemory::Observer observer_;
  std::map<memory::Iova, ClientMapping> mapped_;  ///< at the new server
  std::optional<Error> mapping_failed_;
  std::uint64_t written_by_messages_ = 0;  ///< since the last round: bytes of whole pages
  MigrationReport report_;
  std::uint64_t page_size_ = 0;

  /// What go_back() has to undo.
  enum class Stage : std::uint8_t { connected, logging, stopped, memory_taken, windows_taken };
  Stage stage_ = Stage::connected;
};

}  // namespace outboard::vfio_user
