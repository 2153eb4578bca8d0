#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/memory/iova.hpp>
#include <outboard/pci/migration.hpp>
#include <outboard/vfio_abi/kernel.hpp>

namespace outboard::testing {

/// The migration of a FakeVfioDevice: the features as the kernel and a variant driver of it have them, with their rules.
/// Without peer-to-peer states.
class FakeVfioMigration {
 public:
  struct Options {
    bool pre_copy = false;
    bool logs = true;
    std::uint64_t min_page = 4096;  ///< the log's pages are at least so large
    std::size_t max_transfer = 100;  ///< bytes of one read or write of a stream
  };
  /// The file behind data_fd: dead when its state has been left.
  struct Stream {
    FakeVfioMigration* migration = nullptr;
    bool dead = false;
    ssize_t read(MutableBytes into) const;
    ssize_t write(Bytes from) const;
  };
  explicit FakeVfioMigration(Options options) : options_(options) {}

  /// A use of a feature; nothing: it is not one of these. `argument` is after the head.
  std::optional<int> feature(std::uint32_t flags, std::size_t size, std::uintptr_t argument);
  void reset();
  /// Makes a descriptor; set by FakeVfio.
  std::function<int(std::shared_ptr<Stream>)> open_stream;

  // What a test does to it, and sees.
  pci::MigrationState state = pci::MigrationState::running;
  std::vector<std::byte> saved;  ///< what is read from it
  std::vector<std::byte> loaded;  ///< what was written to it
  std::size_t available_early = 0;  ///< bytes of `saved` that PRE_COPY gives
  std::optional<pci::MigrationState> fails_after;  ///< a change ends with EIO in ERROR after this state
  std::set<std::uint64_t> dirty;  ///< addresses of pages
  std::optional<std::uint64_t> logged_page;
  std::vector<memory::IovaRange> logged;

 private:
  int set_state(std::uintptr_t argument);
  int step(pci::MigrationState next, bool last);
  int start_log(std::uintptr_t argument);
  int report(std::uintptr_t argument);

  Options options_;
  std::shared_ptr<Stream> stream_;
  std::size_t read_ = 0;
};

}  // namespace outboard::testing
