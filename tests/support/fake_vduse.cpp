#include <tests/support/fake_vduse.hpp>

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>

#include <outboard/virtio/spec.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::testing {

namespace spec = vduse::spec;

namespace {

constexpr std::uint8_t driver_ok = virtio::spec::status::driver_ok;
constexpr std::uint64_t page_size = 4096;
constexpr std::size_t call_kinds = 13;

Error broken_error() { return Error(EPERM, "the kernel has given the device up"); }

/// A file's bytes from `offset` on, at any offset. Unmapped with the object.
class FileView {
 public:
  FileView(const UniqueFd& file, std::uint64_t offset, std::uint64_t size) {
    const std::uint64_t surplus = offset % page_size;
    length_ = size + surplus;
    base_ =
        ::mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), static_cast<off_t>(offset - surplus));
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    bytes_ = MutableBytes(static_cast<std::byte*>(base_) + surplus, size);
  }
  ~FileView() { ::munmap(base_, length_); }
  FileView(const FileView&) = delete;
  FileView& operator=(const FileView&) = delete;

  MutableBytes bytes() const { return bytes_; }

 private:
  void* base_ = nullptr;
  std::size_t length_ = 0;
  MutableBytes bytes_;
};

/// What a process that has the node open holds. A byte waits in the socket while a message does; the kernel closes its
/// end when the device breaks, so that the other hangs up.
struct Opened {
  UniqueFd kernel_end;
  UniqueFd node_end;
  bool told = false;

  static std::shared_ptr<Opened> create() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) throw std::bad_alloc();
    auto opened = std::make_shared<Opened>();
    opened->kernel_end.reset(ends[0]);
    opened->node_end.reset(ends[1]);
    return opened;
  }

  void tell(bool waiting) {
    if (waiting == told || !kernel_end) return;
    char byte = 0;
    if (waiting) {
      told = ::send(kernel_end.get(), &byte, 1, MSG_NOSIGNAL) == 1;
    } else {
      told = ::recv(node_end.get(), &byte, 1, 0) != 1;
    }
  }
};

struct Queue {
  std::uint16_t max_size = 0;
  std::uint32_t group = 0;
  FakeVduse::Ring ring{.ready = false};
  EventFd kick;
  bool kicked = false;  ///< while there was no eventfd
  EventFd call;
  std::uint64_t interrupts = 0;
  std::uint64_t swallowed = 0;
};

struct Mapped {
  FakeVduse::Region region;
  UniqueFd file;
  std::shared_ptr<FileView> view;  ///< of regions that map() made

  std::uint64_t last() const { return region.start + region.size - 1; }
};

struct AddressSpace {
  std::map<std::uint64_t, Mapped> regions;  ///< by start
  struct Registered {
    std::uint64_t iova;
    MutableBytes memory;
  };
  std::optional<Registered> registered;

  Mapped* bounce() {
    const auto found = std::ranges::find_if(regions, [](const auto& entry) { return entry.second.region.bounce; });
    return found == regions.end() ? nullptr : &found->second;
  }
  const Mapped* lowest(std::uint64_t start, std::uint64_t last) const {
    for (const auto& [begin, mapped] : regions) {
      if (begin <= last && mapped.last() >= start) return &mapped;
    }
    return nullptr;
  }
  /// The registered memory becomes, or no longer is, what the driver sees.
  void copy_in() {
    if (const Mapped* mapped = bounce(); mapped != nullptr && mapped->view)
      copy_bytes(mapped->view->bytes(), registered->memory);
  }
  void copy_back() {
    if (const Mapped* mapped = bounce(); mapped != nullptr && mapped->view)
      copy_bytes(registered->memory, mapped->view->bytes());
    registered.reset();
  }
};

}  // namespace

// Messages.

struct FakeVduse::Message::State {
  std::shared_ptr<std::mutex> mutex;
  std::condition_variable over;
  spec::Request request{};
  spec::Response response{};
  Outcome outcome = Outcome::waiting;
  bool read = false;
};

