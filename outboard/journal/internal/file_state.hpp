#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/journal/file.hpp>
#include <outboard/journal/internal/atomic_area.hpp>
#include <outboard/journal/internal/queue_region.hpp>
#include <outboard/memory/host_memory.hpp>
#include <outboard/memory/internal/shared.hpp>

namespace outboard::journal {

/// What a File consists of.
struct File::State {
  /// Control::life, taken apart.
  struct Life {
    std::uint32_t epoch = 0;  ///< of the device: another one after each reset; never 0
    std::uint8_t status = 0;
  };

  State(UniqueFd locked, std::shared_ptr<memory::HostMemory> mapping, const Shape& shape, std::uint32_t version);

  UniqueFd fd;
  std::shared_ptr<memory::HostMemory> memory;
  std::byte* control;
  std::uint32_t device_id;
  AtomicArea transport;
  AtomicArea config;
  std::optional<AtomicArea> storage;  ///< nothing: the file is of a version without
  std::vector<QueueRegion> queues;
  Life now{};  ///< as it was stored last; control loop
  std::atomic<std::uint32_t> epoch{0};  ///< of `now`, for queues

  Result<Life> life() const;  ///< as it is in the file
  void store_life(Life life);
  Result<virtio::Features> accepted() const;
  void store_accepted(const virtio::Features& features);
  Process owner() const;
  void store_owner(const Process& process);

 private:
  memory::Shared<le64> word(std::size_t offset) const { return memory::Shared<le64>(control + offset); }
  memory::Shared<le32> word32(std::size_t offset) const { return memory::Shared<le32>(control + offset); }
};

/// EBADMSG: `what` of the file cannot be as it is.
Error damaged(std::string_view what);

}  // namespace outboard::journal
