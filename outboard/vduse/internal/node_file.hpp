#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <sys/types.h>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::vduse {

/// An open node of VDUSE, as system calls see it: what Control and the kernel's Node are written on, and what a test puts
/// in its place to be a kernel that fails. Any thread; no call waits for another process.
class NodeFile {
 public:
  virtual ~NodeFile() = default;
  virtual int fd() const = 0;
  /// What ioctl(2) returned, or a negated errno value.
  virtual int control(std::uint32_t request, void* argument) = 0;
  /// What read(2) and write(2) returned, or a negated errno value.
  virtual ssize_t read(MutableBytes into) = 0;
  virtual ssize_t write(Bytes from) = 0;
};

/// Opens a node for reading and writing, close-on-exec, without waiting. Errors of open(2), without a cure; ENODEV: what is
/// there is no character device.
Result<std::unique_ptr<NodeFile>> open_node_file(const std::string& path);
/// The same for a descriptor that is open already; it is made non-blocking and close-on-exec.
Result<std::unique_ptr<NodeFile>> adopt_node_file(UniqueFd fd);

}  // namespace outboard::vduse
