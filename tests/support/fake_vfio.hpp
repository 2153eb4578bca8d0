#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <outboard/vfio/handle.hpp>
#include <outboard/vfio/internal/kernel.hpp>
#include <tests/support/fake_address_space.hpp>
#include <tests/support/fake_vfio_device.hpp>
#include <tests/support/sysfs_tree.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::testing {

/// A kernel with VFIO in it, over pci::Functions of the test's: vfio::Handle runs on it without a kernel, a device or root.
/// Strict: who breaks a rule of the interface gets the kernel's error, and who breaks one that a kernel would not notice
/// (and memory, a register or a mapping would suffer later) leaves a line in `violations()`, which a test expects empty.
///
/// Both interfaces are there: groups with containers of type1v2, and device nodes with iommufd where a device has a cdev. A
/// device stays open for as long as its file, or a mapping of one of its BARs, is. One thread.
class FakeVfio final : public vfio::Kernel {
 public:
  FakeVfio();
  ~FakeVfio() override;

  /// Adds a device that is bound to vfio-pci; `pump` runs its function's loop. Good for as long as this is.
  FakeVfioDevice& add(FakeVfioDevice::Options options, std::unique_ptr<pci::Function> function,
                      std::function<void()> pump);
  /// The machine's sysfs, and the options with which Handle::open works here.
  SysfsTree tree;
  vfio::Handle::Options options();
  std::string node(const std::string& name) const { return nodes_.path(name); }

  // What the machine is like.
  FakeAddressSpace::Limits limits;
  bool type1_loaded = true;
  bool interrupts_remapped = true;
  bool no_iommu_mode = false;
  bool pads_capabilities = true;  ///< of what it says about the IOMMU: a kernel before 6.6 does not
  std::map<std::string, int> open_failures;  ///< by path: errno of open()
  std::map<unsigned long, std::vector<int>> failures;  ///< by number: each takes one errno value off
  /// Changes what the kernel answers about the IOMMU: the bytes of the whole answer.
  std::function<void(std::vector<std::byte>& answer)> change_iommu_info;
  /// What an unmap says it has unmapped, in the place of the truth.
  std::function<std::uint64_t(std::uint64_t)> change_unmapped;

  std::vector<std::string> violations();
  Duration paused{0};
  /// Whether anybody has the group's device open.
  bool in_use(pci::Address address);

  // vfio::Kernel
  int open(const std::string& path) override;
  int ioctl(int fd, unsigned long request, std::uintptr_t argument) override;
  ssize_t pread(int fd, MutableBytes into, std::uint64_t offset) override;
  ssize_t pwrite(int fd, Bytes from, std::uint64_t offset) override;
  ssize_t read(int fd, MutableBytes into) override;
  ssize_t write(int fd, Bytes from) override;
  void* map(int fd, std::uint64_t length, int protection, std::uint64_t offset, void* fixed) override;
  void unmap(void* address, std::uint64_t length) override;
  std::uint64_t lockable_memory() override { return limits.lockable; }
  void pause(Duration time) override { paused += time; }

 private:
  struct Container;
  struct Group;
  struct Iommufd;
  struct DeviceFile;
  using Object = std::variant<std::shared_ptr<Container>, std::shared_ptr<Group>, std::shared_ptr<Iommufd>,
                              std::shared_ptr<DeviceFile>, std::shared_ptr<FakeVfioMigration::Stream>>;
  /// A descriptor of ours is the writing end of a pipe: the reading end tells when every copy of it has been closed.
  struct File {
    ino_t inode;
    UniqueFd watched;
    Object object;
    bool closed = false;  ///< but a mapping keeps it
  };

  int add_file(Object object);
  File* find(int fd);
  template <typename T>
  std::shared_ptr<T> find_as(int fd);
  void collect();
  int open_group(unsigned number, bool no_iommu);
  int take_failure(unsigned long request);
  int serve(const std::shared_ptr<Container>& container, unsigned long request, std::uintptr_t argument);
  int serve(const std::shared_ptr<Group>& group, unsigned long request, std::uintptr_t argument);
  int serve(const std::shared_ptr<Iommufd>& iommufd, unsigned long request, std::uintptr_t argument);
  int serve(const std::shared_ptr<DeviceFile>& file, unsigned long request, std::uintptr_t argument);
  static int serve(const std::shared_ptr<FakeVfioMigration::Stream>&, unsigned long, std::uintptr_t) { return -ENOTTY; }
  int set_iommu(Container& container, std::uintptr_t type);
  int iommu_info(const Container& container, std::uintptr_t argument) const;
  int unmap_dma(Container& container, std::uintptr_t argument) const;
  int set_container(Group& group, std::uintptr_t argument);
  int get_device_fd(const std::shared_ptr<Group>& group, std::uintptr_t argument);
  int bind_iommufd(DeviceFile& file, std::uintptr_t argument);
  int attach(DeviceFile& file, std::uintptr_t argument);
  int iova_ranges(const Iommufd& iommufd, std::uintptr_t argument) const;
  int ioas_map(Iommufd& iommufd, std::uintptr_t argument);
  int ioas_unmap(Iommufd& iommufd, std::uintptr_t argument) const;
  bool viable(unsigned group) const;
  bool is_open(const FakeVfioDevice& device) const;
  bool group_is_open(unsigned group);

  TempDir nodes_;
  std::vector<std::unique_ptr<FakeVfioDevice>> devices_;
  std::map<unsigned, std::weak_ptr<Group>> groups_;
  std::vector<File> files_;
};

}  // namespace outboard::testing
