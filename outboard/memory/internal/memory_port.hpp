#pragma once

#include <functional>

#include <outboard/base/bytes.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

/// Access to memory that is not mapped in this process, by messages to the client. A transfer is at most max_transfer() bytes.
/// Called on the control loop; the completion is called there too, exactly once, possibly inside the call. `into` and `from`
/// must stay valid until then.
class MemoryPort {
 public:
  using Completion = std::move_only_function<void(Status)>;

  virtual ~MemoryPort() = default;
  virtual void read(Iova address, MutableBytes into, Completion done) = 0;
  virtual void write(Iova address, Bytes from, Completion done) = 0;
  virtual std::uint64_t max_transfer() const = 0;
};

}  // namespace outboard::memory
