#include <outboard/memory/address_map.hpp>

#include <algorithm>
#include <mutex>

#include <outboard/memory/internal/snapshot_editor.hpp>

namespace outboard::memory {

struct AddressMap::Published {
  std::mutex editing;  ///< held from the look at the current snapshot until the next is published; taken before `mutex`
  std::mutex mutex;
  std::shared_ptr<const Snapshot> snapshot;  ///< guarded by mutex
};

/// Who has to be told, and which removals wait for whom. Control loop only, but for what a Member guards.
struct AddressMap::Core : std::enable_shared_from_this<Core> {
  /// A user, as long as it is one. The mutex keeps a notice that runs on another thread and remove_user() apart; it is
  /// recursive because the notice may run on the control loop's thread and end in remove_user().
  struct Member {
    std::recursive_mutex mutex;
    MapUser* user;
    bool change_posted = false;  ///< guarded by mutex: a notice without a removal is on its way, which is enough
  };
  struct Removal {
    std::vector<const Member*> waiting;
    Completion done;
    bool telling = true;  ///< not everybody has been told yet
  };
  class Release;

  explicit Core(Loop& loop) : control(loop) {}

  void tell(IovaRange removed, const std::shared_ptr<Removal>& removal);
  void tell(const std::shared_ptr<Member>& member, IovaRange removed, const std::shared_ptr<Removal>& removal);
  void let_go(const std::shared_ptr<Removal>& removal, std::shared_ptr<Member> member);
  void finish(const std::shared_ptr<Removal>& removal);

  Loop& control;
  std::vector<std::shared_ptr<Member>> members;
  std::vector<std::shared_ptr<Removal>> removals;
};

/// What a user holds while it still has accesses running on something removed. Says so when it is called, and also when
/// it is destroyed without that (its loop is gone, say): an unmap must end.
class AddressMap::Core::Release {
 public:
  Release(const std::shared_ptr<Core>& core, std::shared_ptr<Removal> removal, std::shared_ptr<Member> member)
      : core_(core), removal_(std::move(removal)), member_(std::move(member)) {}
  Release(Release&& other) noexcept = default;
  Release& operator=(Release&& other) = delete;
  ~Release() { (*this)(); }

  void operator()() {
    const auto removal = std::move(removal_);
    const auto core = core_.lock();
    if (!removal || !core) return;  // with the map gone nobody waits, and its control loop may be gone too
    core->let_go(removal, std::move(member_));
  }

