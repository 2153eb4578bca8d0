#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard {

/// What a process has once, and what peers of several of its parts take from it.
struct ProcessLimits {
  std::uint64_t descriptors = 0;    ///< RLIMIT_NOFILE
  std::uint64_t mappings = 0;       ///< vm.max_map_count
  std::uint64_t address_space = 0;  ///< bytes of memory that can be mapped
};

/// Divides the process's mappings, address space and descriptors among those parts (servers) whose peers decide how much
/// is taken, so that no peer can take what another part needs. The limits belong to the process, and so does the one
/// budget, process_budget(). Any thread.
///
/// With n parts, each is guaranteed an equal share of 1/(n + 1), and the last share is for whoever comes first. A part that
/// joins later makes the shares smaller; nothing that has been taken is taken back.
class Budget : public std::enable_shared_from_this<Budget> {
 public:
  class Share;
  class OpenDescriptors;

  /// Limits and use as measured when a part joins.
  static std::shared_ptr<Budget> of_this_process();
  /// With fixed limits and nothing in use, for tests.
  static std::shared_ptr<Budget> with(const ProcessLimits& limits);

  /// Adds a part that needs up to `descriptors` of them at a time, beyond those that it has open already: they are set
  /// aside. EMFILE: there are not so many left.
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
  ProcessLimits limits_;  ///< less what others than the parts use
  std::uint64_t descriptors_in_use_ = 0, descriptors_set_aside_ = 0;
  std::vector<const Share*> parts_;
};

/// One part's share, until it is destroyed. What was taken must be given back before. Any thread.
class Budget::Share {
 public:
  ~Share();
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

  /// Takes one mapping of `bytes` bytes. ENOSPC: the share is used up, and what is left belongs to others.
  Status take_mapping(std::uint64_t bytes);
  /// Gives back what take_mapping() took.
  void give_mapping(std::uint64_t bytes);

  /// The mappings that can be had for certain, however much the other parts take.
  std::uint64_t guaranteed_mappings() const;

 private:
  friend class Budget;
  Share(std::shared_ptr<Budget> budget, std::uint64_t descriptors)
      : budget_(std::move(budget)), descriptors_(descriptors) {}

  std::shared_ptr<Budget> budget_;
  std::uint64_t descriptors_;
  std::atomic<std::uint64_t> open_{0};  ///< of those descriptors: counted once, where they are set aside
  Amounts taken_;  ///< guarded by the budget's mutex
};

/// How many of the descriptors that were set aside for a part one of its clients holds open, as long as this lives. What
/// is set aside and what the process has open are added up when another part joins: without this, these count twice.
/// One thread.
class Budget::OpenDescriptors {
 public:
  /// `share` may be null: nothing is counted.
  explicit OpenDescriptors(std::shared_ptr<Share> share, std::uint64_t count = 0) : share_(std::move(share)) {
    set(count);
  }
  ~OpenDescriptors() { set(0); }
  OpenDescriptors(const OpenDescriptors&) = delete;
  OpenDescriptors& operator=(const OpenDescriptors&) = delete;

  /// After opening, and after closing: too few are counted for a moment rather than too many.
  void set(std::uint64_t count);

 private:
  std::shared_ptr<Share> share_;
  std::uint64_t count_ = 0;
};

/// The budget of this process. Like the fault guard, it is there once because what it counts is.
std::shared_ptr<Budget> process_budget();

}  // namespace outboard
