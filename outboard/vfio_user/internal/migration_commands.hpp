#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/pci/migratable.hpp>
#include <outboard/vfio_user/internal/migration_path.hpp>
#include <outboard/vfio_user/internal/replies.hpp>

namespace outboard::vfio_user {

/// The commands by which a client moves the function: DEVICE_FEATURE, MIG_DATA_READ, MIG_DATA_WRITE. It begins with a function that
/// runs; one that a client leaves stopped runs again when that client is released. On the function's loop.
///
/// Peer-to-peer states are not offered. In PRE_COPY there are no data yet: the state of a device is small, and is saved in STOP_COPY.
class MigrationCommands : public std::enable_shared_from_this<MigrationCommands> {
 public:
  using Completion = pci::Function::Completion;

  /// `max_transfer`: bytes of data, or of a bitmap, in one message.
  MigrationCommands(pci::Migratable& function, std::size_t max_transfer)
      : function_(function), max_transfer_(max_transfer) {}

  /// The state that a DEVICE_FEATURE request sets; nothing: it is another request, for feature(). EINVAL: its payload is too
  /// short.
  static Result<std::optional<MigrationState>> asked_state(Bytes request);
  /// Goes to a state step by step. `done` is called when it has been reached, or with what went wrong: then the function is in the
  /// last state that was reached. If that step was the loading of a state, it is ERROR. EINVAL: there is no way.
  void go_to(MigrationState wanted, Completion done);

  /// DEVICE_FEATURE, but for asked_state(). ENOTTY: there is no such feature, or it has no such method. EINVAL: a request that
  /// makes no sense. Otherwise as pci::Migratable.
  Result<Answer> feature(Bytes request);
  /// MIG_DATA_READ. EINVAL: in another state than PRE_COPY and STOP_COPY, more than max_transfer, or no room for it.
  Result<Answer> read_data(Bytes request);
  /// MIG_DATA_WRITE. EINVAL: in another state than RESUMING, or a payload that does not hold what it says. EFBIG: larger than any
  /// state.
  Status write_data(Bytes request);

  /// DEVICE_RESET has been completed.
  void was_reset();

 private:
  MigrationState state();
  void step(MigrationState next, Completion done);
  void stop(Completion done);
  void load(Completion done);
  Status save();
  Result<Answer> use(std::uint32_t flags, Bytes request, Bytes data);
  Result<Answer> start_log(Bytes request, Bytes data);
  Result<Answer> report(Bytes request, Bytes data);

  pci::Migratable& function_;
  std::size_t max_transfer_;
  MigrationState state_ = MigrationState::running;
  std::vector<std::byte> data_;  ///< what is read in STOP_COPY, or has been written in RESUMING
  std::size_t read_ = 0;  ///< bytes of it that have been read
};

}  // namespace outboard::vfio_user
