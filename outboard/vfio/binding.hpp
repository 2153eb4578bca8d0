#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/vfio/sysfs.hpp>

namespace outboard::vfio {

/// Why a function cannot be handed to vfio-pci, or must not be.
struct Obstacle {
  int code;  ///< errno value: ENOENT (module), EBUSY (in use), EPERM (not without the group), ENOTSUP (never)
  std::string what;  ///< "the disk nvme0n1 is in use: /data"
  std::string cure;  ///< what mends it; empty: nothing does
};

/// Hands functions over to vfio-pci and gives them back, by sysfs. Nothing is done unasked: obstacles() and commands()
/// only look. Needs root to act. Calls block for as long as drivers take to let go, at most Options::bound each. Any
/// thread, one at a time for a function.
class Binding {
 public:
  struct Options {
    std::filesystem::path root = "/";  ///< stands in front of sys, proc, dev and lib/modules (tests)
    std::filesystem::path state = "/run/outboard/pci";  ///< where the drivers are remembered that were there before
    std::string kernel_release{};  ///< whose modules.alias is read; empty: this kernel's
    Duration bound = std::chrono::seconds(60);  ///< of one write to sysfs
    /// Writes one attribute; null: write_attribute_apart() with the bound.
    std::function<Status(const std::string& path, const std::string& value)> write{};
    Log log{};
  };
  /// What is asked for.
  struct Request {
    /// All are handed over; each group must be complete in it, but for members without a driver, or with one
    /// that does no DMA of its own.
    std::vector<pci::Address> functions;
    std::string driver{};  ///< empty: vfio-pci, where the kernel has no variant of it for the device
    bool no_iommu = false;  ///< also a device that no IOMMU keeps from the rest of the memory
  };

  Binding() : Binding(Options{}) {}
  explicit Binding(Options options);

  const Sysfs& sysfs() const { return sysfs_; }

  /// What stands in the way of a request, the most basic first; empty: nothing. ENODEV: no such function.
  Result<std::vector<Obstacle>> obstacles(const Request& request) const;
  /// The same for one function, for a list that disturbs nobody: disks are not asked whether somebody has claimed them or
  /// has them open.
  std::vector<Obstacle> obstacles_of(const FunctionFacts& facts) const;

  /// The lines that a person (as root) would type to do the same as bind() or unbind().
  Result<std::vector<std::string>> commands(const Request& request) const;
  Result<std::vector<std::string>> commands_to_unbind(pci::Address address) const;

  /// Keeps other processes from binding and unbinding until the descriptor is closed: asking whether a disk is in use is itself
  /// a use of it, and what one remembers of a function another one may take away. To be held from the first call that looks to
  /// the last that acts. Waits while another one has it, `patience` at most, and says so in the log. EBUSY: still not free.
  /// Nothing where this user cannot make the folder: who may not act disturbs nobody.
  Result<UniqueFd> lock(Duration patience) const;

  /// Hands the functions over; one that has its driver already is left as it is. Where one fails those before it stay
  /// handed over, and the error says which failed. The first obstacle is the error where there is one. EACCES: not root;
  /// ETIMEDOUT: a driver does not let go (the write still waits in the kernel); EIO: the kernel did not bind it.
  Status bind(const Request& request) const;

  /// Gives a function back to the driver that it had, or, where nobody remembers that, to the one the kernel chooses. Its
  /// name; empty: none has taken it. EINVAL: it is not handed over; EBUSY: a process has it open.
  Result<std::string> unbind(pci::Address address) const;

  /// The driver that a function had when it was handed over; absent: nobody remembers. "": none.
  std::optional<std::string> remembered_driver(pci::Address address) const;

 private:
  std::string driver_for(const FunctionFacts& facts, const Request& request) const;
  std::vector<std::string> variants_of(pci::Address address) const;
  void add_group_obstacles(const FunctionFacts& facts, const Request& request, std::vector<Obstacle>& found) const;
  void add_iommu_obstacles(const FunctionFacts& facts, const Request& request, std::vector<Obstacle>& found) const;
  void add_driver_obstacles(const FunctionFacts& facts, const Request& request, std::vector<Obstacle>& found) const;
  std::vector<Obstacle> obstacles_of(const FunctionFacts& facts, const Request& request, bool claims) const;

  Status remember(const FunctionFacts& facts, const std::string& driver) const;
  std::string override_of(pci::Address address) const;
  Status write(const std::string& path, const std::string& value) const;
  Status bind_one(const FunctionFacts& facts, const std::string& driver) const;
  Status put_back(const FunctionFacts& facts) const;
  Status check_handed_over(const FunctionFacts& facts) const;
  Status check_not_open(const FunctionFacts& facts) const;
  Status set_override(pci::Address address, const std::string& name) const;
  Status take_from_driver(const FunctionFacts& facts, const std::string& override_name) const;
  Status probe(pci::Address address) const;
  std::string attribute(pci::Address address, const char* name) const;
  std::string probe_path() const;

  Options options_;
  Sysfs sysfs_;
};

}  // namespace outboard::vfio
