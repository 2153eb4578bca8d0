#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vfio_abi/kernel.hpp>

namespace outboard::vfio {

// A type for each kind of file: one number is a different call on each (vfio_abi::ioctl_number).
struct ContainerFd {
  UniqueFd fd;
};
struct GroupFd {
  UniqueFd fd;
};
struct DeviceFd {
  UniqueFd fd;
};
struct IommuFd {
  UniqueFd fd;
};

/// The system calls that reach the kernel's VFIO; testing::FakeVfio is another kernel. Failures are negative errno values,
/// as the kernel returns them. What has been opened is closed by closing the descriptor. Any thread, as the calls are.
class Kernel {
 public:
  virtual ~Kernel() = default;
  /// The kernel that this process runs on.
  static Kernel& system();

  /// Opens a node for reading and writing, close-on-exec. The descriptor, or -errno.
  virtual int open(const std::string& path) = 0;
  /// What the ioctl returns (VFIO has calls that return a number), or -errno.
  virtual int ioctl(int fd, unsigned long request, std::uintptr_t argument) = 0;
  virtual ssize_t pread(int fd, MutableBytes into, std::uint64_t offset) = 0;
  virtual ssize_t pwrite(int fd, Bytes from, std::uint64_t offset) = 0;
  /// Of a stream: what a device's state is read from and written to. As read(2) and write(2).
  virtual ssize_t read(int fd, MutableBytes into) = 0;
  virtual ssize_t write(int fd, Bytes from) = 0;
  /// Maps `length` bytes of the device's file, shared; at `fixed` where that is not null, in place of what is there. The
  /// address, or null and errno.
  virtual void* map(int fd, std::uint64_t length, int protection, std::uint64_t offset, void* fixed) = 0;
  /// `address` and `length` as mapped; whatever is mapped there by now.
  virtual void unmap(void* address, std::uint64_t length) = 0;

  /// RLIMIT_MEMLOCK of this process, in bytes.
  virtual std::uint64_t lockable_memory() = 0;
  /// Lets `time` pass between two tries.
  virtual void pause(Duration time) = 0;

  // The calls, by kind of file.
  int call(const ContainerFd& fd, vfio_abi::ContainerRequest request, std::uintptr_t argument) {
    return ioctl(fd.fd.get(), static_cast<unsigned long>(request), argument);
  }
  int call(const GroupFd& fd, vfio_abi::GroupRequest request, std::uintptr_t argument) {
    return ioctl(fd.fd.get(), static_cast<unsigned long>(request), argument);
  }
  int call(const DeviceFd& fd, vfio_abi::DeviceRequest request, std::uintptr_t argument) {
    return ioctl(fd.fd.get(), static_cast<unsigned long>(request), argument);
  }
  int call(const IommuFd& fd, vfio_abi::IommuRequest request, std::uintptr_t argument) {
    return ioctl(fd.fd.get(), static_cast<unsigned long>(request), argument);
  }
  /// With a structure that the kernel reads and may write back to.
  template <typename Fd, typename Request, typename Structure>
  int call(const Fd& fd, Request request, Structure* argument) {
    return call(fd, request, reinterpret_cast<std::uintptr_t>(argument));
  }
};

}  // namespace outboard::vfio
