// Buffers that cannot be used, where the transport has no way to say that the device is broken: they fail alone. Rows are
// those of the table of VDUSE.

#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <utility>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <outboard/virtio/internal/device_queue.hpp>
#include <tests/support/device_rig.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::virtio {
namespace {

using memory::Access;
using memory::Iova;
using testing::DeviceRig;
using testing::HandDriver;
using Used = HandDriver::Used;

constexpr std::uint64_t page = 4096;
constexpr Iova hole{0x7000000}, elsewhere{0x9000000};

class ContainedFaults : public ::testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(memory::install_fault_guard()); }
  DeviceRig::Setup setup() const { return {.packed = GetParam(), .options = {.contains_faults = true}}; }
  bool packed() const { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Rings, ContainedFaults, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

/// The next request answers what it was told with what this says.
struct Seen {
  std::uint32_t requests = 0;
  int read = -1, write = -1;
};

void look(DeviceRig& rig, Seen& seen) {
  rig.device.on_request = [&seen](Request request) {
    ++seen.requests;
    EXPECT_TRUE(request.fails_alone());
    const auto read = request.readable_size() >= 4 ? request.read<le32>() : Result<le32>(le32{0});
    seen.read = read ? 0 : read.error().code();
    const Status written = request.writable_size() >= 4 ? request.write(le32{7}) : Status();
    seen.write = written ? 0 : written.error().code();
    if (!read) return request.violation(read.error());
    if (!written) return request.violation(written.error());
    request.complete();
  };
}

/// Whether another request, with nothing wrong about it, is served.
::testing::AssertionResult lives(DeviceRig& rig) {
  if (rig.needs_reset()) return ::testing::AssertionFailure() << "the device is broken";
  rig.driver().take_used();
  rig.device.on_request = testing::ScriptedDevice::echo;
  rig.driver().chain().readable("echo").writable(4).publish();
  rig.process();
  const auto used = rig.driver().take_used();
  if (used.size() != 1 || used[0].length != 4) return ::testing::AssertionFailure() << "and is not served";
  return ::testing::AssertionSuccess();
}

TEST_P(ContainedFaults, VDUSE32_ABufferInAHoleComesToTheDeviceWhichCannotReadIt) {
  DeviceRig rig(setup());
  rig.run();
  Seen seen;
  look(rig, seen);
  rig.driver().chain().readable_at(hole, 4).writable(4).publish();
  rig.process();
  EXPECT_EQ(seen.requests, 1U);
  EXPECT_EQ(seen.read, EFAULT);
  EXPECT_EQ(seen.write, 0) << "what is there can be written";
  EXPECT_EQ(rig.driver().take_used(), (std::vector<Used>{{0, 4}}));
  EXPECT_EQ(rig.notified[0], 1U);
  EXPECT_TRUE(lives(rig));
}

TEST_P(ContainedFaults, VDUSE32_NothingIsWrittenWhereThereIsAHole) {
  DeviceRig rig(setup());
  rig.run();
  Seen seen;
  look(rig, seen);
  auto chain = rig.driver().chain();
  // The middle of three elements: an access that crosses it touches what lies before.
  chain.writable(2).writable_at(hole, 2).writable(2).publish();
  rig.process();
  EXPECT_EQ(seen.write, EFAULT);
  const auto used = rig.driver().take_used();
  ASSERT_EQ(used.size(), 1U);
  EXPECT_LE(used[0].length, 2U) << "never more than was written";
  EXPECT_EQ(*rig.driver().at(chain.at(2)), std::byte{0});
  EXPECT_TRUE(lives(rig));
}

TEST_P(ContainedFaults, VDUSE32_AnAddressThatWrapsIsAHole) {
  DeviceRig rig(setup());
  rig.run();
  Seen seen;
  look(rig, seen);
  rig.driver().chain().readable_at(Iova{UINT64_MAX - 1}, 4).publish();
  rig.process();
  EXPECT_EQ(seen.read, EFAULT);
  EXPECT_TRUE(lives(rig));
}

TEST_P(ContainedFaults, VDUSE33_MemoryThatMayOnlyBeReadIsNotWrittenTo) {
  DeviceRig rig(setup());
  rig.run();
  auto other = memory::HostMemory::anonymous(page);
  ASSERT_TRUE(other);
  ASSERT_TRUE(
      rig.map.map({.range = {elsewhere, page}, .access = Access::read, .memory = *other, .offset = 0, .port = {}}));
  Seen seen;
  look(rig, seen);
  rig.driver().chain().readable_at(elsewhere, 4).writable_at(elsewhere, 4).publish();
  rig.process();
  EXPECT_EQ(seen.read, 0);
  EXPECT_EQ(seen.write, EFAULT);
  EXPECT_EQ(*(*other)->data(), std::byte{0});
  EXPECT_EQ(rig.driver().take_used(), (std::vector<Used>{{0, 0}}));
  EXPECT_TRUE(lives(rig));
}

TEST_P(ContainedFaults, TheLastBytesCanBeWrittenThoughThoseBeforeThemCannot) {
  DeviceRig rig(setup());
  rig.run();
  bool written = false;
  rig.device.on_request = [&](Request request) {
    EXPECT_FALSE(request.write_zeros(request.writable_left() - 1));
    written = request.write_last(std::uint8_t{9}).has_value();
    request.complete();
  };
  auto chain = rig.driver().chain();
  chain.writable_at(hole, 512).writable(3).publish();
  rig.process();
  EXPECT_TRUE(written);
  EXPECT_EQ(rig.driver().at(chain.at(1))[2], std::byte{9});
  EXPECT_EQ(rig.driver().take_used(), (std::vector<Used>{{0, 0}})) << "the first byte has not been written";
  EXPECT_TRUE(lives(rig));
}

TEST_P(ContainedFaults, TheLastBytesCountWhereNothingIsMissing) {
  DeviceRig rig(setup());
  rig.run();
  rig.device.on_request = [&](Request request) {
    EXPECT_FALSE(request.write_last(le64{1})) << "there are four";
    EXPECT_TRUE(request.write_last(le32{1}));
    request.complete();
  };
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (std::vector<Used>{{0, 4}}));
}

