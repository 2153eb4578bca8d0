#include <outboard/vfio/internal/interface.hpp>

#include <sys/stat.h>

#include <array>
#include <charconv>

#include <fmt/format.h>

#include <outboard/base/internal/file_holder.hpp>
#include <outboard/vfio/internal/while_busy.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;

/// One attempt to open a function. Errors are without a subject: the caller adds the function.
class Opening {
 public:
  Opening(Kernel& kernel, const Sysfs& sysfs, const FunctionFacts& facts, const InterfaceOptions& options)
      : kernel_(kernel), sysfs_(sysfs), facts_(facts), options_(options) {}

  Result<OpenedDevice> by_group(bool no_iommu_asked);
  Result<OpenedDevice> by_cdev();
  bool has_iommufd() const;

 private:
  std::string bdf() const { return facts_.address.text(); }
  std::string node(const std::string& name) const { return options_.nodes + "/" + name; }
  Result<UniqueFd> open_node(const std::string& path, const char* missing, const char* mend);
  Error refused_node(const std::string& path, int code) const;
  Result<ContainerFd> open_container(unsigned long type);
  Status join(const GroupFd& group, const ContainerFd& container, unsigned long type);
  Error not_viable() const;
  Error refused_type(int code) const;
  Result<DeviceFd> device_of(const GroupFd& group);
  Error refused_device(int code) const;
  Status bind(const DeviceFd& device, const IommuFd& iommufd);

  Kernel& kernel_;
  const Sysfs& sysfs_;
  const FunctionFacts& facts_;
  const InterfaceOptions& options_;
};

// Nodes.

Error Opening::refused_node(const std::string& path, int code) const {
  if (code == EACCES || code == EPERM) {
    struct stat info{};
    std::string who;
    if (::stat(path.c_str(), &info) == 0) {
      who = fmt::format(" (it belongs to user {} and group {}, mode {:04o})", info.st_uid, info.st_gid,
                        info.st_mode & 07777);
    }
    return Error(code, fmt::format("no permission to open {}{}", path, who))
        .cure(fmt::format("give it to the user who runs this: chown USER {}, or a udev rule (docs/vfio.md)", path));
  }
  if (code == EBUSY) {
    const auto holder = holder_of(path, options_.proc);
    const std::string who =
        holder ? fmt::format("process {} ({}) has", holder->pid, holder->command) : "another process has";
    return Error(code, fmt::format("{} is in use: {} it open, or another node of the same group", path, who))
        .cure(holder ? "end that process, or let it finish" : "find it with: fuser -v /dev/vfio/*");
  }
  return Error(code, fmt::format("opening {}: {}", path, Error(code).what()));
}

Result<UniqueFd> Opening::open_node(const std::string& path, const char* missing, const char* mend) {
  const int fd = kernel_.open(path);
  if (fd >= 0) return UniqueFd(fd);
  if (fd == -ENOENT || fd == -ENODEV || fd == -ENXIO) {
    return Error(-fd, fmt::format("{} is not there: {}", path, missing)).cure(mend);
  }
  return refused_node(path, -fd);
}

// The group.

Result<ContainerFd> Opening::open_container(unsigned long type) {
  OUTBOARD_TRY(UniqueFd fd, open_node(node("vfio/vfio"), "the kernel's vfio is not loaded", "modprobe vfio-pci"));
  ContainerFd container{std::move(fd)};
  const int version = kernel_.call(container, abi::ContainerRequest::get_api_version, std::uintptr_t{0});
  if (version != abi::api_version) {
    return Error(EPROTO,
                 fmt::format("the kernel's VFIO has version {}, this library speaks {}", version, abi::api_version));
  }
  if (kernel_.call(container, abi::ContainerRequest::check_extension, type) <= 0) return refused_type(ENODEV);
  return container;
}

