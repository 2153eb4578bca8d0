#pragma once

#include <functional>
#include <map>

#include <outboard/memory/internal/shared_file.hpp>
#include <outboard/vfio_user/migrate.hpp>

namespace outboard::vfio_user {

/// A second memory in this process, which the new server gets: what a move to another machine would do to the driver's memory.
/// What the device writes reaches it only by what the servers report as dirty. One thread.
///
/// All of the driver's memory has to be mapped from files. Another mapping of the driver's files still shows the old memory.
class MemoryCopy final : public SecondMemory {
 public:
  /// `unreported`: take_over() has found that a page differs from its copy, though the device has not reported it: the driver
  /// has written it, or the report is wrong. Empty: nobody is told.
  explicit MemoryCopy(std::function<void(memory::IovaRange)> unreported = {}) : unreported_(std::move(unreported)) {}

  Result<File> add(memory::IovaRange range, MutableBytes bytes, const File& file) override;
  void remove(memory::IovaRange range) override;
  void copy(memory::IovaRange pages) override;
  Status take_over() override;
  void give_back() override;

  /// Bytes that copy() has copied.
  std::uint64_t copied() const { return copied_; }
  /// Bytes of pages that differed when take_over() looked.
  std::uint64_t unreported() const { return unreported_size_; }

 private:
  struct Part {
    MutableBytes drivers;
    UniqueFd old_file;
    std::uint64_t old_offset = 0;
    memory::SharedFile copy;
  };

  void copy_unreported(memory::Iova start, Part& part);

  std::map<memory::Iova, Part> parts_;
  std::function<void(memory::IovaRange)> unreported_;
  std::uint64_t copied_ = 0, unreported_size_ = 0;
};

}  // namespace outboard::vfio_user
