#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/memory/host_memory.hpp>
#include <outboard/memory/shared.hpp>
#include <outboard/virtio/journal_area.hpp>
#include <outboard/virtio/journal_file.hpp>
#include <outboard/virtio/journal_queue.hpp>

namespace outboard::virtio {

/// What a JournalFile consists of.
struct JournalFile::State {
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
  JournalArea transport;
  JournalArea config;
  std::optional<JournalArea> storage;  ///< nothing: the file is of a version without
  std::vector<JournalQueue> queues;
  Life now{};  ///< as it was stored last; control loop
  std::atomic<std::uint32_t> epoch{0};  ///< of `now`, for queues

  Result<Life> life() const;  ///< as it is in the file
  void store_life(Life life);
  Result<Features> accepted() const;
  void store_accepted(const Features& features);
  Process owner() const;
  void store_owner(const Process& process);

 private:
  memory::Shared<le64> word(std::size_t offset) const { return memory::Shared<le64>(control + offset); }
  memory::Shared<le32> word32(std::size_t offset) const { return memory::Shared<le32>(control + offset); }
};

}  // namespace outboard::virtio