 private:
  std::weak_ptr<Core> core_;
  std::shared_ptr<Removal> removal_;
  std::shared_ptr<Member> member_;
};

void AddressMap::Core::tell(IovaRange removed, const std::shared_ptr<Removal>& removal) {
  if (removal) {
    for (const auto& member : members) removal->waiting.push_back(member.get());
    removals.push_back(removal);
  }
  const auto told = members;  // a user that is told may add or remove users
  for (const auto& member : told) tell(member, removed, removal);
  if (!removal) return;
  removal->telling = false;
  finish(removal);
}

void AddressMap::Core::tell(const std::shared_ptr<Member>& member, IovaRange removed,
                            const std::shared_ptr<Removal>& removal) {
  Loop::Task release = [] {};
  if (removal) release = Release(shared_from_this(), removal, member);
  std::unique_lock lock(member->mutex);
  if (member->user == nullptr) return;
  Loop& loop = member->user->map_loop();
  if (loop.in_loop_thread()) {
    lock.unlock();  // both are this thread
    return member->user->map_changed(removed, std::move(release));
  }
  if (!removal && std::exchange(member->change_posted, true)) return;
  lock.unlock();
  loop.post([member, removed, only_change = !removal, release = std::move(release)]() mutable {
    const std::lock_guard in_call(member->mutex);
    if (only_change) member->change_posted = false;
    if (member->user != nullptr) member->user->map_changed(removed, std::move(release));
  });
}

/// Any thread. Who lets go is in the middle of something, and whoever is answered may destroy it. So the answer comes from the
/// loop, or, where unmap() has not told everybody yet, at the end of that.
void AddressMap::Core::let_go(const std::shared_ptr<Removal>& removal, std::shared_ptr<Member> member) {
  if (control.in_loop_thread() && removal->telling) {
    std::erase(removal->waiting, member.get());
    return;
  }
  control.post([weak = weak_from_this(), removal, member = std::move(member)] {
    const auto core = weak.lock();
    if (!core) return;  // it has been answered
    std::erase(removal->waiting, member.get());
    core->finish(removal);
  });
}

void AddressMap::Core::finish(const std::shared_ptr<Removal>& removal) {
  if (removal->telling || !removal->waiting.empty()) return;
  std::erase(removals, removal);
  if (removal->done) std::exchange(removal->done, nullptr)({});
}

AddressMap::AddressMap(Loop& control, Limits limits)
    : limits_(limits), published_(std::make_unique<Published>()), core_(std::make_shared<Core>(control)) {
  Snapshot empty;
  empty.writes_ = writes_;
  published_->snapshot = std::make_shared<const Snapshot>(std::move(empty));
}

AddressMap::~AddressMap() {
  const auto core = std::move(core_);
  for (const auto& member : core->members) {  // a notice that is on its way finds nobody
    const std::lock_guard lock(member->mutex);
    member->user = nullptr;
  }
  for (const auto& removal : std::exchange(core->removals, {})) {
    if (removal->done) std::exchange(removal->done, nullptr)(Error(ECANCELED, "the address map is gone"));
  }
}

/// `editing` is held.
void AddressMap::publish(Snapshot next) const {
  next.generation_ = generation_.load(std::memory_order_relaxed) + 1;
  next.writes_ = writes_;
  auto snapshot = std::make_shared<const Snapshot>(std::move(next));
  {
    const std::lock_guard lock(published_->mutex);
    published_->snapshot.swap(snapshot);
    // Row M1: who sees the new number finds at least the new snapshot.
    generation_.store(published_->snapshot->generation(), std::memory_order_release);
  }
  // The old snapshot goes here, outside the lock: it may be the last to hold memory that has to be unmapped.
}

std::shared_ptr<const Snapshot> AddressMap::current() const {
  const std::lock_guard lock(published_->mutex);
  return published_->snapshot;
}

/// `editing` is held.
Status AddressMap::insert(Mapping mapping) const {
  const IovaRange range = mapping.range;
  if (!range.well_formed()) return Error(EINVAL, "the I/O address range is empty or goes beyond the last address");
  if (!mapping.memory && !mapping.port) return Error(EINVAL, "no memory is given for the I/O address range");
  if (mapping.memory && !range_within(mapping.offset, range.size, mapping.memory->size())) {
    return Error(EINVAL, "the I/O address range is larger than the memory behind it");
  }
  const auto old = current();
  SnapshotEditor editor(*old);
  if (editor.overlaps(range)) return Error(EEXIST, "the I/O address range overlaps one that is mapped");
  if (old->mapping_count() >= limits_.max_mappings) return Error(ENOSPC, "too many I/O address ranges are mapped");
  editor.insert(std::move(mapping));
  publish(std::move(editor).take());
  return {};
}

Status AddressMap::map(Mapping mapping) {
  {
    const std::lock_guard lock(published_->editing);
    OUTBOARD_CHECK(insert(std::move(mapping)));
  }
  core_->tell({}, nullptr);
  return {};
}

void AddressMap::unmap(IovaRange range, Completion done) {
  const auto remove = [&]() -> Status {
    if (!range.well_formed()) return Error(EINVAL, "the I/O address range is empty or goes beyond the last address");
    const std::lock_guard lock(published_->editing);
    SnapshotEditor editor(*current());
    if (editor.cuts(range)) return Error(EINVAL, "the I/O address range holds only part of a mapping");
    if (editor.remove(range) == 0) return Error(ENOENT, "nothing is mapped in the I/O address range");
    publish(std::move(editor).take());
    return {};
  };
  if (Status removed = remove(); !removed) return done(std::move(removed));
  const auto core = core_;  // `done` may destroy this map
  core->tell(range, std::make_shared<Core::Removal>(Core::Removal{.waiting = {}, .done = std::move(done)}));
}

void AddressMap::clear(Completion done) {
  std::unique_lock lock(published_->editing);
  const auto old = current();
  if (old->mapping_count() == 0) {
    lock.unlock();
    return done({});
  }
  publish(Snapshot{});
  lock.unlock();
  const Iova first = old->chunks_.front().first;
  const Iova last = old->chunks_.back().chunk->back().range.last();
  // All 2^64 addresses have no size that fits; one short of them says it as well.
  const std::uint64_t span = raw(last) - raw(first);
  const IovaRange all{first, span == UINT64_MAX ? span : span + 1};
  const auto core = core_;
  core->tell(all, std::make_shared<Core::Removal>(Core::Removal{.waiting = {}, .done = std::move(done)}));
}

void AddressMap::settle_resolver() const { const std::lock_guard lock(published_->editing); }

bool AddressMap::resolve(IovaRange range, Access access) const {
  if (!resolver_ || !range.well_formed()) return false;
  const std::lock_guard lock(published_->editing);
  while (true) {
    // Looked up again under the lock: another thread may have asked for the same.
    std::uint64_t known = 0;
    const Lookup lookup = current()->walk(range, access, nullptr, [&](const Mapping&, Iova, std::uint64_t size) {
      known += size;
      return Lookup::ok;
    });
    if (lookup != Lookup::hole) return lookup == Lookup::ok;
    const IovaRange missing{range.start + known, range.size - known};
    auto found = resolver_(missing, access);
    // Each answer has the first byte that was missing, so this ends.
    if (!found || !found->range.well_formed() || !found->range.contains({missing.start, 1})) return false;
    if (!insert(std::move(*found))) return false;
  }
}

void AddressMap::add_user(MapUser& user) {
  auto member = std::make_shared<Core::Member>();
  member->user = &user;
  core_->members.push_back(std::move(member));
}

void AddressMap::remove_user(MapUser& user) {
  const auto found = std::ranges::find(core_->members, &user, &Core::Member::user);
  if (found == core_->members.end()) return;
  const auto member = std::move(*found);
  core_->members.erase(found);
  {
    const std::lock_guard lock(member->mutex);
    member->user = nullptr;
  }
  for (const auto& removal : core_->removals) core_->let_go(removal, member);
}

}  // namespace outboard::memory
