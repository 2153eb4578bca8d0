#include <outboard/vduse/control.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include <outboard/base/internal/file_holder.hpp>
#include <outboard/base/internal/process_memory.hpp>
#include <outboard/virtio/device_ids.hpp>
#include <outboard/virtio/names.hpp>

namespace outboard::vduse {
namespace {

namespace ids = virtio::device_id;

constexpr std::uint64_t bit(unsigned number) { return UINT64_C(1) << number; }
constexpr std::uint64_t bit(virtio::Feature feature) { return bit(static_cast<unsigned>(feature)); }

/// The used ring of a split queue begins on a multiple of it. A cache line: more would only cost pages.
constexpr std::uint32_t ring_alignment = 64;

std::string control_path(const std::string& folder) { return folder + "/control"; }

/// VDUSE-1 and VDUSE-2.
Error cannot_open(const Error& error, const std::string& path) {
  switch (error.code()) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return Error(ENOENT, "the kernel module vduse is not loaded")
          .on(path)
          .cure("modprobe -a vduse virtio_vdpa; a kernel without it needs CONFIG_VDPA_USER");
    case EACCES:
    case EPERM:
      return Error(EACCES, "this user may not open the control node")
          .on(path)
          .cure("run as root, or let root make the device: outboard vduse create TYPE NAME ... --owner USER");
    default:
      return Error(error).on(path);
  }
}

Error not_possible(const std::string& what) { return Error(EINVAL, what); }

Status check_features(const DeviceShape& shape) {
  for (const virtio::Feature feature : {virtio::Feature::access_platform, virtio::Feature::version_1}) {
    if ((shape.features & bit(feature)) != 0) continue;
    const auto* named = std::ranges::find(virtio::reserved_feature_names, feature, &virtio::FeatureName::bit);
    return not_possible(fmt::format("VDUSE needs the feature {}", named->name));
  }
  const std::uint64_t refused = shape.features & refused_features(shape.device_id);
  if (refused != 0) return not_possible(fmt::format("VDUSE cannot have feature bit {}", std::countr_zero(refused)));
  return {};
}

Status check_queues(const DeviceShape& shape) {
  static constexpr std::size_t most = 65535;
  if (shape.queue_sizes.empty() || shape.queue_sizes.size() > most)
    return not_possible(fmt::format("a VDUSE device has 1 to {} queues, not {}", most, shape.queue_sizes.size()));
  const auto bad =
      std::ranges::find_if(shape.queue_sizes, [](std::uint16_t size) { return !std::has_single_bit(size); });
  if (bad != shape.queue_sizes.end())
    return not_possible(fmt::format("a queue's maximum size is a power of two, not {}", *bad));
  return {};
}

Status check_groups(const DeviceShape& shape, std::uint64_t api_version) {
  static constexpr std::uint32_t most = 65535;
  const auto within = [](std::uint32_t count) { return count >= 1 && count <= most; };
  const bool good = api_version == spec::api_version_0 ? shape.groups == 0 && shape.address_spaces == 0
                                                       : within(shape.groups) && within(shape.address_spaces);
  if (good) return {};
  return not_possible(fmt::format("{} queue groups and {} address spaces do not go with API version {}", shape.groups,
                                  shape.address_spaces, api_version));
}

Status check_device_id(const DeviceShape& shape) {
  for (const std::uint32_t id : {ids::net, ids::blk, ids::fs}) {
    if (shape.device_id == id) return {};
  }
  return Error(ENOTSUP, fmt::format("the kernel's VDUSE takes network (1), block (2) and filesystem (26) devices, "
                                    "not device ID {}",
                                    shape.device_id))
      .cure("serve it over vfio-user: --listen vfio-user:PATH");
}

/// struct vduse_dev_config, and the configuration space behind it.
std::vector<std::byte> message_of(const DeviceShape& shape) {
  spec::DeviceConfig head{};
  std::ranges::copy(shape.name, head.name.begin());
  head.vendor_id = shape.vendor_id;
  head.device_id = shape.device_id;
  head.features = shape.features;
  head.vq_num = static_cast<std::uint32_t>(shape.queue_sizes.size());
  head.vq_align = ring_alignment;
  head.ngroups = shape.groups;
  head.nas = shape.address_spaces;
  head.config_size = static_cast<std::uint32_t>(shape.config.size());
  std::vector<std::byte> message(sizeof head + shape.config.size());
  copy_bytes(as_bytes_of(head), message);
  copy_bytes(shape.config, MutableBytes(message).subspan(sizeof head));
  return message;
}

}  // namespace