FakeVduse::Outcome FakeVduse::Message::outcome() const {
  const std::lock_guard lock(*state_->mutex);
  return state_->outcome;
}
bool FakeVduse::Message::wait(Duration limit) const {
  std::unique_lock lock(*state_->mutex);
  return state_->over.wait_for(lock, limit, [this] { return state_->outcome != Outcome::waiting; });
}
bool FakeVduse::Message::read() const {
  const std::lock_guard lock(*state_->mutex);
  return state_->read;
}
std::uint32_t FakeVduse::Message::request_id() const { return state_->request.request_id; }
spec::Response FakeVduse::Message::response() const {
  const std::lock_guard lock(*state_->mutex);
  return state_->response;
}
spec::VqStateResponse FakeVduse::Message::queue_state() const {
  const spec::Response answer = response();
  spec::VqStateResponse state{};
  std::memcpy(&state, answer.payload.data(), sizeof state);
  return state;
}

// The kernel's side.

struct FakeVduse::Kernel {
  using Pending = std::shared_ptr<Message::State>;

  std::shared_ptr<std::mutex> mutex = std::make_shared<std::mutex>();
  std::condition_variable injected;

  vduse::DeviceShape shape;
  std::uint64_t api_version = 0;

  std::shared_ptr<Opened> opened;
  bool attached = false;
  bool domain = false;  ///< there has been an attach: address spaces exist
  bool broken = false;
  bool wedged = false;
  bool suspended = false;

  std::deque<Pending> to_read;
  std::deque<Pending> to_answer;
  std::uint32_t next_id = 0;

  std::uint8_t status = 0;
  std::optional<std::uint8_t> late_status;  ///< answered, and not stored yet
  unsigned late_tries = 0;
  unsigned refusals_left = 0;
  std::uint64_t driver_features = 0;
  std::vector<Queue> queues;
  std::vector<AddressSpace> spaces;
  std::vector<std::uint32_t> group_asids;
  std::vector<std::byte> config;
  std::uint64_t config_interrupts = 0;

  struct Fault {
    int code = 0;
    unsigned times = 0;
  };
  std::array<Fault, call_kinds> faults{};
  std::array<std::uint64_t, call_kinds> calls{};

  static Bytes payload_of(const Pending& message) { return message->request.payload; }
  template <typename T>
  static T payload_as(const Pending& message) {
    T value{};
    std::memcpy(&value, message->request.payload.data(), sizeof value);
    return value;
  }

  void tell() {
    if (opened) opened->tell(!to_read.empty());
  }

  Queue* queue(std::uint64_t index) { return index < queues.size() ? &queues[index] : nullptr; }
  AddressSpace* space(std::uint32_t asid) { return asid < spaces.size() ? &spaces[asid] : nullptr; }

  // Messages.

  Pending send(std::uint32_t type, Bytes payload) {
    auto message = std::make_shared<Message::State>();
    message->mutex = mutex;
    message->request.type = type;
    message->request.request_id = next_id++;
    copy_bytes(payload.first(std::min(payload.size(), message->request.payload.size())), message->request.payload);
    if (broken) {
      finish(message, Outcome::failed);
      return message;
    }
    to_read.push_back(message);
    tell();
    return message;
  }

  /// What the kernel does when a wait is over, in whatever way.
  void finish(const Pending& message, Outcome outcome) {
    message->outcome = outcome;
    message->over.notify_all();
    const bool accepted = outcome == Outcome::ok;
    switch (static_cast<spec::RequestType>(message->request.type)) {
      case spec::RequestType::set_status:
        finish_status(payload_as<spec::StatusRequest>(message).status, accepted);
        break;
      case spec::RequestType::update_iotlb:
        if (!accepted) drop_regions(payload_as<spec::UpdateIotlbRequest>(message).asid);
        break;
      case spec::RequestType::set_vq_group_asid:
        if (accepted) set_group(payload_as<spec::GroupAsidRequest>(message));
        break;
      case spec::RequestType::set_vq_ready:
        finish_ready(payload_as<spec::VqReadyRequest>(message), accepted);
        break;
      case spec::RequestType::suspend:
        suspended = suspended || accepted;
        break;
      default:
        break;
    }
  }

