#include <outboard/vduse/node.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include <outboard/base/internal/file_holder.hpp>

namespace outboard::vduse {
namespace {

Error no_such_space(std::uint32_t asid) {
  return Error(EINVAL, fmt::format("the device has no address space {}", asid));
}

Error reversed(std::uint64_t start, std::uint64_t last) {
  return Error(EINVAL, fmt::format("addresses {:#x} to {:#x} end before they begin", start, last));
}

/// An early header of API version 1 had a longer struct vduse_iotlb_entry_v2, with the same beginning.
struct LongIotlbEntry {
  spec::IotlbEntryV2 entry;
  std::array<std::uint32_t, 2> reserved;
};
static_assert(sizeof(LongIotlbEntry) == 88);
constexpr std::uint32_t iotlb_get_fd2_long = spec::ioctl::number(spec::ioctl::both, 0x1b, sizeof(LongIotlbEntry));
static_assert(iotlb_get_fd2_long == 0xc058811b);

/// How the kernel is asked for a region's descriptor.
enum class Lookup : std::uint8_t { unknown, first, second, second_long };

class KernelNode final : public Node {
 public:
  KernelNode(std::unique_ptr<NodeFile> file, std::string name, std::optional<std::uint64_t> api_version)
      : file_(std::move(file)), name_(std::move(name)), lookup_(Lookup::unknown) {
    if (api_version == spec::api_version_0) lookup_ = Lookup::first;
  }

  int fd() const override { return file_->fd(); }
  Result<std::optional<spec::Request>> read() override;
  Status reply(const spec::Response& response) override;
  Result<std::uint64_t> driver_features() override;
  Status set_config(std::uint32_t offset, Bytes bytes) override;
  Status inject_config_interrupt() override;
  Status set_up_queue(std::uint32_t index, std::uint16_t max_size, std::uint32_t group) override;
  Result<spec::VqInfo> queue_info(std::uint32_t index) override;
  Status set_kick(std::uint32_t index, const EventFd* kick) override;
  Status inject_interrupt(std::uint32_t index) override;
  Result<std::optional<Region>> find_region(std::uint32_t asid, std::uint64_t start, std::uint64_t last) override;
  Result<std::optional<RegionInfo>> region_info(std::uint32_t asid, std::uint64_t start, std::uint64_t last) override;
  Status register_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) override;
  Status unregister_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) override;

 private:
  Error failed(int negated, const std::string& doing) const;
  Error memory_refused(int negated, std::uint64_t size) const;
  int get_fd(spec::IotlbEntryV2& entry);
  int get_fd_first(spec::IotlbEntryV2& entry);
  int get_fd_second(spec::IotlbEntryV2& entry);

  std::unique_ptr<NodeFile> file_;
  std::string name_;
  std::atomic<Lookup> lookup_;  ///< found out once, by whichever thread comes first
};

/// What a call that did not succeed means; the cases that only one call has are looked at there.
Error KernelNode::failed(int negated, const std::string& doing) const {
  const int code = -negated;
  if (code == EPERM) {
    return Error(EPERM,
                 fmt::format("{}: the kernel has given the device up, since a message was not answered in time", doing))
        .on(name_)
        .cure(fmt::format("end the server, then: outboard vduse remove {}; a disk with requests in flight "
                          "needs a reboot",
                          name_));
  }
  if (code == ENODEV) return Error(ENODEV, doing + ": the device has been destroyed").on(name_);
  errno = code;
  return Error::from_errno(doing).on(name_);
}

Result<std::optional<spec::Request>> KernelNode::read() {
  spec::Request request{};
  const ssize_t length = file_->read(as_writable_bytes_of(request));
  // VDUSE-17: whoever polls comes back.
  if (length == -EAGAIN || length == -EINTR) return std::nullopt;
  if (length < 0) return failed(static_cast<int>(length), "reading a message");
  if (static_cast<std::size_t>(length) < sizeof request) return std::nullopt;
  return request;
}

Status KernelNode::reply(const spec::Response& response) {
  spec::Response sent = response;
  sent.reserved = {};  // anything else is refused
  const ssize_t length = file_->write(as_bytes_of(sent));
  if (length == -ENOENT) {
    return Error(ENOENT,
                 fmt::format("the kernel does not wait for the answer to message {} any more", response.request_id))
        .on(name_);
  }
  if (length < 0) return failed(static_cast<int>(length), fmt::format("answering message {}", response.request_id));
  if (static_cast<std::size_t>(length) != sizeof sent)
    return Error(EIO, fmt::format("the kernel took {} bytes of an answer", length)).on(name_);
  return {};
}