Error Opening::refused_type(int code) const {
  if (options_.interface == Interface::no_iommu) {
    return Error(code, "the kernel offers no access without an IOMMU")
        .cure("a kernel with CONFIG_VFIO_NOIOMMU, and vfio.enable_unsafe_noiommu_mode=1 before vfio-pci is bound");
  }
  if (code == ENODEV) {
    return Error(code, "the kernel's module for the IOMMU (vfio_iommu_type1) is not loaded")
        .cure("modprobe vfio_iommu_type1");
  }
  if (code == EPERM) {
    return Error(code, "this machine does not remap interrupts, so a device could forge them")
        .cure(
            "turn interrupt remapping on in the firmware; or accept the risk, for every user of VFIO: "
            "echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
  }
  return Error(code, "setting up the IOMMU (VFIO_SET_IOMMU): " + Error(code).what());
}

/// Lists what is in the way: devices of the group with a driver that is not VFIO's.
Error Opening::not_viable() const {
  std::string culprits, cure;
  if (facts_.group) {
    const auto members = sysfs_.group_members(*facts_.group);
    for (const auto& member : members ? *members : std::vector<FunctionFacts>{}) {
      if (member.driver.empty() || member.bound_to_vfio()) continue;
      culprits +=
          fmt::format("{}{} is driven by '{}'", culprits.empty() ? "" : ", ", member.address.text(), member.driver);
      cure += fmt::format("{}outboard pci bind {}", cure.empty() ? "" : "; ", member.address.text());
    }
  }
  return Error(EPERM, fmt::format("IOMMU group {} cannot be used as long as the host uses a part of it: {}",
                                  facts_.group.value_or(0), culprits.empty() ? "a device of it" : culprits))
      .cure(cure.empty() ? "hand over, or unbind, every device of the group" : cure);
}

Status Opening::join(const GroupFd& group, const ContainerFd& container, unsigned long type) {
  abi::GroupStatus status{.argsz = sizeof(abi::GroupStatus), .flags = 0};
  if (const int done = kernel_.call(group, abi::GroupRequest::get_status, &status); done < 0) {
    return Error(-done, "asking about the IOMMU group (VFIO_GROUP_GET_STATUS): " + Error(-done).what());
  }
  if ((status.flags & abi::group_flag::viable) == 0) return not_viable();
  std::int32_t fd = container.fd.get();
  if (const int done = kernel_.call(group, abi::GroupRequest::set_container, &fd); done < 0) {
    if (done == -EPERM && type != abi::iommu_type::noiommu) return not_viable();
    return Error(-done, "attaching the IOMMU group (VFIO_GROUP_SET_CONTAINER): " + Error(-done).what())
        .cure(done == -EPERM ? "access without an IOMMU is for root (CAP_SYS_RAWIO)" : "");
  }
  if (const int done = kernel_.call(container, abi::ContainerRequest::set_iommu, type); done < 0) {
    return refused_type(-done);
  }
  return {};
}

Error Opening::refused_device(int code) const {
  if (code == EACCES) {
    return Error(code, options_.vf_token ? "the VF token is not that of the physical function's driver"
                                         : "this virtual function needs the token of its physical function's driver")
        .cure("vf-token=UUID, the one that driver was started with");
  }
  if (code == EAGAIN) return Error(code, "the device stays busy, in a reset for instance").cure("try again");
  if (code == ENODEV) return Error(code, "the device is going away").cure("see the kernel's log");
  if (code == EINVAL && options_.vf_token) {
    return Error(code, "the kernel takes no VF token here").cure("leave vf-token away: it is for virtual functions");
  }
  return Error(code, "opening the device (VFIO_GROUP_GET_DEVICE_FD): " + Error(code).what())
      .cure("see the kernel's log");
}

Result<DeviceFd> Opening::device_of(const GroupFd& group) {
  const std::string name = options_.vf_token ? bdf() + " vf_token=" + *options_.vf_token : bdf();
  const int fd =
      while_busy(kernel_, [&] { return kernel_.call(group, abi::GroupRequest::get_device_fd, name.c_str()); });
  if (fd < 0) return refused_device(-fd);
  return DeviceFd{UniqueFd(fd)};
}

Result<OpenedDevice> Opening::by_group(bool no_iommu_asked) {
  const unsigned long type = no_iommu_asked ? abi::iommu_type::noiommu : abi::iommu_type::type1v2;
  OUTBOARD_TRY(ContainerFd container, open_container(type));
  const std::string name = fmt::format("vfio/{}{}", no_iommu_asked ? "noiommu-" : "", *facts_.group);
  OUTBOARD_TRY(UniqueFd fd,
               open_node(node(name), "no device of the group is bound to vfio-pci", "outboard pci bind the device"));
  GroupFd group{std::move(fd)};
  OUTBOARD_CHECK(join(group, container, type));
  OUTBOARD_TRY(DeviceFd device, device_of(group));
  auto iommu = no_iommu_asked ? no_iommu(std::move(container), std::move(group))
                              : container_iommu(kernel_, std::move(container), std::move(group));
  return OpenedDevice{.device = std::move(device),
                      .iommu = std::move(iommu),
                      .interface = no_iommu_asked ? Interface::no_iommu : Interface::group,
                      .node = node(name)};
}

// The device's own node.

bool Opening::has_iommufd() const {
  struct stat info{};
  return ::stat(node("iommu").c_str(), &info) == 0;
}

/// "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" as 16 bytes.
Result<std::array<std::uint8_t, 16>> parse_uuid(std::string_view text) {
  const Error wrong = Error(EINVAL, fmt::format("'{}' is not a UUID", text)).cure("8-4-4-4-12 hexadecimal digits");
  std::string digits;
  for (const char c : text) {
    if (c != '-') digits += c;
  }
  std::array<std::uint8_t, 16> bytes{};
  if (digits.size() != 32 || text.size() != 36) return wrong;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const char* at = digits.data() + 2 * i;
    const auto [end, code] = std::from_chars(at, at + 2, bytes[i], 16);
    if (code != std::errc{} || end != at + 2) return wrong;
  }
  return bytes;
}