  void finish_status(std::uint8_t value, bool accepted) {
    if (value == 0) return reset();
    const bool starts = (value & driver_ok) != 0 && (status & driver_ok) == 0;
    if (!accepted) {
      wedged = wedged || starts;
      return;
    }
    if (starts && late_tries > 0) {
      late_status = value;
      refusals_left = late_tries;
      return;
    }
    late_status.reset();
    status = value;
  }

  void finish_ready(const spec::VqReadyRequest& request, bool accepted) {
    if (!accepted) {
      wedged = true;
      return break_device();
    }
    if (Queue* one = queue(request.index)) one->ring.ready = request.ready != 0;
  }

  void set_group(const spec::GroupAsidRequest& request) {
    if (request.group < group_asids.size() && request.asid < spaces.size()) group_asids[request.group] = request.asid;
  }

  void drop_regions(std::uint32_t asid) {
    if (AddressSpace* one = space(asid)) one->regions.clear();
  }

  void reset() {
    status = 0;
    suspended = false;
    late_status.reset();
    driver_features = 0;
    for (Queue& one : queues) {
      one.ring = Ring{.ready = false};
      one.kick = EventFd();
      one.kicked = false;
      one.call = EventFd();
    }
    for (AddressSpace& one : spaces)
      std::erase_if(one.regions, [](const auto& entry) { return entry.second.region.bounce; });
  }

  void break_device() {
    if (std::exchange(broken, true)) return;
    auto lost = std::move(to_answer);
    lost.insert(lost.end(), to_read.begin(), to_read.end());
    to_answer.clear();
    to_read.clear();
    tell();
    if (opened) opened->kernel_end.reset();
    for (const Pending& message : lost) finish(message, Outcome::failed);
  }

  /// The node is closed: what was read is to be read again, before what was not.
  void close() {
    to_read.insert(to_read.begin(), to_answer.begin(), to_answer.end());
    to_answer.clear();
    for (AddressSpace& one : spaces) {
      if (one.registered) one.copy_back();
    }
    opened.reset();
  }

  // Interrupts.

  bool takes_interrupts() {
    if (suspended) return false;
    if ((status & driver_ok) != 0) return true;
    if (!late_status) return false;
    if (refusals_left > 0) {
      --refusals_left;
      return false;
    }
    status = *late_status;
    late_status.reset();
    return true;
  }
};

// The open node.

class FakeVduse::OpenNode final : public vduse::Node {
 public:
  OpenNode(std::shared_ptr<Kernel> kernel, std::shared_ptr<Opened> opened)
      : kernel_(std::move(kernel)), opened_(std::move(opened)) {}
  ~OpenNode() override {
    const std::lock_guard lock(*kernel_->mutex);
    if (alive()) kernel_->close();
  }
  OpenNode(const OpenNode&) = delete;
  OpenNode& operator=(const OpenNode&) = delete;

  int fd() const override { return opened_->node_end.get(); }
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
  bool alive() const { return kernel_->opened == opened_; }
  /// What comes before every call. Nothing: go on.
  Status enter(Call call, bool ioctl = true) const;
  Result<Queue*> queue(std::uint32_t index) const;

  std::shared_ptr<Kernel> kernel_;
  std::shared_ptr<Opened> opened_;
};

Status FakeVduse::OpenNode::enter(Call call, bool ioctl) const {
  const auto kind = static_cast<std::size_t>(call);
  if (!alive()) return Error(EBADF, "the process that has the node open is dead");
  ++kernel_->calls[kind];
  if (kernel_->broken && ioctl) return broken_error();
  if (Kernel::Fault& fault = kernel_->faults[kind]; fault.times > 0) {
    --fault.times;
    return Error(fault.code, "as the test wishes");
  }
  return {};
}

Result<Queue*> FakeVduse::OpenNode::queue(std::uint32_t index) const {
  if (Queue* found = kernel_->queue(index)) return found;
  return Error(EINVAL, "there is no queue " + std::to_string(index));
}

Result<std::optional<spec::Request>> FakeVduse::OpenNode::read() {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::read, false));
  if (kernel_->to_read.empty()) return std::nullopt;
  const auto message = kernel_->to_read.front();
  kernel_->to_read.pop_front();
  kernel_->to_answer.push_back(message);
  message->read = true;
  kernel_->tell();
  return message->request;
}