Result<std::uint64_t> KernelNode::driver_features() {
  std::uint64_t features = 0;
  const int done = file_->control(spec::ioctl::dev_get_features, &features);
  if (done < 0) return failed(done, "reading the driver's features");
  return features;
}

Status KernelNode::set_config(std::uint32_t offset, Bytes bytes) {
  const spec::ConfigData head{offset, static_cast<std::uint32_t>(bytes.size())};
  std::vector<std::byte> message(sizeof head + bytes.size());
  copy_bytes(as_bytes_of(head), message);
  copy_bytes(bytes, MutableBytes(message).subspan(sizeof head));
  const int done = file_->control(spec::ioctl::dev_set_config, message.data());
  if (done == -EINVAL) {
    return Error(EINVAL,
                 fmt::format("{} bytes at {} are not within the device configuration space", bytes.size(), offset))
        .on(name_);
  }
  if (done < 0) return failed(done, "changing the device configuration space");
  return {};
}

Status KernelNode::inject_config_interrupt() {
  const int done = file_->control(spec::ioctl::dev_inject_config_irq, nullptr);
  if (done == -EINVAL) return Error(EINVAL, "a configuration interrupt without DRIVER_OK").on(name_);
  if (done < 0) return failed(done, "interrupting for the configuration");
  return {};
}

Status KernelNode::set_up_queue(std::uint32_t index, std::uint16_t max_size, std::uint32_t group) {
  spec::VqConfig config{};
  config.index = index;
  config.max_size = max_size;
  config.group = group;
  const int done = file_->control(spec::ioctl::vq_setup, &config);
  if (done == -EINVAL) {
    return Error(EINVAL, fmt::format("the kernel refuses queue {}: the device was created with fewer queues or another "
                                     "API version, or its driver runs already",
                                     index))
        .on(name_)
        .cure("give `outboard serve` the options that the device was created with");
  }
  if (done < 0) return failed(done, fmt::format("setting up queue {}", index));
  return {};
}

Result<spec::VqInfo> KernelNode::queue_info(std::uint32_t index) {
  spec::VqInfo info{};
  info.index = index;
  const int done = file_->control(spec::ioctl::vq_get_info, &info);
  if (done == -EINVAL) return Error(EINVAL, fmt::format("there is no queue {}", index)).on(name_);
  if (done < 0) return failed(done, fmt::format("asking for queue {}", index));
  return info;
}

Status KernelNode::set_kick(std::uint32_t index, const EventFd* kick) {
  // The kernel ignores negative descriptors but -1, and -1 takes the eventfd away.
  if (kick != nullptr && !kick->valid()) return Error(EBADF, "there is no eventfd").on(name_);
  spec::VqEventfd eventfd{index, kick != nullptr ? kick->get() : -1};
  const int done = file_->control(spec::ioctl::vq_setup_kickfd, &eventfd);
  if (done == -EINVAL)
    return Error(EINVAL, fmt::format("there is no queue {}, or its descriptor is no eventfd", index)).on(name_);
  if (done < 0) return failed(done, fmt::format("setting the eventfd of queue {}", index));
  return {};
}

Status KernelNode::inject_interrupt(std::uint32_t index) {
  const int done = file_->control(spec::ioctl::vq_inject_irq, &index);
  if (done == -EINVAL) return Error(EINVAL, fmt::format("an interrupt of queue {} without DRIVER_OK", index)).on(name_);
  if (done < 0) return failed(done, fmt::format("interrupting for queue {}", index));
  return {};
}

// Memory.

int KernelNode::get_fd_first(spec::IotlbEntryV2& entry) {
  spec::IotlbEntry first{};
  first.start = entry.start;
  first.last = entry.last;
  const int done = file_->control(spec::ioctl::iotlb_get_fd, &first);
  entry.offset = first.offset;
  entry.start = first.start;
  entry.last = first.last;
  entry.perm = first.perm;
  return done;
}

