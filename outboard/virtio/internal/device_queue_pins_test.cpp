// Memory that is handed out to a back end: all of it is pinned, whatever happens to the map while it is looked up.

#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include <outboard/virtio/internal/device_queue.hpp>
#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using memory::Access;
using memory::HostMemory;
using memory::Iova;
using testing::DeviceRig;

constexpr std::uint64_t page = 4096;
constexpr Iova first{0x9000000}, second{0xa000000};

/// A loop that is another thread's for as long as the test says, so that it hears of a change only when it is pumped.
class ElsewhereLoop final : public Loop {
 public:
  testing::ManualLoop inner;
  bool elsewhere = false;

  Result<Registration> watch(int fd, Ready interest, Watcher watcher) override {
    return inner.watch(fd, interest, std::move(watcher));
  }
  Status rewatch(const Registration& watch, Ready interest) override { return inner.rewatch(watch, interest); }
  Registration after(Duration delay, Task task) override { return inner.after(delay, std::move(task)); }
  Registration poll(Poller poller) override { return inner.poll(std::move(poller)); }
  void post(Task task) override { inner.post(std::move(task)); }
  bool in_loop_thread() const override { return !elsewhere; }
  const Clock& clock() const override { return inner.clock(); }

 protected:
  void end(std::uint64_t) override {}
};

class Pieces : public ::testing::TestWithParam<bool> {
 protected:
  Pieces() : rig({.packed = GetParam(), .options = {.queue_loops = {&queue_loop}}}) {
    rig.run();
    rig.device.on_request = rig.device.keep();
    // The second element lies in two mappings: to find that out takes another look at the map.
    for (unsigned i = 0; i < 2; ++i) map_page(second + i * page);
    queue_loop.inner.run_until_idle();
  }
  ~Pieces() override { rig.core.reset(); }

  /// Maps a new page, which only the map keeps.
  std::weak_ptr<HostMemory> map_page(Iova at) {
    auto memory = HostMemory::anonymous(page).value();
    std::weak_ptr<HostMemory> weak = memory;
    EXPECT_TRUE(rig.map.map(
        {.range = {at, page}, .access = Access::read_write, .memory = std::move(memory), .offset = 0, .port = {}}));
    return weak;
  }
  /// What the queue's loop does not hear of before it is pumped.
  template <typename Change>
  void meanwhile(Change&& change) {
    queue_loop.elsewhere = true;
    change();
    queue_loop.elsewhere = false;
  }
  void unmap_first() {
    rig.map.unmap({first, page}, [this](const Status&) { unmapped = true; });
  }
  void settle() {
    queue_loop.inner.run_until_idle();
    rig.settle();
  }
  /// A buffer of one page in `first` and two in `second`, and its token.
  Request& take() {
    rig.driver().chain().writable_at(first, page).writable_at(second, 2 * page).publish();
    rig.core->kick(0);
    settle();
    EXPECT_EQ(rig.device.kept.size(), 1U);
    return rig.device.kept.back();
  }

  ElsewhereLoop queue_loop;
  DeviceRig rig;
  bool unmapped = false;
};
INSTANTIATE_TEST_SUITE_P(Rings, Pieces, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(Pieces, AreAllOfTheMapThatIsPinnedThoughItChangesBetweenThem) {
  const std::weak_ptr<HostMemory> old = map_page(first);
  Request& request = take();
  std::weak_ptr<HostMemory> now;
  meanwhile([&] {
    unmap_first();
    now = map_page(first);
  });

  const auto pieces = request.writable_pieces(3 * page);
  ASSERT_TRUE(pieces);
  ASSERT_FALSE(now.expired());
  EXPECT_EQ(pieces->front().iov_base, now.lock()->data());
  // Gone from the map too, what the back end has is there until the request is answered.
  meanwhile([&] { unmap_first(); });
  unmapped = false;
  settle();
  EXPECT_FALSE(unmapped);
  ASSERT_FALSE(now.expired());
  EXPECT_TRUE(old.expired());
  for (const iovec& piece : *pieces) std::memset(piece.iov_base, 1, piece.iov_len);
  request.pieces_written(3 * page);
  request.complete();
  settle();
  EXPECT_TRUE(unmapped);
  EXPECT_TRUE(now.expired());
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(Pieces, AreNoneWhereTheFirstIsGoneWhenTheSecondIsFound) {
  const std::weak_ptr<HostMemory> old = map_page(first);
  Request& request = take();
  meanwhile([&] { unmap_first(); });
  const auto pieces = request.writable_pieces(3 * page);
  ASSERT_FALSE(pieces);
  EXPECT_EQ(pieces.error().code(), EFAULT);
  EXPECT_TRUE(old.expired());
  EXPECT_TRUE(request.written() == 0 && request.writable_left() == 3 * page);
}

TEST_P(Pieces, OfAnEarlierCallStayPinnedWhenTheNextFindsAnotherMap) {
  const std::weak_ptr<HostMemory> old = map_page(first);
  Request& request = take();
  const auto pieces = request.writable_pieces(page);
  ASSERT_TRUE(pieces);
  const iovec kept = pieces->front();
  request.pieces_written(page);
  meanwhile([&] {
    unmap_first();
    map_page(Iova{0xb000000});
  });
  ASSERT_TRUE(request.writable_pieces(2 * page));
  settle();
  EXPECT_FALSE(unmapped);
  ASSERT_FALSE(old.expired());
  std::memset(kept.iov_base, 1, kept.iov_len);
  request.pieces_written(2 * page);
  request.complete();
  settle();
  EXPECT_TRUE(unmapped);
  EXPECT_TRUE(old.expired());
}

/// A resolver that has the next buffer lie where it has not been asked yet, so that each look finds another map.
TEST_P(Pieces, ABufferThatIsElsewhereAtEachLookIsTakenInTheEnd) {
  constexpr unsigned max_asked = 1000;
  unsigned asked = 0;
  const Iova base{0x100000000};
  auto chain = rig.driver().chain();
  const Iova table = rig.driver().allocate(16, 16);
  rig.map.set_resolver([&](memory::IovaRange range, Access) -> std::optional<memory::Mapping> {
    if (++asked < max_asked) {
      // The only element, in the table, moves on by a page.
      const le64 next{raw(base) + asked * page};
      std::memcpy(rig.driver().at(table), &next, sizeof next);
    }
    const Iova start{raw(range.start) & ~(page - 1)};
    return memory::Mapping{.range = {start, page},
                           .access = Access::read_write,
                           .memory = HostMemory::anonymous(page).value(),
                           .offset = 0,
                           .port = {}};
  });
  const spec::Descriptor element{.addr = raw(base), .len = 16, .flags = spec::descriptor::write, .next = 0};
  std::memcpy(rig.driver().at(table), &element, sizeof element);
  chain.indirect().writable(16).table_address(table).publish();
  rig.core->kick(0);
  settle();
  EXPECT_EQ(rig.device.requests, 1U);
  EXPECT_GT(asked, 1U) << "the map has changed while the buffer was taken";
  EXPECT_LE(asked, 2 * (DeviceQueue::map_attempts + 1));
  EXPECT_FALSE(rig.needs_reset());
}

}  // namespace
}  // namespace outboard::virtio