TEST_P(ContainedFaults, OnlyTheFirstIsSaid) {
  DeviceRig rig(setup());
  rig.run();
  Seen seen;
  look(rig, seen);
  for (unsigned i = 0; i < 5; ++i) {
    rig.driver().chain().readable_at(hole, 4).publish();
    rig.process();
  }
  EXPECT_EQ(seen.requests, 5U);
  EXPECT_EQ(rig.log.size(), 1U);
}

TEST_P(ContainedFaults, WhileMemoryIsBeingRearrangedABufferWaits) {
  DeviceRig rig(setup());
  rig.run();
  auto other = memory::HostMemory::anonymous(page);
  ASSERT_TRUE(other);
  const memory::Mapping more{
      .range = {elsewhere, page}, .access = Access::read_write, .memory = *other, .offset = 0, .port = {}};
  ASSERT_TRUE(rig.map.map(more));
  rig.map.unmap(more.range, [](const Status&) {});
  rig.settle();
  Seen seen;
  look(rig, seen);
  rig.driver().chain().readable_at(elsewhere, 4).publish();
  rig.process();
  EXPECT_EQ(seen.requests, 0U);
  rig.loop.advance(std::chrono::seconds(2));
  EXPECT_EQ(seen.read, EFAULT);
  EXPECT_TRUE(lives(rig));
}

// docs/spec-map.md, VDUSE-30.

/// Buffers that are none, and whose place in the ring is known all the same.
std::vector<std::pair<const char*, std::function<void(HandDriver&)>>> malformed(bool packed) {
  using virtio::spec::descriptor::indirect;
  using virtio::spec::descriptor::next;
  std::vector<std::pair<const char*, std::function<void(HandDriver&)>>> all{
      {"an empty table", [](HandDriver& driver) { driver.chain().indirect().writable(4).table_length(0).publish(); }},
      {"half an entry", [](HandDriver& driver) { driver.chain().indirect().writable(4).table_length(24).publish(); }},
      {"a table in a hole",
       [](HandDriver& driver) { driver.chain().indirect().writable(4).table_address(hole).publish(); }},
  };
  if (packed) {
    all.emplace_back("a table that is too long",
                     [](HandDriver& driver) { driver.chain().indirect().writable(4).table_length(1 << 20).publish(); });
    return all;
  }
  all.emplace_back("next beyond the ring", [](HandDriver& driver) { driver.chain().writable(4).next(99).publish(); });
  all.emplace_back("a loop", [](HandDriver& driver) {
    auto chain = driver.chain();
    chain.writable(4).next(driver.avail_idx() % 16);
    chain.publish();
  });
  all.emplace_back("next beyond the table",
                   [](HandDriver& driver) { driver.chain().indirect().writable(4).next(9).publish(); });
  all.emplace_back("a table in a table",
                   [](HandDriver& driver) { driver.chain().indirect().writable(4).with(indirect).publish(); });
  all.emplace_back("a table and a next one",
                   [](HandDriver& driver) { driver.chain().indirect().writable(4).table_with(next).publish(); });
  all.emplace_back("readable behind writable",
                   [](HandDriver& driver) { driver.chain().writable(4).readable(4).publish(); });
  return all;
}