Status Opening::bind(const DeviceFd& device, const IommuFd& iommufd) {
  abi::BindIommufd call{.argsz = offsetof(abi::BindIommufd, token_uuid_ptr),
                        .flags = 0,
                        .iommufd = iommufd.fd.get(),
                        .out_devid = 0,
                        .token_uuid_ptr = 0};
  std::array<std::uint8_t, 16> token{};
  if (options_.vf_token) {
    OUTBOARD_TRY(token, parse_uuid(*options_.vf_token));
    call.argsz = sizeof call;
    call.flags = abi::bind_flag::token;
    call.token_uuid_ptr = reinterpret_cast<std::uintptr_t>(token.data());
  }
  const int done = kernel_.call(device, abi::DeviceRequest::bind_iommufd, &call);
  if (done >= 0) return {};
  switch (-done) {
    case EBUSY:
      return refused_node(node("vfio/" + std::to_string(facts_.group.value_or(0))), EBUSY);
    case EINVAL:  // the node may be open many times, and be bound once; or the flag of the token is not known
      if (options_.vf_token) {
        return Error(EINVAL, fmt::format("{} is in use, or the kernel takes no token there",
                                         node("vfio/devices/" + facts_.cdev)))
            .cure("interface=group, which takes one; or without vf-token where the device is no virtual function");
      }
      return refused_node(node("vfio/devices/" + facts_.cdev), EBUSY);
    case EPERM:
      return Error(EPERM,
                   "the IOMMU group belongs to another user of iommufd, or this machine does not remap interrupts")
          .cure("iommufd.allow_unsafe_interrupts=1 accepts forged interrupts, for every user");
    default:
      return refused_device(-done);
  }
}