Status FakeVduse::OpenNode::reply(const spec::Response& response) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::reply, false));
  if (std::ranges::any_of(response.reserved, [](std::uint32_t word) { return word != 0; }))
    return Error(EINVAL, "reserved words of an answer are not 0");
  const auto found = std::ranges::find_if(
      kernel_->to_answer, [&](const auto& message) { return message->request.request_id == response.request_id; });
  if (found == kernel_->to_answer.end())
    return Error(ENOENT, "nobody waits for an answer to message " + std::to_string(response.request_id));
  const auto message = std::move(*found);
  kernel_->to_answer.erase(found);
  message->response = response;
  kernel_->finish(message, response.result == spec::result::ok ? Outcome::ok : Outcome::refused);
  return {};
}

Result<std::uint64_t> FakeVduse::OpenNode::driver_features() {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::driver_features));
  return kernel_->driver_features;
}

Status FakeVduse::OpenNode::set_config(std::uint32_t offset, Bytes bytes) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::set_config));
  if (bytes.empty() || !range_within(offset, bytes.size(), kernel_->config.size()))
    return Error(EINVAL, "beyond the device configuration space, or nothing");
  copy_bytes(bytes, MutableBytes(kernel_->config).subspan(offset));
  return {};
}

Status FakeVduse::OpenNode::inject_config_interrupt() {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::inject_config_interrupt));
  if (!kernel_->takes_interrupts()) return Error(EINVAL, "the kernel's status lacks DRIVER_OK");
  ++kernel_->config_interrupts;
  kernel_->injected.notify_all();
  return {};
}

Status FakeVduse::OpenNode::set_up_queue(std::uint32_t index, std::uint16_t max_size, std::uint32_t group) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::set_up_queue));
  OUTBOARD_TRY(Queue* const one, queue(index));
  const bool known = kernel_->api_version == 0 ? group == 0 : group < kernel_->group_asids.size();
  if (!known) return Error(EINVAL, "there is no group " + std::to_string(group));
  if (kernel_->api_version > 0 && (kernel_->status & driver_ok) != 0)
    return Error(EINVAL, "the driver runs: a queue cannot be set up");
  one->max_size = max_size;
  one->group = group;
  return {};
}

Result<spec::VqInfo> FakeVduse::OpenNode::queue_info(std::uint32_t index) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::queue_info));
  OUTBOARD_TRY(const Queue* const one, queue(index));
  const Ring& ring = one->ring;
  spec::VqInfo info{};
  info.index = index;
  info.num = ring.num;
  info.desc_addr = ring.descriptors;
  info.driver_addr = ring.driver;
  info.device_addr = ring.device;
  info.state = ring.state;
  info.ready = ring.ready ? 1 : 0;
  return info;
}

Status FakeVduse::OpenNode::set_kick(std::uint32_t index, const EventFd* kick) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::set_kick));
  OUTBOARD_TRY(Queue* const one, queue(index));
  if (kick == nullptr) {
    one->kick = EventFd();
    return {};
  }
  OUTBOARD_TRY(one->kick, kick->duplicate());
  if (std::exchange(one->kicked, false)) one->kick.signal();
  return {};
}

Status FakeVduse::OpenNode::inject_interrupt(std::uint32_t index) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::inject_interrupt));
  OUTBOARD_TRY(Queue* const one, queue(index));
  const bool by_eventfd = one->call.valid() && one->ring.ready && !kernel_->suspended;
  if (!by_eventfd && !kernel_->takes_interrupts()) return Error(EINVAL, "the kernel's status lacks DRIVER_OK");
  if (by_eventfd) one->call.signal();
  ++(one->ring.ready ? one->interrupts : one->swallowed);
  kernel_->injected.notify_all();
  return {};
}