std::uint64_t refused_features(std::uint32_t device_id) {
  using virtio::Feature;
  // What the bus has no operation for, or clears behind the device's back after it was accepted (NOTIFICATION_DATA).
  std::uint64_t bits = bit(Feature::sr_iov) | bit(Feature::notification_data) | bit(Feature::notif_config_data) |
                       bit(Feature::ring_reset) | bit(Feature::admin_vq) | bit(Feature::suspend);
  // VIRTIO_BLK_F_CONFIG_WCE: a driver's writes to the configuration space never reach the device.
  if (device_id == ids::blk) bits |= bit(11);
  // VIRTIO_NET_F_CTRL_VQ is refused, and with it goes what needs it, or the Linux driver gives up: CTRL_GUEST_OFFLOADS,
  // CTRL_RX, CTRL_VLAN, GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR, VQ_NOTF_COAL, NOTF_COAL, HASH_REPORT, RSS.
  if (device_id == ids::net) {
    for (const unsigned number : {2U, 17U, 18U, 19U, 21U, 22U, 23U, 52U, 53U, 57U, 60U}) bits |= bit(number);
  }
  return bits;
}

Status check_shape(const DeviceShape& shape, std::uint64_t api_version) {
  const auto checked = [&]() -> Status {
    OUTBOARD_CHECK(check_device_id(shape));
    OUTBOARD_CHECK(check_features(shape));
    OUTBOARD_CHECK(check_queues(shape));
    OUTBOARD_CHECK(check_groups(shape, api_version));
    if (shape.config.size() > page_size())
      return not_possible(
          fmt::format("a device configuration space of {} bytes is more than a page", shape.config.size()));
    return {};
  };
  OUTBOARD_CHECK(check_name(shape.name));
  if (const auto good = checked(); !good) return Error(good.error()).on(shape.name);
  return {};
}

namespace {

/// Kernels from 7.3 on have messages that are sent only for devices whose creator has asked for them, on this open file.
Status ask_for_messages(NodeFile& file, const std::string& path) {
  std::uint64_t known = 0;
  if (file.control(spec::ioctl::get_features, &known) < 0) return {};  // an older kernel
  std::uint64_t wanted = known & (spec::feature::queue_ready | spec::feature::suspend);
  if (wanted == 0) return {};
  if (const int done = file.control(spec::ioctl::set_features, &wanted); done < 0) {
    errno = -done;
    return Error::from_errno("asking for SET_VQ_READY and SUSPEND").on(path);
  }
  return {};
}

}  // namespace

Result<Control> Control::on(std::unique_ptr<NodeFile> file, std::uint64_t api_version, const std::string& folder) {
  // Always: a file that has only been asked for its version has chosen one, and not the one that it says by default.
  const int done = file->control(spec::ioctl::set_api_version, &api_version);
  if (done == -EINVAL) {
    return Error(EINVAL, fmt::format("this kernel's VDUSE has no API version {}", api_version))
        .on(control_path(folder))
        .cure("use API version 0");
  }
  if (done == -ENOTTY) return Error(ENOENT, "it is not the control node of VDUSE").on(control_path(folder));
  if (done < 0) {
    errno = -done;
    return Error::from_errno("choosing an API version").on(control_path(folder));
  }
  OUTBOARD_CHECK(ask_for_messages(*file, control_path(folder)));
  return Control(std::move(file), api_version, folder);
}

