#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <outboard/storage/backend.hpp>
#include <outboard/testing/simulation.hpp>

namespace outboard::testing {

/// A disk of a simulated machine. It outlives the processes that use it, and what a process that was killed has submitted is
/// still carried out. An operation takes a time that the simulation decides (Choice::storage): usually a moment, sometimes much
/// longer, and some fail, writes then perhaps in part. On the simulation's thread; it must outlive the run.
class SimulatedDisk {
 public:
  struct Options {
    std::uint64_t capacity = std::uint64_t{1} << 20;  ///< bytes, a multiple of 512
    bool fails = false;  ///< some operations end with EIO
  };

  SimulatedDisk(Simulation& simulation, Options options);
  ~SimulatedDisk();

  /// A back end for the process that the loop belongs to. EBUSY: what another process has submitted is still being carried out,
  /// as with an image that is locked until then.
  Result<std::unique_ptr<storage::Backend>> open(Loop& loop);
  /// Nothing is being carried out.
  bool idle() const;
  /// The disk loses power: of the writes that no flush has covered any part may be lost. Afterwards nothing is being carried
  /// out.
  void lose_power();

  Bytes contents() const;

 private:
  class Port;
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace outboard::testing
