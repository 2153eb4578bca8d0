#include <tests/support/fake_vfio.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <tests/support/own_mappings.hpp>

namespace outboard::testing {
namespace {

namespace abi = vfio_abi;

template <typename T>
void copy_out(std::uintptr_t argument, const T& value) {
  std::memcpy(user_memory(argument), &value, sizeof value);
}

ino_t inode_of(int fd) {
  struct stat info{};
  return ::fstat(fd, &info) == 0 ? info.st_ino : 0;
}

memory::Access access_of(bool read, bool write) {
  return static_cast<memory::Access>((read ? 1 : 0) | (write ? 2 : 0));
}

}  // namespace

struct FakeVfio::Container {
  explicit Container(const FakeAddressSpace::Limits& limits) : space(FakeAddressSpace::Kind::type1v2, limits) {}
  ~Container() { space.clear(); }
  FakeAddressSpace space;
  unsigned long type = 0;
  unsigned groups = 0;
};

struct FakeVfio::Group {
  unsigned number = 0;
  bool no_iommu = false;
  std::shared_ptr<Container> container;
};

struct FakeVfio::Iommufd {
  struct Ioas {
    explicit Ioas(const FakeAddressSpace::Limits& limits) : space(FakeAddressSpace::Kind::ioas, limits) {}
    FakeAddressSpace space;
    unsigned attached = 0;
  };
  std::map<std::uint32_t, Ioas> spaces;
  std::uint32_t next = 1;
  ~Iommufd() {
    for (auto& [id, ioas] : spaces) ioas.space.clear();
  }
};

struct FakeVfio::DeviceFile {
  FakeVfioDevice* device = nullptr;
  std::shared_ptr<Group> group;  ///< opened by it
  std::shared_ptr<Iommufd> iommufd;  ///< bound to it
  bool attached = false;
  bool active() const { return group != nullptr || iommufd != nullptr; }
};

FakeVfio::FakeVfio() {
  ::mkdir(node("vfio").c_str(), 0755);
  ::mkdir(node("vfio/devices").c_str(), 0755);
}

FakeVfio::~FakeVfio() = default;

FakeVfioDevice& FakeVfio::add(FakeVfioDevice::Options options, std::unique_ptr<pci::Function> function,
                              std::function<void()> pump) {
  tree.add({.address = options.address.text(), .driver = "vfio-pci", .group = options.group, .cdev = options.cdev});
  // Nodes that can be looked at; what opens them is open() below.
  const auto touch = [this](const std::string& name) {
    const UniqueFd made(::open(node(name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  };
  touch("vfio/" + std::to_string(options.group));
  if (!options.cdev.empty()) touch("iommu");
  if (no_iommu_mode) {
    tree.write("kernel/iommu_groups/" + std::to_string(options.group) + "/name", "vfio-noiommu\n");
  }
  devices_.push_back(std::make_unique<FakeVfioDevice>(std::move(options), std::move(function), std::move(pump)));
  FakeVfioDevice& added = *devices_.back();
  if (added.migration) {
    added.migration->open_stream = [this](std::shared_ptr<FakeVfioMigration::Stream> stream) {
      return add_file(std::move(stream));
    };
  }
  return added;
}

vfio::Handle::Options FakeVfio::options() {
  return {.kernel = this, .sysfs = tree.sysfs(), .interface = {.nodes = nodes_.path(), .proc = nodes_.path("proc")}};
}

std::vector<std::string> FakeVfio::violations() {
  collect();
  std::vector<std::string> all;
  for (const auto& device : devices_) all.insert(all.end(), device->violations.begin(), device->violations.end());
  return all;
}

bool FakeVfio::in_use(pci::Address address) {
  collect();
  return std::ranges::any_of(
      devices_, [&](const auto& device) { return device->options().address == address && is_open(*device); });
}

// Files.

int FakeVfio::add_file(Object object) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return -errno;
  files_.push_back({inode_of(ends[1]), UniqueFd(ends[0]), std::move(object)});
  return ends[1];
}

/// Forgets what has been closed. A device's file stays for as long as a BAR is mapped.
void FakeVfio::collect() {
  for (std::size_t i = 0; i < files_.size();) {
    pollfd state{.fd = files_[i].watched.get(), .events = 0, .revents = 0};
    ::poll(&state, 1, 0);
    files_[i].closed = (state.revents & POLLHUP) != 0;
    const auto* file = std::get_if<std::shared_ptr<DeviceFile>>(&files_[i].object);
    const bool kept = file != nullptr && (*file)->active() && (*file)->device->live_mappings() != 0;
    if (!files_[i].closed || kept) {
      ++i;
      continue;
    }
    const Object object = std::move(files_[i].object);
    files_.erase(files_.begin() + static_cast<std::ptrdiff_t>(i));
    file = std::get_if<std::shared_ptr<DeviceFile>>(&object);
    if (file != nullptr && (*file)->active() && !is_open(*(*file)->device)) (*file)->device->close();
  }
}

FakeVfio::File* FakeVfio::find(int fd) {
  collect();
  const ino_t inode = inode_of(fd);
  const auto found =
      std::ranges::find_if(files_, [&](const File& file) { return file.inode == inode && !file.closed; });
  return found == files_.end() ? nullptr : &*found;
}

template <typename T>
std::shared_ptr<T> FakeVfio::find_as(int fd) {
  File* file = find(fd);
  const auto* object = file == nullptr ? nullptr : std::get_if<std::shared_ptr<T>>(&file->object);
  return object == nullptr ? nullptr : *object;
}

bool FakeVfio::is_open(const FakeVfioDevice& device) const {
  return std::ranges::any_of(files_, [&](const File& file) {
    const auto* object = std::get_if<std::shared_ptr<DeviceFile>>(&file.object);
    return object != nullptr && (*object)->device == &device && (*object)->active();
  });
}

bool FakeVfio::group_is_open(unsigned group) {
  if (!groups_[group].expired()) return true;
  return std::ranges::any_of(files_, [&](const File& file) {
    const auto* object = std::get_if<std::shared_ptr<DeviceFile>>(&file.object);
    return object != nullptr && (*object)->iommufd != nullptr && (*object)->device->options().group == group;
  });
}

bool FakeVfio::viable(unsigned group) const {
  const auto members = tree.sysfs().group_members(group);
  return !members || std::ranges::all_of(*members, [](const vfio::FunctionFacts& member) {
    return member.driver.empty() || member.bound_to_vfio();
  });
}

int FakeVfio::open(const std::string& path) {
  collect();
  if (const auto failing = open_failures.find(path); failing != open_failures.end()) return -failing->second;
  if (!path.starts_with(nodes_.path())) return -ENOENT;
  const std::string name = path.substr(nodes_.path().size() + 1);
  if (name == "vfio/vfio") return add_file(std::make_shared<Container>(limits));
  const bool has_cdev = std::ranges::any_of(devices_, [](const auto& one) { return !one->options().cdev.empty(); });
  if (name == "iommu") return has_cdev ? add_file(std::make_shared<Iommufd>()) : -ENOENT;
  for (const auto& device : devices_) {
    const auto& options = device->options();
    if (name == "vfio/devices/" + options.cdev) {
      auto file = std::make_shared<DeviceFile>();
      file->device = device.get();
      return add_file(std::move(file));
    }
    if (name == "vfio/" + std::to_string(options.group))
      return no_iommu_mode ? -ENOENT : open_group(options.group, false);
    if (name == "vfio/noiommu-" + std::to_string(options.group) && no_iommu_mode)
      return open_group(options.group, true);
  }
  return -ENOENT;
}

int FakeVfio::open_group(unsigned number, bool no_iommu) {
  if (group_is_open(number)) return -EBUSY;
  auto group = std::make_shared<Group>();
  group->number = number;
  group->no_iommu = no_iommu;
  groups_[number] = group;
  return add_file(std::move(group));
}

int FakeVfio::take_failure(unsigned long request) {
  auto& codes = failures[request];
  if (codes.empty()) return 0;
  const int code = codes.front();
  codes.erase(codes.begin());
  return code;
}

int FakeVfio::ioctl(int fd, unsigned long request, std::uintptr_t argument) {
  const File* file = find(fd);
  if (file == nullptr) return -EBADF;
  if (const int code = take_failure(request); code != 0) return -code;
  const Object object = file->object;
  return std::visit([&](const auto& what) { return serve(what, request, argument); }, object);
}

// /dev/vfio/vfio.

int FakeVfio::serve(const std::shared_ptr<Container>& container, unsigned long request, std::uintptr_t argument) {
  switch (static_cast<abi::ContainerRequest>(request)) {
    case abi::ContainerRequest::get_api_version:
      return abi::api_version;
    case abi::ContainerRequest::check_extension:
      if (argument == abi::iommu_type::noiommu) return no_iommu_mode ? 1 : 0;
      return type1_loaded && (argument == abi::iommu_type::type1 || argument == abi::iommu_type::type1v2) ? 1 : 0;
    case abi::ContainerRequest::set_iommu:
      return set_iommu(*container, argument);
    case abi::ContainerRequest::iommu_get_info:
      if (container->type != abi::iommu_type::type1v2) return container->type == 0 ? -EINVAL : -ENOTTY;
      return iommu_info(*container, argument);
    case abi::ContainerRequest::iommu_map_dma: {
      if (container->type != abi::iommu_type::type1v2) return container->type == 0 ? -EINVAL : -ENOTTY;
      const auto map = copy_in<abi::Type1DmaMap>(argument);
      if (map.argsz < sizeof map || (map.flags & ~3U) != 0) return -EINVAL;
      return container->space.map({memory::Iova{map.iova}, map.size}, map.vaddr,
                                  access_of((map.flags & 1) != 0, (map.flags & 2) != 0));
    }
    case abi::ContainerRequest::iommu_unmap_dma:
      return unmap_dma(*container, argument);
  }
  return -ENOTTY;
}

int FakeVfio::set_iommu(Container& container, std::uintptr_t type) {
  if (container.groups == 0 || container.type != 0) return -EINVAL;
  if (type == abi::iommu_type::noiommu ? !no_iommu_mode : !type1_loaded || no_iommu_mode) return -ENODEV;
  if (!interrupts_remapped && type != abi::iommu_type::noiommu) return -EPERM;
  container.type = type;
  return 0;
}

int FakeVfio::iommu_info(const Container& container, std::uintptr_t argument) const {
  const auto asked = copy_in<std::uint32_t>(argument);
  if (asked < 16) return -EINVAL;
  std::vector<std::byte> whole;
  const auto append = [&whole](const auto& value) {
    const Bytes bytes = as_bytes_of(value);
    whole.insert(whole.end(), bytes.begin(), bytes.end());
  };
  // The kernel's order, with all that a capability holds before the next one begins.
  constexpr std::uint32_t migration_at = sizeof(abi::Type1Info), migration_size = 32;
  constexpr std::uint32_t avail_at = migration_at + migration_size;
  const auto avail_size = static_cast<std::uint32_t>(sizeof(abi::DmaAvailCapability)) + (pads_capabilities ? 4 : 0);
  append(abi::Type1Info{.argsz = 0,
                        .flags = abi::type1_flag::pgsizes | abi::type1_flag::caps,
                        .iova_pgsizes = limits.page_size | 0x40200000,
                        .cap_offset = migration_at,
                        .pad = 0});
  append(abi::CapabilityHeader{.id = abi::type1_capability::migration, .version = 1, .next = avail_at});
  whole.resize(avail_at);
  const auto left = limits.max_mappings - static_cast<std::uint32_t>(container.space.mapped().size());
  append(abi::DmaAvailCapability{
      .header = {.id = abi::type1_capability::dma_avail, .version = 1, .next = avail_at + avail_size}, .avail = left});
  whole.resize(avail_at + avail_size);
  append(abi::IovaRangeCapability{.header = {.id = abi::type1_capability::iova_range, .version = 1, .next = 0},
                                  .nr_iovas = static_cast<std::uint32_t>(limits.ranges.size()),
                                  .reserved = 0});
  for (const auto& range : limits.ranges) append(abi::IovaBounds{raw(range.start), raw(range.last())});
  if (change_iommu_info) change_iommu_info(whole);
  auto need = static_cast<std::uint32_t>(whole.size());
  std::memcpy(whole.data(), &need, sizeof need);
  if (asked < need) {
    const std::uint32_t none = 0;
    std::memcpy(whole.data() + offsetof(abi::Type1Info, cap_offset), &none, sizeof none);
    whole.resize(std::min<std::size_t>(asked, sizeof(abi::Type1Info)));
  }
  std::memcpy(user_memory(argument), whole.data(), whole.size());
  return 0;
}

int FakeVfio::unmap_dma(Container& container, std::uintptr_t argument) const {
  if (container.type != abi::iommu_type::type1v2) return container.type == 0 ? -EINVAL : -ENOTTY;
  auto unmap = copy_in<abi::Type1DmaUnmap>(argument);
  if (unmap.argsz < sizeof unmap || unmap.flags != 0) return -EINVAL;
  const int done = container.space.unmap({memory::Iova{unmap.iova}, unmap.size}, unmap.size);
  if (done < 0) return done;
  if (change_unmapped) unmap.size = change_unmapped(unmap.size);
  copy_out(argument, unmap);
  return 0;
}

// /dev/vfio/GROUP.

int FakeVfio::serve(const std::shared_ptr<Group>& group, unsigned long request, std::uintptr_t argument) {
  switch (static_cast<abi::GroupRequest>(request)) {
    case abi::GroupRequest::get_status: {
      auto status = copy_in<abi::GroupStatus>(argument);
      if (status.argsz < sizeof status) return -EINVAL;
      status.flags = (viable(group->number) ? abi::group_flag::viable : 0) |
                     (group->container ? abi::group_flag::container_set : 0);
      copy_out(argument, status);
      return 0;
    }
    case abi::GroupRequest::set_container:
      return set_container(*group, argument);
    case abi::GroupRequest::unset_container:
      return group->container == nullptr ? -EINVAL : -EBUSY;
    case abi::GroupRequest::get_device_fd:
      return get_device_fd(group, argument);
  }
  return -ENOTTY;
}

int FakeVfio::set_container(Group& group, std::uintptr_t argument) {
  const auto container = find_as<Container>(copy_in<std::int32_t>(argument));
  if (!container) return -EBADF;
  if (group.container) return -EINVAL;
  if (!viable(group.number)) return -EPERM;
  group.container = container;
  ++container->groups;
  return 0;
}

int FakeVfio::get_device_fd(const std::shared_ptr<Group>& group, std::uintptr_t argument) {
  if (!group->container || group->container->type == 0) return -EINVAL;
  const std::string text(reinterpret_cast<const char*>(user_memory(argument)));
  const std::string name = text.substr(0, text.find(' '));
  const std::string rest = name.size() < text.size() ? text.substr(name.size() + 1) : "";
  for (const auto& device : devices_) {
    const auto& options = device->options();
    if (options.group != group->number || options.address.text() != name) continue;
    if (!rest.empty() && !rest.starts_with("vf_token=")) return -EINVAL;
    if (!rest.empty() && !options.vf_token) return -EINVAL;
    if (options.vf_token && rest != "vf_token=" + *options.vf_token) return -EACCES;
    if (!is_open(*device)) {
      device->open();
      group->container->space.attach(device->function(), device->pump());
    }
    auto file = std::make_shared<DeviceFile>();
    file->device = device.get();
    file->group = group;
    return add_file(std::move(file));
  }
  return -ENODEV;
}

// A device.

int FakeVfio::serve(const std::shared_ptr<DeviceFile>& file, unsigned long request, std::uintptr_t argument) {
  const auto which = static_cast<abi::DeviceRequest>(request);
  if (which == abi::DeviceRequest::bind_iommufd) return bind_iommufd(*file, argument);
  if (!file->active()) return -EINVAL;
  if (which == abi::DeviceRequest::attach_iommufd_pt) return attach(*file, argument);
  return file->device->ioctl(request, argument);
}

int FakeVfio::bind_iommufd(DeviceFile& file, std::uintptr_t argument) {
  const auto argsz = copy_in<std::uint32_t>(argument);
  if (argsz < offsetof(abi::BindIommufd, token_uuid_ptr)) return -EINVAL;
  abi::BindIommufd bind{};
  std::memcpy(&bind, user_memory(argument), std::min<std::size_t>(argsz, sizeof bind));
  if (file.active()) return -EINVAL;
  const auto iommufd = find_as<Iommufd>(bind.iommufd);
  if (!iommufd) return -EBADFD;
  const auto& options = file.device->options();
  if (!groups_[options.group].expired()) return -EBUSY;
  if (is_open(*file.device)) return -EINVAL;
  if (!viable(options.group) || !interrupts_remapped) return -EPERM;
  if (options.vf_token && (bind.flags & abi::bind_flag::token) == 0) return -EACCES;
  file.iommufd = iommufd;
  file.device->open();
  bind.out_devid = 1;
  std::memcpy(user_memory(argument), &bind, std::min<std::size_t>(argsz, sizeof bind));
  return 0;
}

int FakeVfio::attach(DeviceFile& file, std::uintptr_t argument) {
  auto call = copy_in<abi::AttachIommufdPt>(argument);
  if (call.argsz < sizeof call || call.flags != 0 || !file.iommufd || file.attached) return -EINVAL;
  const auto found = file.iommufd->spaces.find(call.pt_id);
  if (found == file.iommufd->spaces.end()) return -ENOENT;
  found->second.space.attach(file.device->function(), file.device->pump());
  ++found->second.attached;
  file.attached = true;
  call.pt_id = 1000;  // of what the kernel has made for it
  copy_out(argument, call);
  return 0;
}

ssize_t FakeVfio::pread(int fd, MutableBytes into, std::uint64_t offset) {
  const auto file = find_as<DeviceFile>(fd);
  if (!file) return -EBADF;
  return file->active() ? file->device->pread(into, offset) : -EINVAL;
}

ssize_t FakeVfio::pwrite(int fd, Bytes from, std::uint64_t offset) {
  const auto file = find_as<DeviceFile>(fd);
  if (!file) return -EBADF;
  return file->active() ? file->device->pwrite(from, offset) : -EINVAL;
}

ssize_t FakeVfio::read(int fd, MutableBytes into) {
  const auto stream = find_as<FakeVfioMigration::Stream>(fd);
  return stream ? stream->read(into) : -EBADF;
}

ssize_t FakeVfio::write(int fd, Bytes from) {
  const auto stream = find_as<FakeVfioMigration::Stream>(fd);
  return stream ? stream->write(from) : -EBADF;
}

void* FakeVfio::map(int fd, std::uint64_t length, int protection, std::uint64_t offset, void* fixed) {
  const auto file = find_as<DeviceFile>(fd);
  errno = EBADF;
  if (!file || !file->active()) return nullptr;
  return file->device->map(length, protection, offset, fixed);
}

void FakeVfio::unmap(void* address, std::uint64_t length) { ::munmap(address, length); }

// /dev/iommu.

int FakeVfio::serve(const std::shared_ptr<Iommufd>& iommufd, unsigned long request, std::uintptr_t argument) {
  switch (static_cast<abi::IommuRequest>(request)) {
    case abi::IommuRequest::ioas_alloc: {
      auto alloc = copy_in<abi::IoasAlloc>(argument);
      if (alloc.size < sizeof alloc) return -EINVAL;
      if (alloc.flags != 0) return -EOPNOTSUPP;
      alloc.out_ioas_id = iommufd->next++;
      iommufd->spaces.try_emplace(alloc.out_ioas_id, limits);
      copy_out(argument, alloc);
      return 0;
    }
    case abi::IommuRequest::destroy: {
      const auto destroy = copy_in<abi::IommuDestroy>(argument);
      const auto found = iommufd->spaces.find(destroy.id);
      if (found == iommufd->spaces.end()) return -ENOENT;
      const bool attached = std::ranges::any_of(files_, [&](const File& file) {
        const auto* object = std::get_if<std::shared_ptr<DeviceFile>>(&file.object);
        return object != nullptr && (*object)->iommufd == iommufd && (*object)->attached;
      });
      if (attached) return -EBUSY;
      found->second.space.detach();
      iommufd->spaces.erase(found);
      return 0;
    }
    case abi::IommuRequest::ioas_iova_ranges:
      return iova_ranges(*iommufd, argument);
    case abi::IommuRequest::ioas_map:
      return ioas_map(*iommufd, argument);
    case abi::IommuRequest::ioas_unmap:
      return ioas_unmap(*iommufd, argument);
  }
  return -ENOTTY;
}

int FakeVfio::iova_ranges(const Iommufd& iommufd, std::uintptr_t argument) const {
  auto call = copy_in<abi::IoasIovaRanges>(argument);
  if (call.size < sizeof call) return -EINVAL;
  const auto found = iommufd.spaces.find(call.ioas_id);
  if (found == iommufd.spaces.end()) return -ENOENT;
  // What a device narrows is not to be seen before it is attached.
  std::vector<abi::IovaBounds> bounds{{0, UINT64_MAX}};
  call.out_iova_alignment = 1;
  if (found->second.attached != 0) {
    bounds.clear();
    for (const auto& range : limits.ranges) bounds.push_back({raw(range.start), raw(range.last())});
    call.out_iova_alignment = limits.page_size;
  }
  const std::size_t fit = std::min<std::size_t>(call.num_iovas, bounds.size());
  if (fit != 0) std::memcpy(user_memory(call.allowed_iovas), bounds.data(), fit * sizeof(abi::IovaBounds));
  call.num_iovas = static_cast<std::uint32_t>(bounds.size());
  copy_out(argument, call);
  return fit == bounds.size() ? 0 : -EMSGSIZE;
}

int FakeVfio::ioas_map(Iommufd& iommufd, std::uintptr_t argument) {
  namespace flag = abi::ioas_map_flag;
  const auto call = copy_in<abi::IoasMap>(argument);
  if (call.size < sizeof call || call.reserved != 0) return -EINVAL;
  if ((call.flags & ~7U) != 0) return -EOPNOTSUPP;
  const auto found = iommufd.spaces.find(call.ioas_id);
  if (found == iommufd.spaces.end()) return -ENOENT;
  if ((call.flags & flag::fixed_iova) == 0) return -EOPNOTSUPP;  // the fake gives out no addresses
  return found->second.space.map({memory::Iova{call.iova}, call.length}, call.user_va,
                                 access_of((call.flags & flag::readable) != 0, (call.flags & flag::writeable) != 0));
}

int FakeVfio::ioas_unmap(Iommufd& iommufd, std::uintptr_t argument) const {
  auto call = copy_in<abi::IoasUnmap>(argument);
  if (call.size < sizeof call) return -EINVAL;
  const auto found = iommufd.spaces.find(call.ioas_id);
  if (found == iommufd.spaces.end()) return -ENOENT;
  const int done = found->second.space.unmap({memory::Iova{call.iova}, call.length}, call.length);
  if (done < 0) return done;
  if (change_unmapped) call.length = change_unmapped(call.length);
  copy_out(argument, call);
  return 0;
}

}  // namespace outboard::testing