Result<OpenedDevice> Opening::by_cdev() {
  if (facts_.cdev.empty()) {
    return Error(ENOENT, "the kernel has no node of its own for this device")
        .cure("use interface=group; or a kernel with CONFIG_VFIO_DEVICE_CDEV");
  }
  OUTBOARD_TRY(UniqueFd iommu_fd, open_node(node("iommu"), "the kernel has no iommufd", "use interface=group"));
  IommuFd iommufd{std::move(iommu_fd)};
  const std::string path = node("vfio/devices/" + facts_.cdev);
  OUTBOARD_TRY(UniqueFd device_fd, open_node(path, "the device has been unbound", "outboard pci bind the device"));
  DeviceFd device{std::move(device_fd)};
  OUTBOARD_CHECK(bind(device, iommufd));
  abi::IoasAlloc space{.size = sizeof(abi::IoasAlloc), .flags = 0, .out_ioas_id = 0};
  if (const int done = kernel_.call(iommufd, abi::IommuRequest::ioas_alloc, &space); done < 0) {
    return Error(-done, "making an address space for DMA (IOMMU_IOAS_ALLOC): " + Error(-done).what());
  }
  abi::AttachIommufdPt attach{.argsz = sizeof(abi::AttachIommufdPt), .flags = 0, .pt_id = space.out_ioas_id};
  if (const int done = kernel_.call(device, abi::DeviceRequest::attach_iommufd_pt, &attach); done < 0) {
    return Error(-done, "attaching the device to its address space: " + Error(-done).what());
  }
  return OpenedDevice{.device = std::move(device),
                      .iommu = iommufd_iommu(kernel_, std::move(iommufd), space.out_ioas_id),
                      .interface = Interface::cdev,
                      .node = path};
}

Status check_binding(const FunctionFacts& facts, Interface interface) {
  const std::string bdf = facts.address.text();
  if (!facts.bound_to_vfio()) {
    if (facts.driver.empty()) {
      return Error(ENODEV, "the device is not bound to vfio-pci").cure("to hand it over: outboard pci bind " + bdf);
    }
    return Error(EBUSY, fmt::format("the device is bound to '{}', not to vfio-pci", facts.driver))
        .cure("to hand it over: outboard pci bind " + bdf);
  }
  const bool without = facts.no_iommu_group || !facts.group;
  if (without && interface != Interface::no_iommu) {
    return Error(ENODEV, "the device is not behind an IOMMU and could access all memory")
        .cure(
            "turn the IOMMU on (VT-d or AMD-Vi in the firmware, intel_iommu=on); without one only interface=no-iommu "
            "works, for root, and nothing protects the machine");
  }
  if (interface == Interface::no_iommu && !facts.no_iommu_group) {
    return Error(EINVAL, "the device is not open to access without an IOMMU")
        .cure(facts.group ? "leave interface=no-iommu away: there is an IOMMU"
                          : "vfio.enable_unsafe_noiommu_mode=1 before vfio-pci is bound");
  }
  return {};
}

}  // namespace

Result<OpenedDevice> open_device(Kernel& kernel, const Sysfs& sysfs, const FunctionFacts& facts,
                                 const InterfaceOptions& options, const Log& log) {
  OUTBOARD_CHECK(check_binding(facts, options.interface));
  Opening opening(kernel, sysfs, facts, options);
  switch (options.interface) {
    case Interface::no_iommu:
      log.warning("without an IOMMU: the device can read and write all memory of this machine");
      return opening.by_group(true);
    case Interface::group:
      return opening.by_group(false);
    case Interface::cdev:
      return opening.by_cdev();
    case Interface::automatic:
      break;
  }
  const bool cdev = !facts.cdev.empty() && opening.has_iommufd();
  log.debug("by {}", cdev ? "the device's node and iommufd" : "its IOMMU group");
  return cdev ? opening.by_cdev() : opening.by_group(false);
}

}  // namespace outboard::vfio