TEST_P(ContainedFaults, VDUSE30_AMalformedChainIsReturnedUnseenWithLengthZero) {
  for (const auto& [name, publish] : malformed(packed())) {
    DeviceRig rig(setup());
    rig.run();
    publish(rig.driver());
    rig.process();
    EXPECT_EQ(rig.device.requests, 0U) << name;
    EXPECT_EQ(rig.driver().take_used(), (std::vector<Used>{{0, 0}})) << name;
    EXPECT_TRUE(lives(rig)) << name;
  }
}

TEST_P(ContainedFaults, VDUSE30_WithInOrderItGoesBackInItsTurnAndIsNotSkipped) {
  DeviceRig::Setup with = setup();
  with.options.in_order = true;
  DeviceRig rig(with);
  rig.run();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  const auto none = rig.driver().chain().indirect().writable(4).table_length(0).publish();
  rig.driver().chain().writable(4).publish();
  rig.process();
  ASSERT_EQ(rig.device.kept.size(), 2U);
  EXPECT_EQ(rig.driver().used_count(), 0U);
  for (auto& request : rig.device.kept) {
    EXPECT_TRUE(request.write(le32{1}));
    request.complete();
  }
  rig.settle();
  // An entry of its own, which stands for the one before too. None for it would say that it had been filled.
  if (packed()) {
    EXPECT_EQ(rig.driver().packed_at(0).id, none);
    EXPECT_EQ(rig.driver().packed_at(0).len, 0U);
    EXPECT_EQ(rig.driver().packed_at(2).len, 4U);
  } else {
    EXPECT_EQ(rig.driver().used_idx(), 3);
    EXPECT_EQ(rig.driver().used_entry(0), (Used{none, 0}));
    EXPECT_EQ(rig.driver().used_entry(2).length, 4U);
  }
}

TEST_P(ContainedFaults, AChainThatIsMendedBeforeItIsTakenIsARequestLikeOthers) {
  DeviceRig::Setup with = setup();
  with.options.in_order = true;
  DeviceRig rig(with);
  rig.run();
  rig.device.on_request = [](Request request) {
    ASSERT_TRUE(request.write_zeros(request.writable_size()));
    request.complete();
  };
  constexpr auto half = static_cast<std::uint32_t>(DeviceQueue::max_pass_bytes / 2);
  const auto at = rig.driver().allocate(half);
  for (unsigned i = 0; i < 2; ++i) rig.driver().chain().readable_at(at, half).publish();
  auto chain = rig.driver().chain();
  chain.indirect().writable(4).readable(4).publish();  // a readable element after a writable one
  const auto last = rig.driver().chain().writable(4).publish();
  rig.core->kick_now(0);
  ASSERT_EQ(rig.device.requests, 2U) << "the pass is over before the chain is taken";
  const Iova second_entry = chain.at(1) + 16 + sizeof(spec::Descriptor);
  const std::size_t flags = packed() ? offsetof(spec::PackedDescriptor, flags) : offsetof(spec::Descriptor, flags);
  const le16 writable = spec::descriptor::write;
  std::memcpy(rig.driver().at(second_entry) + flags, &writable, sizeof writable);
  rig.settle();
  EXPECT_EQ(rig.device.requests, 4U);
  // One entry for both: the first was filled.
  if (packed()) {
    EXPECT_EQ(rig.driver().packed_at(2).id, last);
  } else {
    EXPECT_EQ(rig.driver().used_idx(), 4);
    EXPECT_EQ(rig.driver().used_entry(2), (Used{last, 4}));
  }
}