Result<std::optional<vduse::Node::Region>> FakeVduse::OpenNode::find_region(std::uint32_t asid, std::uint64_t start,
                                                                            std::uint64_t last) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::find_region));
  if (start > last) return Error(EINVAL, "the range ends before it begins");
  if (kernel_->api_version == 0 && asid != 0) return Error(EINVAL, "API version 0 has one address space");
  const AddressSpace* space = kernel_->space(asid);
  if (space == nullptr || !kernel_->domain) return std::nullopt;
  const Mapped* mapped = space->lowest(start, last);
  if (mapped == nullptr) return std::nullopt;
  OUTBOARD_TRY(auto fd, mapped->file.duplicate());
  return Region{.start = mapped->region.start,
                .last = mapped->last(),
                .offset = mapped->region.offset,
                .perm = mapped->region.perm,
                .fd = std::move(fd)};
}

Result<std::optional<vduse::Node::RegionInfo>> FakeVduse::OpenNode::region_info(std::uint32_t asid, std::uint64_t start,
                                                                                std::uint64_t last) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::region_info));
  if (start > last) return Error(EINVAL, "the range ends before it begins");
  const AddressSpace* space = kernel_->space(asid);
  if (space == nullptr) return Error(EINVAL, "there is no address space " + std::to_string(asid));
  if (!kernel_->domain) return std::nullopt;
  const Mapped* mapped = space->lowest(start, last);
  if (mapped == nullptr) return std::nullopt;
  return RegionInfo{.start = mapped->region.start,
                    .last = mapped->last(),
                    .capability = mapped->region.bounce ? spec::capability::umem : 0};
}

Status FakeVduse::OpenNode::register_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::register_memory));
  AddressSpace* space = kernel_->space(asid);
  const Mapped* bounce = space != nullptr && kernel_->domain ? space->bounce() : nullptr;
  if (bounce == nullptr) return Error(EINVAL, "there is no bounce buffer (yet)");
  const bool aligned = reinterpret_cast<std::uintptr_t>(memory.data()) % page_size == 0;
  if (!aligned || iova != bounce->region.start || memory.size() != bounce->region.size)
    return Error(EINVAL, "it is not page-aligned memory for the whole bounce buffer");
  if (space->registered) return Error(EEXIST, "there is registered memory");
  space->registered = AddressSpace::Registered{iova, memory};
  space->copy_in();
  return {};
}

Status FakeVduse::OpenNode::unregister_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) {
  const std::lock_guard lock(*kernel_->mutex);
  OUTBOARD_CHECK(enter(Call::unregister_memory));
  AddressSpace* space = kernel_->space(asid);
  if (space == nullptr) return Error(EINVAL, "there is no address space " + std::to_string(asid));
  if (!space->registered) return Error(ENOENT, "no memory is registered");
  if (space->registered->iova != iova || space->registered->memory.size() != memory.size())
    return Error(EINVAL, "it is not what is registered");
  space->copy_back();
  return {};
}

// The machine.

FakeVduse::FakeVduse(vduse::DeviceShape shape, std::uint64_t api_version) : kernel_(std::make_shared<Kernel>()) {
  if (const auto good = vduse::check_shape(shape, api_version); !good)
    throw std::invalid_argument(good.error().message());
  kernel_->api_version = api_version;
  kernel_->queues.resize(shape.queue_sizes.size());
  kernel_->spaces.resize(std::max(shape.address_spaces, 1U));
  kernel_->group_asids.resize(std::max(shape.groups, 1U));
  kernel_->config = shape.config;
  kernel_->shape = std::move(shape);
}
FakeVduse::~FakeVduse() = default;

Result<std::unique_ptr<vduse::Node>> FakeVduse::open() {
  const std::lock_guard lock(*kernel_->mutex);
  if (kernel_->opened) return Error(EBUSY, "the node is open");
  if (kernel_->broken) return broken_error();
  kernel_->opened = Opened::create();
  kernel_->tell();
  return std::make_unique<OpenNode>(kernel_, kernel_->opened);
}

void FakeVduse::kill_server() {
  const std::lock_guard lock(*kernel_->mutex);
  if (kernel_->opened) kernel_->close();
}

bool FakeVduse::is_open() const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->opened != nullptr;
}

