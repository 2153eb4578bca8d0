#pragma once

#include <optional>

#include <outboard/pci/migration.hpp>

/// How a device gets from one state of its migration to another one.
namespace outboard::vfio_user {

using pci::MigrationState;

struct MigrationStep {
  MigrationState from;
  MigrationState wanted;
  MigrationState next;
};

/// vfio-user, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: the direct steps, and for each pair of states that no direct step joins the
/// first one of the shortest path on which no state that saves lies between the two. STOP_COPY to PRE_COPY has none. Peer-to-peer
/// states are not offered; nobody can ask for ERROR, and only a reset leaves it.
constexpr MigrationStep migration_steps[] = {
    {MigrationState::stop, MigrationState::running, MigrationState::running},
    {MigrationState::stop, MigrationState::stop_copy, MigrationState::stop_copy},
    {MigrationState::stop, MigrationState::resuming, MigrationState::resuming},
    {MigrationState::stop, MigrationState::pre_copy, MigrationState::running},

    {MigrationState::running, MigrationState::stop, MigrationState::stop},
    {MigrationState::running, MigrationState::stop_copy, MigrationState::stop},
    {MigrationState::running, MigrationState::resuming, MigrationState::stop},
    {MigrationState::running, MigrationState::pre_copy, MigrationState::pre_copy},

    {MigrationState::stop_copy, MigrationState::stop, MigrationState::stop},
    {MigrationState::stop_copy, MigrationState::running, MigrationState::stop},
    {MigrationState::stop_copy, MigrationState::resuming, MigrationState::stop},

    {MigrationState::resuming, MigrationState::stop, MigrationState::stop},
    {MigrationState::resuming, MigrationState::running, MigrationState::stop},
    {MigrationState::resuming, MigrationState::stop_copy, MigrationState::stop},
    {MigrationState::resuming, MigrationState::pre_copy, MigrationState::stop},

    {MigrationState::pre_copy, MigrationState::running, MigrationState::running},
    {MigrationState::pre_copy, MigrationState::stop_copy, MigrationState::stop_copy},
    {MigrationState::pre_copy, MigrationState::stop, MigrationState::running},
    {MigrationState::pre_copy, MigrationState::resuming, MigrationState::running},
};

/// The next state on the way to the one that is wanted; nothing: there is no way.
constexpr std::optional<MigrationState> next_migration_state(MigrationState from, MigrationState wanted) {
  for (const MigrationStep& step : migration_steps) {
    if (step.from == from && step.wanted == wanted) return step.next;
  }
  return std::nullopt;
}

}  // namespace outboard::vfio_user