TEST_P(ContainedFaults, VDUSE30_AHeadThatIsNoneCannotBeGivenBackAndEndsTheDevice) {
  DeviceRig rig(setup());
  rig.run();
  if (packed()) {
    rig.driver().chain().writable(4).with(spec::descriptor::next).publish();
  } else {
    rig.driver().set_avail_entry(0, 99);
    rig.driver().set_avail_idx(1);
  }
  rig.process();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

TEST_P(ContainedFaults, ADeviceThatHasItsOwnReasonsIsBrokenAllTheSame) {
  DeviceRig rig(setup());
  rig.run();
  rig.device.on_request = [](Request request) { request.violation("5.2.6", "no status byte"); };
  rig.driver().chain().readable(4).publish();
  rig.process();
  EXPECT_TRUE(rig.needs_reset());
}

// Files that shrink.

/// Two pages of a file in the driver's memory; the file can be cut behind the first.
class Shrinking {
 public:
  explicit Shrinking(DeviceRig& rig) : fd_(testing::make_memfd(2 * page)) {
    auto memory = memory::HostMemory::map_file(fd_, 0, 2 * page, Access::read_write).value();
    const auto mapped = rig.map.map(
        {.range = {elsewhere, 2 * page}, .access = Access::read_write, .memory = memory, .offset = 0, .port = {}});
    EXPECT_TRUE(mapped);
  }
  static constexpr Iova kept = elsewhere, lost = elsewhere + page;
  void shrink() const { ASSERT_EQ(::ftruncate(fd_.get(), page), 0); }

 private:
  UniqueFd fd_;
};

TEST_P(ContainedFaults, VDUSE32_RequestsInTheLostPartOfAShrunkFileFail) {
  DeviceRig rig(setup());
  rig.run();
  const Shrinking file(rig);
  Seen seen;
  look(rig, seen);
  file.shrink();
  rig.driver().chain().readable_at(Shrinking::lost, 4).writable(4).publish();
  rig.process();
  EXPECT_EQ(seen.read, EFAULT);
  rig.driver().chain().readable(4).writable_at(Shrinking::lost, 4).publish();
  rig.process();
  EXPECT_EQ(seen.write, EFAULT);
  rig.driver().chain().readable_at(Shrinking::kept, 4).writable_at(Shrinking::kept, 4).publish();
  rig.process();
  EXPECT_EQ(seen.read, 0);
  EXPECT_EQ(seen.write, 0);
  EXPECT_TRUE(lives(rig));
}

TEST_P(ContainedFaults, VDUSE30_ATableWhoseFileShrankIsNone) {
  DeviceRig rig(setup());
  rig.run();
  const Shrinking file(rig);
  file.shrink();
  rig.driver().chain().indirect().writable(4).table_address(Shrinking::lost).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 0U);
  EXPECT_EQ(rig.driver().take_used(), (std::vector<Used>{{0, 0}}));
  EXPECT_TRUE(lives(rig));
}

TEST_P(ContainedFaults, VDUSE32_AFileThatShrinksMeanwhileIsFoundAtRelease) {
  for (const bool writes : {false, true}) {
    DeviceRig rig(setup());
    rig.run();
    const Shrinking file(rig);
    int code = 0;
    rig.device.on_request = [&](Request request) {
      const auto pieces = writes ? request.writable_pieces(4) : request.readable_pieces(4);
      ASSERT_TRUE(pieces);
      file.shrink();
      auto* const at = static_cast<volatile std::byte*>((*pieces)[0].iov_base);
      if (writes) {
        *at = std::byte{1};
      } else {
        [[maybe_unused]] const std::byte read = *at;
      }
      const Status kept = request.unpin();
      code = kept ? 0 : kept.error().code();
      request.complete();
    };
    if (writes) {
      rig.driver().chain().writable_at(Shrinking::lost, 4).publish();
    } else {
      rig.driver().chain().readable_at(Shrinking::lost, 4).publish();
    }
    rig.process();
    EXPECT_EQ(code, EFAULT) << writes;
    EXPECT_TRUE(lives(rig));
  }
}

/// A back end that touches pieces of a file that has just shrunk, and a device that says nothing of it.
void complete_in_lost_memory(DeviceRig& rig, const Shrinking& file) {
  rig.device.on_request = [&file](Request request) {
    const auto pieces = request.writable_pieces(4);
    ASSERT_TRUE(pieces);
    file.shrink();
    *static_cast<volatile std::byte*>((*pieces)[0].iov_base) = std::byte{1};
    request.pieces_written(4);
    request.complete();
  };
  rig.driver().chain().writable_at(Shrinking::lost, 4).publish();
  rig.process();
}

TEST_P(ContainedFaults, VDUSE32_ADeviceThatDoesNotAskIsNotBelieved) {
  DeviceRig rig(setup());
  rig.run();
  const Shrinking file(rig);
  complete_in_lost_memory(rig, file);
  EXPECT_EQ(rig.driver().take_used(), (std::vector<Used>{{0, 0}}));
  EXPECT_TRUE(lives(rig));
}

TEST_P(ContainedFaults, AFileThatShrinksMeanwhileBreaksADeviceThatCanSaySo) {
  DeviceRig rig({.packed = packed()});
  rig.run();
  const Shrinking file(rig);
  complete_in_lost_memory(rig, file);
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.driver().used_count(), 0U) << "an answer would say that the data have arrived";
}

}  // namespace
}  // namespace outboard::virtio
