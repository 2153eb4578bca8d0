#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::vfio_user {

/// The memory that the new server of a function gets in the place of the driver's, where the two are not the same: what moves
/// the driver fills it. The calls come from Client::migrate_to(), on its thread.
class SecondMemory {
 public:
  struct File {
    const UniqueFd* fd = nullptr;  ///< until the call returns, or the next one; duplicate it
    std::uint64_t offset = 0;
  };

  virtual ~SecondMemory() = default;

  /// The driver has mapped `bytes`, which lie in `file`, at `range`. Returns the file that the new server gets, which holds a
  /// copy of them by now. An error ends the move.
  virtual Result<File> add(memory::IovaRange range, MutableBytes bytes, const File& file) = 0;
  /// The driver unmaps it, or the move has failed.
  virtual void remove(memory::IovaRange range) = 0;
  /// The device has written `pages`, which lie in a range of add(): copies them.
  virtual void copy(memory::IovaRange pages) = 0;
  /// The device is stopped and all that it has written has been copied. Copies what the driver has written, and makes the
  /// second memory the driver's, at the same addresses. After an error the driver's memory is what it was.
  virtual Status take_over() = 0;
  /// Undoes take_over(): the move has failed. The device has written nothing since.
  virtual void give_back() = 0;
};

/// How Client::migrate_to() moves a function.
struct MigrationOptions {
  /// The device is stopped when it wrote fewer bytes of memory than this in a round, or after max_rounds.
  std::uint64_t few_bytes = std::uint64_t{1} << 20;
  unsigned max_rounds = 16;
  /// Called before each round while the device runs: the driver does some of its work. An error ends the move.
  std::function<Status()> between_rounds{};
  /// Null: the new server gets the driver's memory itself, and nothing is copied.
  SecondMemory* memory = nullptr;
};

/// What a move took.
struct MigrationReport {
  std::uint64_t memory_size = 0;  ///< bytes that the driver has mapped
  std::vector<std::uint64_t>
      rounds{};  ///< bytes that the device had written in each round; the last one with the device stopped
  bool noted = true;  ///< the old server could say what it had written; if not, that is all of the memory
  std::uint64_t state_size = 0;  ///< bytes
  Duration downtime{};  ///< from the order to stop until the device runs again
  Duration total{};
};

}  // namespace outboard::vfio_user
