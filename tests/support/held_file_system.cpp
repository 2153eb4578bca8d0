#include <tests/support/held_file_system.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <new>

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

namespace outboard::testing {

namespace {

constexpr std::uint64_t max_size = UINT64_C(64) << 20;
constexpr std::uint32_t max_transfer = 65536;
constexpr std::size_t max_held = 512;
constexpr int timeout_ms = 10000;
constexpr std::uint64_t root = 1;
constexpr std::uint64_t disk_node = 2;

}  // namespace

/// What the server and the test have in common.
struct HeldFileSystem::Shared {
  std::atomic<std::uint32_t> call{0};
  std::atomic<std::uint32_t> holding{0};
  std::atomic<bool> gave_up{false};
  std::uint64_t size = 0;
  std::uint32_t preferred_block = 0;
  std::array<char, max_size> bytes;
};

namespace {

/// What is left to do of a call: its answer.
struct Answer {
  std::uint64_t unique = 0;
  std::uint32_t call = 0;
  std::uint64_t node = 0;
  std::uint64_t offset = 0;
  std::uint32_t size = 0;
};

/// The serving process: a copy of one that may have had threads, so it calls the kernel only.
template <typename Shared>
class Server {
 public:
  Server(Shared& shared, int device, int wake) : shared_(shared), device_(device), wake_(wake) {}

  void run() {
    std::uint64_t mounted = 0;
    pollfd wake{wake_, POLLIN, 0};
    if (::poll(&wake, 1, -1) != 1 || ::read(wake_, &mounted, sizeof mounted) < 0) return;
    while (true) {
      pollfd ready[] = {{device_, POLLIN, 0}, {wake_, POLLIN, 0}};
      const int count = ::poll(ready, 2, held_count_ == 0 ? -1 : timeout_ms);
      if (count == 0) shared_.gave_up = true;
      std::uint64_t value = 0;
      const bool woken = (ready[1].revents & POLLIN) != 0 && ::read(wake_, &value, sizeof value) > 0;
      if (count == 0 || woken) answer_held();
      if ((ready[0].revents & POLLERR) != 0) return;
      if ((ready[0].revents & POLLIN) != 0 && !take()) return;
    }
  }

 private:
  bool take() {
    const ssize_t size = ::read(device_, buffer_.data(), buffer_.size());
    if (size < 0) return errno == EINTR || errno == EAGAIN || errno == ENOENT;
    fuse_in_header header{};
    std::memcpy(&header, buffer_.data(), sizeof header);
    const char* body = buffer_.data() + sizeof header;
    Answer answer{header.unique, header.opcode, header.nodeid, 0, 0};
    if (header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET) return true;
    if (header.opcode == FUSE_READ || header.opcode == FUSE_WRITE) {  // they begin alike
      fuse_write_in transfer{};
      std::memcpy(&transfer, body, sizeof(fuse_read_in));
      answer.offset = transfer.offset;
      answer.size = transfer.size;
      if (header.opcode == FUSE_WRITE)
        std::memcpy(shared_.bytes.data() + answer.offset, body + sizeof(fuse_write_in), answer.size);
    }
    if (header.opcode != shared_.call || held_count_ == held_.size()) {
      reply(answer);
      return true;
    }
    held_[held_count_++] = answer;
    shared_.holding = static_cast<std::uint32_t>(held_count_);
    return true;
  }

  void answer_held() {
    for (std::size_t i = 0; i < held_count_; ++i) reply(held_[i]);
    held_count_ = 0;
    shared_.holding = 0;
  }