Result<Control> Control::open(std::uint64_t api_version, const std::string& folder) {
  auto file = open_node_file(control_path(folder));
  if (!file) return cannot_open(file.error(), control_path(folder));
  return on(std::move(*file), api_version, folder);
}

Result<std::uint64_t> Control::highest_api_version(const std::string& folder) {
  const auto file = open_node_file(control_path(folder));
  if (!file) return cannot_open(file.error(), control_path(folder));
  std::uint64_t version = 0;
  if (const int done = (*file)->control(spec::ioctl::get_api_version, &version); done < 0) {
    errno = -done;
    return Error::from_errno("asking for the API version").on(control_path(folder));
  }
  return version;
}

/// VDUSE-2 to VDUSE-5. What this kernel says of a shape that check_shape() lets pass.
Error Control::refusal(int code, const DeviceShape& shape) const {
  switch (code) {
    case EEXIST:
      return Error(EEXIST, "there is a VDUSE device of this name")
          .cure("outboard vduse list; a server adopts its own, and an idle one goes by: outboard vduse remove NAME");
    case EPERM:
      return Error(EPERM, "making a network device needs CAP_NET_ADMIN")
          .cure("run as root, or with AmbientCapabilities=CAP_NET_ADMIN");
    case ENOMEM:
      return Error(ENOMEM, "the kernel has no memory for the device");
    case ENOSPC:
      return Error(ENOSPC, "the kernel has no number left for another VDUSE device").cure("remove some that are idle");
    case EINVAL:
      if (shape.device_id == ids::fs)
        return Error(ENOTSUP, "this kernel's VDUSE does not take filesystem devices").cure("a kernel of 7.0 or later");
      return Error(EINVAL, fmt::format("the kernel refuses the device (API version {}, features {:#x}, {} queues, {} "
                                       "bytes of configuration), for a reason that is not known here",
                                       api_version_, shape.features, shape.queue_sizes.size(), shape.config.size()));
    default:
      errno = code;
      return Error::from_errno("creating the VDUSE device");
  }
}

Status Control::create(const DeviceShape& shape) {
  OUTBOARD_CHECK(check_shape(shape, api_version_));
  auto message = message_of(shape);
  const int done = file_->control(spec::ioctl::create_dev, message.data());
  if (done < 0) return refusal(-done, shape).on(shape.name);
  return {};
}

Status Control::destroy(std::string_view name) {
  OUTBOARD_CHECK(check_name(name));
  // The kernel reads all of it, whatever the name's length.
  std::array<char, spec::name_size> padded{};
  std::ranges::copy(name, padded.begin());
  const int done = file_->control(spec::ioctl::destroy_dev, padded.data());
  if (done >= 0) return {};
  if (done == -EINVAL) return Error(ENOENT, "there is no VDUSE device of this name").on(std::string(name));
  if (done == -EBUSY) {
    const auto holder = holder_of(folder_ + "/" + std::string(name));
    const std::string who = holder ? fmt::format("process {} ({}) has it open", holder->pid, holder->command)
                                   : "it is attached to the vDPA bus, or a process has it open";
    return Error(EBUSY, "the VDUSE device is in use: " + who)
        .on(std::string(name))
        .cure("end its server (kill -TERM); if that is gone: outboard vduse remove NAME");
  }
  errno = -done;
  return Error::from_errno("removing the VDUSE device").on(std::string(name));
}

/// VDUSE-48 and VDUSE-49.
Status Control::destroy_with_retry(std::string_view name, const std::function<bool()>& wait) {
  while (true) {
    Status done = destroy(name);
    if (done || done.error().code() == ENOENT) return {};
    if (done.error().code() != EBUSY || !wait()) return done;
  }
}

}  // namespace outboard::vduse
