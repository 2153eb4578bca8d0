#pragma once

#include <outboard/memory/internal/memory_port.hpp>

namespace outboard::testing {

/// A port for a mapping that is only looked up: nothing comes through it.
class DeadPort final : public memory::MemoryPort {
 public:
  void read(memory::Iova, MutableBytes, Completion done) override { done(Error(EIO, "a dead port")); }
  void write(memory::Iova, Bytes, Completion done) override { done(Error(EIO, "a dead port")); }
  std::uint64_t max_transfer() const override { return UINT64_C(1) << 20; }
};

}  // namespace outboard::testing