  void reply(const Answer& answer) {
    switch (answer.call) {
      case FUSE_INIT: {
        fuse_init_out out{};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = 31;
        out.max_readahead = max_transfer;
        out.flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO;
        out.max_background = 256;
        out.max_write = max_transfer;
        return send(answer, 0, &out, sizeof out);
      }
      case FUSE_LOOKUP: {
        fuse_entry_out out{};
        out.nodeid = disk_node;
        out.entry_valid = 1000;
        out.attr = attributes(disk_node);
        return send(answer, 0, &out, sizeof out);
      }
      case FUSE_GETATTR: {
        fuse_attr_out out{};
        out.attr = attributes(answer.node);
        return send(answer, 0, &out, sizeof out);
      }
      case FUSE_OPEN:
      case FUSE_OPENDIR: {
        fuse_open_out out{};
        out.fh = 1;
        return send(answer, 0, &out, sizeof out);
      }
      case FUSE_STATFS: {
        fuse_statfs_out out{};
        return send(answer, 0, &out, sizeof out);
      }
      case FUSE_READ: {
        const std::uint64_t left = shared_.size - std::min(answer.offset, shared_.size);
        return send(answer, 0, shared_.bytes.data() + answer.offset, std::min<std::uint64_t>(answer.size, left));
      }
      case FUSE_WRITE: {
        fuse_write_out out{};
        out.size = answer.size;
        return send(answer, 0, &out, sizeof out);
      }
      case FUSE_FLUSH:
      case FUSE_RELEASE:
      case FUSE_RELEASEDIR:
      case FUSE_FSYNC:
      case FUSE_FALLOCATE:
        return send(answer, 0, nullptr, 0);
      default:
        return send(answer, -ENOSYS, nullptr, 0);
    }
  }

  void send(const Answer& answer, int error, void* bytes, std::size_t size) const {
    fuse_out_header header{static_cast<std::uint32_t>(sizeof header + size), error, answer.unique};
    const iovec pieces[] = {{&header, sizeof header}, {bytes, size}};
    static_cast<void>(::writev(device_, pieces, size == 0 ? 1 : 2));
  }

  fuse_attr attributes(std::uint64_t node) const {
    fuse_attr out{};
    out.ino = node;
    out.nlink = 1;
    out.blksize = shared_.preferred_block;
    out.mode = node == root ? S_IFDIR | 0755 : S_IFREG | 0600;
    out.size = node == root ? 0 : shared_.size;
    out.blocks = out.size / 512;
    return out;
  }

  Shared& shared_;
  int device_;
  int wake_;
  std::array<char, max_transfer + 8192> buffer_{};
  std::array<Answer, max_held> held_{};
  std::size_t held_count_ = 0;
};

Result<UniqueFd> mount_detached(int device) {
  const UniqueFd system(::fsopen("fuse", FSOPEN_CLOEXEC));
  if (!system) return Error::from_errno("opening a FUSE file system");
  const std::array<std::array<std::string, 2>, 4> options = {
      {{"fd", std::to_string(device)}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"}}};
  for (const auto& [key, value] : options) {
    if (::fsconfig(system.get(), FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0) != 0)
      return Error::from_errno("configuring a FUSE file system");
  }
  if (::fsconfig(system.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return Error::from_errno("making a FUSE file system");
  UniqueFd mount(::fsmount(system.get(), FSMOUNT_CLOEXEC, 0));
  if (!mount) return Error::from_errno("mounting a FUSE file system");
  return mount;
}

}  // namespace

Result<std::unique_ptr<HeldFileSystem>> HeldFileSystem::create(std::uint64_t size, std::uint32_t preferred_block) {
  std::unique_ptr<HeldFileSystem> made(new HeldFileSystem());
  UniqueFd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!device) return Error::from_errno("opening").on("/dev/fuse");
  OUTBOARD_TRY(made->wake_, EventFd::create());
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Error::from_errno("mapping memory");
  made->shared_ = new (memory) Shared;
  made->shared_->size = std::min(size, max_size);
  made->shared_->preferred_block = preferred_block;
  made->server_ = ::fork();
  if (made->server_ < 0) return Error::from_errno("starting a process");
  if (made->server_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    Server(*made->shared_, device.get(), made->wake_.get()).run();
    ::_exit(0);
  }
  OUTBOARD_TRY(made->mount_, mount_detached(device.get()));
  made->wake_.signal();  // before it is mounted the device is an error to whoever polls it
  return made;
}

HeldFileSystem::~HeldFileSystem() {
  mount_.reset();
  if (server_ > 0) {
    ::kill(server_, SIGKILL);
    ::waitpid(server_, nullptr, 0);
  }
  if (shared_ != nullptr) ::munmap(shared_, sizeof(Shared));
}

std::string HeldFileSystem::disk() const { return fmt::format("/proc/self/fd/{}/disk", mount_.get()); }

void HeldFileSystem::hold(Call call) { shared_->call = static_cast<std::uint32_t>(call); }

void HeldFileSystem::release() {
  hold(Call::none);
  wake_.signal();
}

unsigned HeldFileSystem::holding() const { return shared_->holding; }
bool HeldFileSystem::gave_up() const { return shared_->gave_up; }

}  // namespace outboard::testing