Status FakeVduse::attach() {
  const std::lock_guard lock(*kernel_->mutex);
  if (kernel_->attached) return Error(EEXIST, "it is attached");
  if (kernel_->broken) return broken_error();
  if (std::ranges::any_of(kernel_->queues, [](const Queue& one) { return one.max_size == 0; }))
    return Error(EINVAL, "a queue was not set up");
  kernel_->attached = true;
  kernel_->domain = true;
  return {};
}

void FakeVduse::detach() {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->attached = false;
}

bool FakeVduse::attached() const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->attached;
}

FakeVduse::Message FakeVduse::send(std::uint32_t type, Bytes payload) {
  const std::lock_guard lock(*kernel_->mutex);
  return Message(kernel_->send(type, payload));
}

FakeVduse::Message FakeVduse::set_status(std::uint8_t status) {
  const spec::StatusRequest payload{status};
  return send(static_cast<std::uint32_t>(spec::RequestType::set_status), as_bytes_of(payload));
}
FakeVduse::Message FakeVduse::get_vq_state(std::uint32_t index) {
  const spec::VqStateRequest payload{index};
  return send(static_cast<std::uint32_t>(spec::RequestType::get_vq_state), as_bytes_of(payload));
}
FakeVduse::Message FakeVduse::update_iotlb(std::uint32_t asid, std::uint64_t start, std::uint64_t last) {
  spec::UpdateIotlbRequest payload{};
  payload.start = start;
  payload.last = last;
  payload.asid = asid;
  return send(static_cast<std::uint32_t>(spec::RequestType::update_iotlb), as_bytes_of(payload));
}
FakeVduse::Message FakeVduse::set_group_asid(std::uint32_t group, std::uint32_t asid) {
  const spec::GroupAsidRequest payload{group, asid};
  return send(static_cast<std::uint32_t>(spec::RequestType::set_vq_group_asid), as_bytes_of(payload));
}

FakeVduse::Message FakeVduse::set_vq_ready(std::uint32_t index, bool ready) {
  const spec::VqReadyRequest payload{index, ready ? 1U : 0U};
  return send(static_cast<std::uint32_t>(spec::RequestType::set_vq_ready), as_bytes_of(payload));
}

FakeVduse::Message FakeVduse::suspend() { return send(static_cast<std::uint32_t>(spec::RequestType::suspend)); }

bool FakeVduse::advance(std::uint8_t status, const std::function<void()>& pump) {
  const Message message = set_status(status);
  for (unsigned i = 0; i < 10'000 && !message.answered(); ++i) pump();
  return message.ok();
}

bool FakeVduse::negotiate(std::uint64_t features, const std::function<void()>& pump) {
  for (const std::uint8_t status : {0, 1, 3}) {
    if (!advance(status, pump)) return false;
  }
  set_driver_features(features);
  return advance(0xb, pump);
}

void FakeVduse::withdraw(const Message& message) {
  const std::lock_guard lock(*kernel_->mutex);
  if (message.state_->outcome != Outcome::waiting) return;
  std::erase(kernel_->to_read, message.state_);
  std::erase(kernel_->to_answer, message.state_);
  kernel_->tell();
  kernel_->finish(message.state_, Outcome::withdrawn);
}

void FakeVduse::time_out() {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->break_device();
}

bool FakeVduse::broken() const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->broken;
}
bool FakeVduse::wedged() const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->wedged;
}
std::size_t FakeVduse::unanswered() const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->to_read.size() + kernel_->to_answer.size();
}

std::uint8_t FakeVduse::status() const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->status;
}
void FakeVduse::set_driver_features(std::uint64_t features) {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->driver_features = features;
}
void FakeVduse::store_driver_ok_after(unsigned tries) {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->late_tries = tries;
}

// Queues.

void FakeVduse::place_queue(unsigned index, const Ring& ring) {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->queues.at(index).ring = ring;
}

void FakeVduse::place_queue(unsigned index, const HandDriver& ring, bool ready) {
  Ring placed{.num = ring.size(),
              .descriptors = memory::raw(ring.address(0)),
              .driver = memory::raw(ring.address(1)),
              .device = memory::raw(ring.address(2)),
              .ready = ready};
  if (ring.packed()) placed.state.packed = {1, 0, 1, 0};
  place_queue(index, placed);
}