int KernelNode::get_fd_second(spec::IotlbEntryV2& entry) {
  if (lookup_.load(std::memory_order_relaxed) != Lookup::second_long) {
    const int done = file_->control(spec::ioctl::iotlb_get_fd2, &entry);
    if (done != -ENOTTY) lookup_.store(Lookup::second, std::memory_order_relaxed);
    if (done != -ENOTTY) return done;
  }
  LongIotlbEntry entry_long{entry, {}};
  const int done = file_->control(iotlb_get_fd2_long, &entry_long);
  if (done != -ENOTTY) lookup_.store(Lookup::second_long, std::memory_order_relaxed);
  entry = entry_long.entry;
  return done;
}

/// The call depends on the version that the device was created with, which nothing tells but a call that is not there.
int KernelNode::get_fd(spec::IotlbEntryV2& entry) {
  if (lookup_.load(std::memory_order_relaxed) != Lookup::first) {
    const int done = get_fd_second(entry);
    if (done != -ENOTTY) return done;
    lookup_.store(Lookup::first, std::memory_order_relaxed);
  }
  return entry.asid == 0 ? get_fd_first(entry) : -ENOTSUP;
}

Result<std::optional<Node::Region>> KernelNode::find_region(std::uint32_t asid, std::uint64_t start,
                                                            std::uint64_t last) {
  if (start > last) return reversed(start, last);
  spec::IotlbEntryV2 entry{};
  entry.start = start;
  entry.last = last;
  entry.asid = asid;
  const int fd = get_fd(entry);
  if (fd == -EINVAL) return std::nullopt;
  if (fd == -ENOTSUP) return no_such_space(asid);
  if (fd == -EMFILE || fd == -ENFILE) {
    return Error(-fd, fmt::format("no file descriptor is left for the driver's memory at {:#x}", start))
        .on(name_)
        .cure("raise the limit of open files: ulimit -n 65536, or LimitNOFILE= of the service");
  }
  if (fd == -EACCES) {
    return Error(EACCES, fmt::format("a security module forbids the file behind the driver's memory at {:#x}", start))
        .on(name_)
        .cure("allow this program to use the files of the device's driver: see the audit log");
  }
  if (fd < 0) return failed(fd, fmt::format("asking for the memory at {:#x}", start));
  // The kernel forgets to do it.
  UniqueFd owned(fd);
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  const bool overlaps = entry.start <= entry.last && entry.start <= last && entry.last >= start;
  const bool known = entry.perm >= spec::perm::read && entry.perm <= (spec::perm::read | spec::perm::write);
  if (!overlaps || !known || !checked_add(entry.offset, entry.last - entry.start))
    return Error(EPROTO, fmt::format("the kernel returned an invalid region for {:#x}", start)).on(name_);
  return Region{
      .start = entry.start, .last = entry.last, .offset = entry.offset, .perm = entry.perm, .fd = std::move(owned)};
}

Result<std::optional<Node::RegionInfo>> KernelNode::region_info(std::uint32_t asid, std::uint64_t start,
                                                                std::uint64_t last) {
  if (start > last) return reversed(start, last);
  spec::IovaInfo info{};
  info.start = start;
  info.last = last;
  info.asid = asid;
  const int done = file_->control(spec::ioctl::iotlb_get_info, &info);
  if (done == -EINVAL) return std::nullopt;
  if (done == -EFAULT) return no_such_space(asid);  // what the kernel says of a number that it does not know
  if (done < 0) return failed(done, fmt::format("asking what is at {:#x}", start));
  if (info.start > info.last || info.start > last || info.last < start)
    return Error(EPROTO, fmt::format("the kernel returned an invalid region for {:#x}", start)).on(name_);
  return RegionInfo{.start = info.start, .last = info.last, .capability = info.capability};
}

Error KernelNode::memory_refused(int negated, std::uint64_t size) const {
  switch (-negated) {
    case EINVAL:
      return Error(EINVAL, "there is no bounce buffer (yet) of this size and address to register memory for").on(name_);
    case EEXIST:
      return Error(EEXIST, "memory is registered already").on(name_);
    case ENOMEM:
      return Error(ENOMEM, fmt::format("{} bytes of memory cannot be locked", size))
          .on(name_)
          .cure("ulimit -l unlimited, or LimitMEMLOCK=infinity of the service");
    default:
      return failed(negated, "registering memory");
  }
}

Status KernelNode::register_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) {
  spec::IovaUmem umem{};
  umem.uaddr = reinterpret_cast<std::uintptr_t>(memory.data());
  umem.iova = iova;
  umem.size = memory.size();
  umem.asid = asid;
  const int done = file_->control(spec::ioctl::iotlb_reg_umem, &umem);
  if (done < 0) return memory_refused(done, memory.size());
  return {};
}

