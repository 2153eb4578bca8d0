#pragma once

#include <cstdint>
#include <string>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>
#include <outboard/memory/iova.hpp>

#include "vhost.hpp"

namespace outboard::vhost {

/// An open /dev/vhost-vdpa-N: each call wrapped once, with its number in the error. Any of them may take as long as the
/// device's server does to answer the kernel.
class Node {
 public:
  /// Opens it, becomes its owner, and agrees on messages of version 2, in batches. EBUSY: somebody else has it open.
  static Result<Node> open(const std::string& path);

  const std::string& path() const { return path_; }
  /// Whether the kernel and the device's server know VHOST_VDPA_SUSPEND (Linux 7.3).
  bool can_suspend() const { return can_suspend_; }

  template <typename T>
  Result<T> get(std::uint32_t request, T value, const char* name) const {
    OUTBOARD_CHECK(call(request, &value, name));
    return value;
  }
  template <typename T>
  Status set(std::uint32_t request, T value, const char* name) const {
    return call(request, &value, name);
  }

  Result<std::uint8_t> status() const { return get(spec::ioctl::get_status, std::uint8_t{0}, "VDPA_GET_STATUS"); }
  /// Comes back when the device is at rest; it rests until it is reset.
  Status suspend() const { return call(spec::ioctl::suspend, nullptr, "VHOST_VDPA_SUSPEND"); }
  Status set_status(std::uint8_t status) const { return set(spec::ioctl::set_status, status, "VDPA_SET_STATUS"); }
  Status read_config(std::uint32_t offset, MutableBytes into) const;

  /// One message to the kernel's table. Errors come as EFAULT, whatever was wrong.
  Status map(memory::IovaRange range, const void* memory, std::uint8_t perm, std::uint32_t asid = 0) const;
  /// Errors are not reported.
  Status unmap(memory::IovaRange range, std::uint32_t asid = 0) const;
  /// What is mapped and unmapped between the two the device is told of once.
  Status begin_batch() const;
  Status end_batch() const;

 private:
  Node(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Status call(std::uint32_t request, void* argument, const char* name) const;
  Status send(const spec::IotlbMessage& message, const char* name) const;

  UniqueFd fd_;
  std::string path_;
  bool can_suspend_ = false;
};

}  // namespace outboard::vhost
