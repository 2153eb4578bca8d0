#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard {

/// Limits of a process that the peers of several of its parts share.
struct ProcessLimits {
  std::uint64_t descriptors = 0;    ///< RLIMIT_NOFILE
  std::uint64_t mappings = 0;       ///< vm.max_map_count
  std::uint64_t address_space = 0;  ///< bytes of memory that can be mapped
};

/// Divides the process's mappings, address space and descriptors among its parts (servers) whose peers decide how much they
/// use, so that no peer can use up what another part needs. The limits are those of the process, so there is one budget,
/// process_budget(). Any thread.
///
/// With n parts, each part is guaranteed 1/(n + 1) of a limit; the remaining share goes to the part that needs it first. A part
/// that joins later makes the shares smaller; what other parts use already is not taken back.
class Budget : public std::enable_shared_from_this<Budget> {
 public:
  class Share;
  class OpenDescriptors;

  /// Limits and use as measured when a part joins.
  static std::shared_ptr<Budget> of_this_process();
  /// With fixed limits and nothing in use, for tests.
  static std::shared_ptr<Budget> with(const ProcessLimits& limits);

  /// Adds a part and reserves `descriptors` descriptors for it, beyond those that it has open already. EMFILE: fewer are left.
  Result<std::shared_ptr<Share>> join(std::uint64_t descriptors);

 private:
  struct Amounts {
    std::uint64_t mappings = 0, address_space = 0;
  };
  explicit Budget(const ProcessLimits& limits) : measured_(false), limits_(limits) {}
  Budget() = default;
  std::uint64_t set_aside_and_open() const;
  void measure();
  std::uint64_t share_of(std::uint64_t total) const { return total / (parts_.size() + 1); }
  bool fits(const Share& share, std::uint64_t wanted, std::uint64_t total, std::uint64_t Amounts::* kind) const;

  mutable std::mutex mutex_;
  bool measured_ = true;
  ProcessLimits limits_;  ///< without what the rest of the process uses
  std::uint64_t descriptors_in_use_ = 0, descriptors_set_aside_ = 0;
  std::vector<const Share*> parts_;
};

/// The share of one part, which leaves the budget when it is destroyed. It must have returned all mappings before. Any thread.
class Budget::Share {
 public:
  ~Share();
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

  /// Takes one mapping of `bytes` bytes. ENOSPC: the share is used up, and the rest is guaranteed to other parts.
  Status take_mapping(std::uint64_t bytes);
  /// Returns a mapping of take_mapping().
  void give_mapping(std::uint64_t bytes);

  /// The number of mappings that are guaranteed, however many the other parts use.
  std::uint64_t guaranteed_mappings() const;

 private:
  friend class Budget;
  Share(std::shared_ptr<Budget> budget, std::uint64_t descriptors)
      : budget_(std::move(budget)), descriptors_(descriptors) {}

  std::shared_ptr<Budget> budget_;
  std::uint64_t descriptors_;
  std::atomic<std::uint64_t> open_{0};  ///< reserved descriptors that are open
  Amounts taken_;  ///< guarded by the budget's mutex
};

/// Counts the reserved descriptors that one client of a part has open, as long as this object exists. When another part joins,
/// the budget adds the reserved and the open descriptors; this count keeps it from counting them twice. One thread.
class Budget::OpenDescriptors {
 public:
  /// `share` may be null: nothing is counted.
  explicit OpenDescriptors(std::shared_ptr<Share> share, std::uint64_t count = 0) : share_(std::move(share)) {
    set(count);
  }
  ~OpenDescriptors() { set(0); }
  OpenDescriptors(const OpenDescriptors&) = delete;
  OpenDescriptors& operator=(const OpenDescriptors&) = delete;

  /// Call it after opening and after closing descriptors: then the count is never too high.
  void set(std::uint64_t count);

 private:
  std::shared_ptr<Share> share_;
  std::uint64_t count_ = 0;
};

/// The budget of this process. There is one, since the limits are the process's.
std::shared_ptr<Budget> process_budget();

}  // namespace outboard
