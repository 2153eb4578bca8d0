#include <outboard/base/internal/budget.hpp>

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/base/internal/system_calls.hpp>

namespace outboard {
namespace {

// For what the program itself opens and maps while it runs: files, threads, the allocator.
constexpr std::uint64_t spare_descriptors = 32;
constexpr std::uint64_t usual_max_map_count = 65530;
// A file that is truncated in its middle is two mappings under the fault guard: what the file still has, and zeroes.
constexpr std::uint64_t pieces_of_a_mapping = 2;
// User space has 47 bits of address on the machines that we run on; a quarter is left to everything else.
constexpr std::uint64_t address_space = UINT64_C(3) << 45;

std::uint64_t less(std::uint64_t from, std::uint64_t amount) { return from - std::min(from, amount); }

std::uint64_t descriptor_limit() {
  rlimit limit{};
  return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 1024;
}

std::uint64_t open_descriptors() {
  std::uint64_t count = 0;
  DIR* const directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return less(count, 3);  // ".", "..", and the directory itself
}

std::uint64_t max_map_count() {
  std::uint64_t count = 0;
  std::ifstream file("/proc/sys/vm/max_map_count");
  return file >> count ? count : usual_max_map_count;
}

std::uint64_t mappings_in_use() {
  std::ifstream file("/proc/self/maps");
  std::uint64_t count = 0;
  for (std::string line; std::getline(file, line);) ++count;
  return count;
}

/// Of what is not in use, but for the `taken`, a quarter is left to everything else.
std::uint64_t address_space_for_parts(std::uint64_t taken) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return address_space;
  const std::uint64_t others = less(address_space_in_use(), taken);
  return std::min(address_space, less(limit.rlim_cur, others) / 4 * 3);
}

}  // namespace

std::shared_ptr<Budget> Budget::of_this_process() { return std::shared_ptr<Budget>(new Budget()); }

std::shared_ptr<Budget> Budget::with(const ProcessLimits& limits) {
  return std::shared_ptr<Budget>(new Budget(limits));
}

/// Looks at the process again: what the parts have taken is their own, the rest of what is in use is not to be had.
void Budget::measure() {
  if (!measured_) return;
  if (const ProcessLimits* const limits = system_calls().process_limits()) {
    limits_ = *limits;
    descriptors_in_use_ = 0;
    return;
  }
  std::uint64_t taken = 0;
  std::uint64_t taken_space = 0;
  for (const Share* part : parts_) {
    taken += part->taken_.mappings;
    taken_space += part->taken_.address_space;
  }
  const std::uint64_t max_mappings = max_map_count();
  limits_.descriptors = less(descriptor_limit(), spare_descriptors);
  descriptors_in_use_ = open_descriptors();
  limits_.mappings = less(max_mappings, less(mappings_in_use(), taken) + max_mappings / 8) / pieces_of_a_mapping;
  limits_.address_space = address_space_for_parts(taken_space);
}

std::uint64_t Budget::set_aside_and_open() const {
  std::uint64_t count = 0;
  for (const Share* part : parts_) count += std::min(part->open_.load(std::memory_order_relaxed), part->descriptors_);
  return count;
}

Result<std::shared_ptr<Budget::Share>> Budget::join(std::uint64_t descriptors) {
  const std::lock_guard lock(mutex_);
  measure();
  const std::uint64_t in_use = less(descriptors_in_use_, set_aside_and_open());
  const std::uint64_t left = less(limits_.descriptors, in_use + descriptors_set_aside_);
  if (descriptors > left) {
    return Error(EMFILE,
                 "up to " + std::to_string(descriptors) + " more file descriptors are needed, and " +
                     std::to_string(left) + " are left: the limit is " +
                     std::to_string(limits_.descriptors + (measured_ ? spare_descriptors : 0)) +
                     (measured_ ? ", and the program itself may need " + std::to_string(spare_descriptors) : ""))
        .cure("raise the limit of open files (ulimit -n, or LimitNOFILE= of a unit), or serve fewer devices or queues");
  }
  std::shared_ptr<Share> share(new Share(shared_from_this(), descriptors));
  descriptors_set_aside_ += descriptors;
  parts_.push_back(share.get());
  return share;
}

/// Whether a part may have `wanted` in all: within its share always, beyond it from the one that nobody owns.
bool Budget::fits(const Share& share, std::uint64_t wanted, std::uint64_t total, std::uint64_t Amounts::* kind) const {
  const std::uint64_t own = share_of(total);
  if (wanted <= own) return true;
  std::uint64_t beyond = wanted - own;
  for (const Share* part : parts_) {
    if (part != &share) beyond += less(part->taken_.*kind, own);
  }
  return beyond <= own;
}

Budget::Share::~Share() {
  const std::lock_guard lock(budget_->mutex_);
  std::erase(budget_->parts_, this);
  budget_->descriptors_set_aside_ -= descriptors_;
}

Status Budget::Share::take_mapping(std::uint64_t bytes) {
  const std::lock_guard lock(budget_->mutex_);
  const ProcessLimits& limits = budget_->limits_;
  const std::uint64_t space = taken_.address_space + bytes;
  if (space < bytes || !budget_->fits(*this, space, limits.address_space, &Amounts::address_space)) {
    return Error(ENOSPC, "mapping " + std::to_string(bytes) + " bytes would take address space that others need");
  }
  if (!budget_->fits(*this, taken_.mappings + 1, limits.mappings, &Amounts::mappings)) {
    return Error(ENOSPC, "all " + std::to_string(taken_.mappings) +
                             " mappings that this part of the process may have are taken")
        .cure("raise vm.max_map_count, or use fewer memory files");
  }
  taken_.address_space = space;
  ++taken_.mappings;
  return {};
}

void Budget::Share::give_mapping(std::uint64_t bytes) {
  const std::lock_guard lock(budget_->mutex_);
  taken_.address_space -= bytes;
  --taken_.mappings;
}

void Budget::OpenDescriptors::set(std::uint64_t count) {
  // A sum of what several clients have, which nothing else depends on: no order is needed.
  if (share_ && count != count_) share_->open_.fetch_add(count - count_, std::memory_order_relaxed);
  count_ = count;
}

std::uint64_t Budget::Share::guaranteed_mappings() const {
  const std::lock_guard lock(budget_->mutex_);
  return budget_->share_of(budget_->limits_.mappings);
}

std::shared_ptr<Budget> process_budget() {
  static auto* const budget = new std::shared_ptr<Budget>(Budget::of_this_process());  // parts may outlive main()
  return *budget;
}

}  // namespace outboard