Status KernelNode::unregister_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) {
  spec::IovaUmem umem{};
  umem.uaddr = reinterpret_cast<std::uintptr_t>(memory.data());
  umem.iova = iova;
  umem.size = memory.size();
  umem.asid = asid;
  const int done = file_->control(spec::ioctl::iotlb_dereg_umem, &umem);
  if (done == -ENOENT) return Error(ENOENT, "no memory is registered").on(name_);
  if (done == -EINVAL) return Error(EINVAL, "another piece of memory is registered").on(name_);
  if (done < 0) return failed(done, "taking registered memory back");
  return {};
}

/// Why a node could not be opened, and what helps.
Error cannot_open(const Error& error, const std::string& name, const std::string& path) {
  switch (error.code()) {
    case ENOENT:
      return Error(ENOENT, "there is no VDUSE device of this name").on(path).cure("outboard vduse list");
    case ENODEV:
    case ENXIO:
      return Error(ENODEV, "the VDUSE device has been destroyed, or this is no node of one").on(path);
    case EBUSY: {
      const auto holder = holder_of(path);
      const std::string who = holder ? fmt::format("process {} ({})", holder->pid, holder->command) : "another process";
      return Error(EBUSY, fmt::format("{} has the device open", who))
          .on(path)
          .cure((holder ? std::string("end that process first") : "find it as root, and end it: fuser -v " + path) +
                "; a device is served by one");
    }
    case EACCES:
    case EPERM:
      return Error(EACCES, "this user may not open the node")
          .on(path)
          .cure(fmt::format("as root: chown USER {}; or make it for this user: outboard vduse create TYPE {} ... "
                            "--owner USER",
                            path, name));
    default:
      return Error(error).on(path);
  }
}

std::string path_of(int fd) {
  std::error_code failed;
  const auto path = std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", fd), failed);
  return failed ? fmt::format("descriptor {}", fd) : path.string();
}

}  // namespace

Status check_name(std::string_view name) {
  static constexpr std::size_t longest = 64;
  static constexpr std::string_view signs = "_.-";
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           signs.find(c) != std::string_view::npos;
  };
  const bool good = !name.empty() && name.size() <= longest && std::ranges::all_of(name, allowed);
  if (good && name != "control" && name != "." && name != "..") return {};
  return Error(EINVAL, fmt::format("'{}' cannot be the name of a VDUSE device", name))
      .cure("a name has 1 to 64 of A-Z a-z 0-9 _ . - and is not `control`");
}

Result<std::unique_ptr<Node>> node_on(std::unique_ptr<NodeFile> file, std::string name,
                                      std::optional<std::uint64_t> api_version) {
  auto node = std::make_unique<KernelNode>(std::move(file), name, api_version);
  // Asks for what every such node answers, so that another file, and a device that is given up, are known at once.
  const auto features = node->driver_features();
  if (!features && (features.error().code() == ENOTTY || features.error().code() == EINVAL))
    return Error(ENODEV, "it is no node of a VDUSE device").on(std::move(name));
  if (!features) return features.error();
  return node;
}

Result<std::unique_ptr<Node>> open_node(const std::string& name, std::optional<std::uint64_t> api_version,
                                        const std::string& folder) {
  OUTBOARD_CHECK(check_name(name));
  const std::string path = folder + "/" + name;
  auto file = open_node_file(path);
  if (!file) return cannot_open(file.error(), name, path);
  return node_on(std::move(*file), name, api_version);
}

Result<std::unique_ptr<Node>> adopt_node(UniqueFd fd, std::optional<std::uint64_t> api_version) {
  std::string name = path_of(fd.get());
  auto file = adopt_node_file(std::move(fd));
  if (!file) return Error(file.error()).on(std::move(name));
  return node_on(std::move(*file), std::move(name), api_version);
}

Status wait_for_node(const std::string& name, const std::function<bool()>& pause, const std::string& folder) {
  OUTBOARD_CHECK(check_name(name));
  const std::string path = folder + "/" + name;
  while (::access(path.c_str(), F_OK) != 0) {
    if (!pause()) {
      return Error(ENOENT, "the device was created, and its node did not come")
          .on(path)
          .cure("/dev has to be a devtmpfs, or udev has to run: see docs/vduse.md");
    }
  }
  return {};
}

}  // namespace outboard::vduse
