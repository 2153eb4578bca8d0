#include <outboard/vfio/internal/kernel.hpp>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <thread>

namespace outboard::vfio {
namespace {

/// Repeats what a signal has interrupted.
template <typename Call>
auto uninterrupted(Call call) -> decltype(call()) {
  while (true) {
    const auto result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

class SystemKernel final : public Kernel {
 public:
  int open(const std::string& path) override {
    return uninterrupted([&] { return ::open(path.c_str(), O_RDWR | O_CLOEXEC); });
  }
  int ioctl(int fd, unsigned long request, std::uintptr_t argument) override {
    return uninterrupted([&] { return ::ioctl(fd, request, argument); });
  }
  ssize_t pread(int fd, MutableBytes into, std::uint64_t offset) override {
    return uninterrupted([&] { return ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset)); });
  }
  ssize_t pwrite(int fd, Bytes from, std::uint64_t offset) override {
    return uninterrupted([&] { return ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset)); });
  }
  ssize_t read(int fd, MutableBytes into) override {
    return uninterrupted([&] { return ::read(fd, into.data(), into.size()); });
  }
  ssize_t write(int fd, Bytes from) override {
    return uninterrupted([&] { return ::write(fd, from.data(), from.size()); });
  }
  void* map(int fd, std::uint64_t length, int protection, std::uint64_t offset, void* fixed) override {
    const int flags = MAP_SHARED | (fixed != nullptr ? MAP_FIXED : 0);
    void* mapped = ::mmap(fixed, length, protection, flags, fd, static_cast<off_t>(offset));
    return mapped == MAP_FAILED ? nullptr : mapped;
  }
  void unmap(void* address, std::uint64_t length) override { ::munmap(address, length); }
  std::uint64_t lockable_memory() override {
    rlimit limit{};
    return ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
  }
  void pause(Duration time) override { std::this_thread::sleep_for(time); }
};

}  // namespace

Kernel& Kernel::system() {
  static SystemKernel kernel;  // without state
  return kernel;
}

}  // namespace outboard::vfio