void FakeVduse::set_ready(unsigned index, bool ready) {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->queues.at(index).ring.ready = ready;
}
bool FakeVduse::ready(unsigned index) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->queues.at(index).ring.ready;
}
std::uint16_t FakeVduse::max_size(unsigned index) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->queues.at(index).max_size;
}
std::uint32_t FakeVduse::group(unsigned index) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->queues.at(index).group;
}

void FakeVduse::kick(unsigned index) {
  const std::lock_guard lock(*kernel_->mutex);
  Queue& queue = kernel_->queues.at(index);
  if (!queue.ring.ready || kernel_->suspended) return;
  if (queue.kick.valid()) return queue.kick.signal();
  queue.kicked = true;
}

bool FakeVduse::has_kick(unsigned index) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->queues.at(index).kick.valid();
}

void FakeVduse::set_call(unsigned index, const EventFd* call) {
  EventFd copy;
  if (call != nullptr) {
    auto duplicated = call->duplicate();
    if (!duplicated) throw std::runtime_error(duplicated.error().message());
    copy = std::move(*duplicated);
  }
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->queues.at(index).call = std::move(copy);
}

std::uint64_t FakeVduse::interrupts(unsigned index) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->queues.at(index).interrupts;
}
std::uint64_t FakeVduse::swallowed(unsigned index) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->queues.at(index).swallowed;
}
std::uint64_t FakeVduse::config_interrupts() const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->config_interrupts;
}

bool FakeVduse::wait_for_interrupts(unsigned index, std::uint64_t count, Duration limit) const {
  std::unique_lock lock(*kernel_->mutex);
  return kernel_->injected.wait_for(lock, limit, [&] { return kernel_->queues.at(index).interrupts >= count; });
}

// Memory.

std::shared_ptr<memory::HostMemory> FakeVduse::map(const Region& region) {
  UniqueFd file = make_sealed_memfd(region.offset + region.size);
  const auto view = std::make_shared<FileView>(file, region.offset, region.size);
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->spaces.at(region.asid).regions[region.start] = {region, std::move(file), view};
  // The view lives as long as the memory that it is seen through.
  const auto borrowed = memory::HostMemory::borrowed(view->bytes());
  return {borrowed.get(), [borrowed, view](memory::HostMemory*) {}};
}

void FakeVduse::map_file(const Region& region, const UniqueFd& file) {
  auto copy = file.duplicate();
  if (!copy) throw std::runtime_error(copy.error().message());
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->spaces.at(region.asid).regions[region.start] = {region, std::move(*copy), nullptr};
}

void FakeVduse::unmap(std::uint64_t start, std::uint32_t asid) {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->spaces.at(asid).regions.erase(start);
}
void FakeVduse::unmap_all(std::uint32_t asid) {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->spaces.at(asid).regions.clear();
}

MutableBytes FakeVduse::at(std::uint64_t iova, std::size_t length, std::uint32_t asid) const {
  const std::lock_guard lock(*kernel_->mutex);
  const AddressSpace& space = kernel_->spaces.at(asid);
  const Mapped* mapped = space.lowest(iova, iova);
  if (mapped == nullptr || !mapped->view || !range_within(iova - mapped->region.start, length, mapped->region.size))
    throw std::out_of_range("no memory of a test's at this address");
  const bool registered = mapped->region.bounce && space.registered;
  const MutableBytes all = registered ? space.registered->memory : mapped->view->bytes();
  return all.subspan(iova - mapped->region.start, length);
}

bool FakeVduse::memory_registered(std::uint32_t asid) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->spaces.at(asid).registered.has_value();
}
std::uint32_t FakeVduse::group_asid(std::uint32_t group) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->group_asids.at(group);
}

std::vector<std::byte> FakeVduse::config() const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->config;
}

void FakeVduse::fail(Call call, int code, unsigned times) {
  const std::lock_guard lock(*kernel_->mutex);
  kernel_->faults[static_cast<std::size_t>(call)] = {code, times};
}
std::uint64_t FakeVduse::calls(Call call) const {
  const std::lock_guard lock(*kernel_->mutex);
  return kernel_->calls[static_cast<std::size_t>(call)];
}

}  // namespace outboard::testing
