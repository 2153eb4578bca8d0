#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/testing/disk_oracle.hpp>
#include <outboard/testing/simulated_disk.hpp>
#include <outboard/testing/simulation.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::testing {

/// A disk, a vfio-user server that serves it, and a driver that uses it, each in a process of a simulation that may be killed
/// and is then started again. Every acknowledged byte must be there, every operation be answered once, and the driver must get
/// to its end.
class DiskWorld {
 public:
  struct Options {
    bool packed = false;
    bool event_idx = true;
    unsigned operations = 60;  ///< of the driver, in all
    unsigned depth = 4;  ///< of them at once
    Simulation::Mortality server = Simulation::Mortality::restarts;
    Simulation::Mortality driver = Simulation::Mortality::restarts;
    bool disk_fails = false;
    bool loses_power = false;  ///< the disk, whenever its server dies
  };

  DiskWorld(Simulation& simulation, Options options);

 private:
  class Operation;
  class DriverProcess;

  void serve(Process& process);
  void drive(Process& process);
  /// The driver that had them has gone: whether they were carried out is not known.
  void forget_operations();

  Simulation& simulation_;
  Options options_;
  TempDir folder_;
  UniqueFd listener_;  // as a service manager keeps it
  SimulatedDisk disk_;
  DiskOracle oracle_;
  unsigned servers_ = 0;
  unsigned done_ = 0;  // operations that have succeeded
  unsigned ended_ = 0;  // operations that have ended
  std::vector<std::uint64_t> writes_;  // that are in flight
  bool given_up_ = false;  // by the driver: the device
};

/// A world of which the schedule chooses the options.
std::optional<std::string> run_some_disk_world(Simulation& simulation);
/// Runs such a world; what went wrong.
std::optional<std::string> run_disk_world(Simulation& simulation, const DiskWorld::Options& options);

}  // namespace outboard::testing
