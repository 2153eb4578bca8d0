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
#include <outboard/vfio/internal/sysfs.hpp>

namespace outboard::vfio {

/// A reason why a function cannot be bound to vfio-pci, or must not be.
struct Obstacle {
  int code;  ///< errno value: ENOENT (module), EBUSY (in use), EPERM (the group is incomplete), ENOTSUP (not possible)
  std::string what;  ///< "the disk nvme0n1 is in use: /data"
  std::string cure;  ///< what removes the obstacle; empty: nothing does
};

/// Binds functions to vfio-pci, and back to their drivers, through sysfs. Only bind() and unbind() change anything, and they
/// need root. A call blocks until the drivers involved have released the function, at most Options::timeout for each write. Any
/// thread; one call at a time for a function.
class Binding {
 public:
  struct Options {
    std::filesystem::path root = "/";  ///< the folder of sys, proc, dev and lib/modules (for tests)
    std::filesystem::path state = "/run/outboard/pci";  ///< the folder that records each function's previous driver
    std::string kernel_release{};  ///< the kernel whose modules.alias is read; empty: the running one
    Duration timeout = std::chrono::seconds(60);  ///< of one write to sysfs
    /// Writes one attribute; null: write_attribute_apart() with the timeout.
    std::function<Status(const std::string& path, const std::string& value)> write{};
    Log log{};
  };
  /// What to bind.
  struct Request {
    /// All are bound. Each IOMMU group must be complete, except for members without a driver, or with a driver that does no DMA
    /// of its own.
    std::vector<pci::Address> functions;
    std::string driver{};  ///< empty: the variant of vfio-pci that the kernel has for the device, otherwise vfio-pci
    bool no_iommu = false;  ///< also allow a device that is not behind an IOMMU and could access all memory
  };

  Binding() : Binding(Options{}) {}
  explicit Binding(Options options);

  const Sysfs& sysfs() const { return sysfs_; }

  /// The obstacles to a request, the most basic first; empty: bind() is possible. ENODEV: no such function.
  Result<std::vector<Obstacle>> obstacles(const Request& request) const;
  /// The same for one function, without the checks that open its disks (claims and openers): for lists.
  std::vector<Obstacle> obstacles_of(const FunctionFacts& facts) const;

  /// The shell commands with which root does the same as bind() or unbind().
  Result<std::vector<std::string>> commands(const Request& request) const;
  Result<std::vector<std::string>> commands_to_unbind(pci::Address address) const;

  /// Locks binding and unbinding against other processes until the descriptor is closed. Hold it from the first check to the
  /// last action: the check whether a disk is in use opens the disk, and another process could change the recorded driver.
  /// Waits for another holder, at most `timeout`, with a line in the log. EBUSY: the lock is still held. An empty descriptor:
  /// this user cannot create the folder, and cannot bind either.
  Result<UniqueFd> lock(Duration timeout) const;

  /// Binds the functions to the requested driver; one that is bound to it already is left unchanged. If there is an obstacle,
  /// the first one is the error. If one function fails, those before it stay bound, and the error names the one that failed.
  /// EACCES: not root; ETIMEDOUT: a driver does not release the function (the write still waits in the kernel); EIO: the kernel
  /// did not bind the function.
  Status bind(const Request& request) const;

  /// Returns a function to its previous driver, or, if that is not recorded, to the one that the kernel chooses. Returns the
  /// name of the driver; empty: none has bound to the function. EINVAL: the function is not bound to vfio-pci; EBUSY: a process
  /// has it open.
  Result<std::string> unbind(pci::Address address) const;

  /// The driver that a function had before bind(); "": none; nullopt: not recorded.
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
