#include <tests/support/idle_function.hpp>
#include <tests/support/scarce_memory.hpp>
#include <tests/support/vfio_user_server_fixture.hpp>

// Rows of docs/spec-map.md (VU) that concern register accesses.

namespace outboard::vfio_user {
namespace {

using testing::joined;
using testing::PlainFunction;

spec::RegionAccess access(std::uint64_t offset, std::uint32_t count, std::uint32_t region = 0) {
  return {.offset = offset, .region = region, .count = count};
}

spec::WriteMultiEntry entry(std::uint64_t offset, std::uint32_t value, std::uint32_t count = 4,
                            std::uint32_t region = 0) {
  spec::WriteMultiEntry result{.offset = offset, .region = region, .count = count, .data = {}};
  std::memcpy(result.data, &value, sizeof value);
  return result;
}

class ServerRegions : public testing::VfioUserServerTest {
 protected:
  Peer enabled_client() {
    Peer peer = client();
    enable(peer);
    return peer;
  }
  int read_error(Peer& peer, const spec::RegionAccess& one) {
    return error_of(peer, Command::region_read, joined(one));
  }
  int write_error(Peer& peer, const spec::RegionAccess& one, std::size_t size) {
    auto payload = joined(one);
    const auto data = testing::pattern(size);
    payload.insert(payload.end(), data.begin(), data.end());
    return error_of(peer, Command::region_write, payload);
  }
};

TEST_F(ServerRegions, ReadAndWriteEchoWhatWasAsked) {
  Peer peer = enabled_client();
  const auto where = access(PlainFunction::scratch_at, 4);
  const auto write = exchange(peer, Command::region_write, joined(where, std::uint32_t{0x11223344}));
  ASSERT_TRUE(write);
  EXPECT_EQ(write->payload, joined(where));
  const auto read = exchange(peer, Command::region_read, joined(where));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->payload, joined(where, std::uint32_t{0x11223344}));
}

TEST_F(ServerRegions, AllOfConfigurationSpaceIsReadAtOnce) {
  Peer peer = client();
  const auto read = exchange(peer, Command::region_read, joined(access(0, 4096, 7)));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->payload.size(), 16u + 4096);
  EXPECT_EQ(read->at<std::uint16_t>(16), 0x1234);
}

TEST_F(ServerRegions, VU52_AnAccessOfWrongLengthOrBeyondTheRegionIsRefused) {
  Peer peer = enabled_client();
  for (const auto command : {Command::region_read, Command::region_write}) {
    EXPECT_EQ(error_of(peer, command), EINVAL);
    EXPECT_EQ(error_of(peer, command, testing::pattern(15)), EINVAL);
  }
  const spec::RegionAccess bad[] = {
      access(PlainFunction::bar_size, 1),
      access(PlainFunction::bar_size - 3, 4),
      access(UINT64_MAX, 4),
      access(UINT64_MAX - 3, 4),
      access(0, (1u << 20) + 1),
      access(0, UINT32_MAX),
      access(0, 4, 1) /* no such BAR */,
      access(0, 4, 8),
      access(0, 4, 9),
      access(0, 4, UINT32_MAX),
      access(4096, 1, 7),
  };
  for (const auto& one : bad) {
    EXPECT_EQ(read_error(peer, one), EINVAL) << one.offset << " " << one.count << " " << one.region;
    EXPECT_EQ(write_error(peer, one, std::min(one.count, 16u)), EINVAL);
  }
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerRegions, VU53_AWriteWhoseDataAreNotAsLongAsItSaysWritesNothing) {
  Peer peer = enabled_client();
  write_register(peer, PlainFunction::scratch_at, 7);
  for (const std::size_t size : {0u, 3u, 5u, 100u}) {
    EXPECT_EQ(write_error(peer, access(PlainFunction::scratch_at, 4), size), EINVAL);
  }
  EXPECT_EQ(read_register(peer, PlainFunction::scratch_at), 7u);
}

TEST_F(ServerRegions, VU54_AnAccessOfNothingSucceeds) {
  Peer peer = enabled_client();
  const auto read = exchange(peer, Command::region_read, joined(access(4, 0)));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->payload, joined(access(4, 0)));
  EXPECT_EQ(write_error(peer, access(4, 0), 0), 0);
}

TEST_F(ServerRegions, VU55_OddWidthsAndAlignmentAreForTheDeviceToComplete) {
  Peer peer = enabled_client();
  for (const std::uint32_t count : {1u, 2u, 3u, 5u, 7u, 12u}) {
    for (const std::uint64_t offset : {0u, 1u, 3u, 5u}) {
      EXPECT_EQ(read_error(peer, access(offset, count)), 0);
      EXPECT_EQ(read_error(peer, access(offset, count, 7)), 0);
      EXPECT_EQ(write_error(peer, access(offset + 0x100, count), count), 0);
    }
  }
}

TEST_F(ServerRegions, WriteMultiAppliesItsEntriesInOrder) {
  Peer peer = enabled_client();
  const auto reply = exchange(peer, Command::region_write_multi,
                              joined(spec::WriteMulti{3}, entry(PlainFunction::doorbell_at, 1),
                                     entry(PlainFunction::doorbell_at, 2), entry(PlainFunction::scratch_at, 9)));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), 0);
  EXPECT_EQ(reply->payload, joined(spec::WriteMulti{3}));
  EXPECT_EQ(function().doorbell_count(), 2u);
  EXPECT_EQ(function().last_doorbell(), 2u);
  EXPECT_EQ(read_register(peer, PlainFunction::scratch_at), 9u);
}

TEST_F(ServerRegions, WriteMultiOfTheSizeThatQemuSendsIsTaken) {
  Peer peer = enabled_client();
  auto payload = joined(spec::WriteMulti{200});
  for (std::uint32_t i = 0; i < 200; ++i) {
    const auto one = joined(entry(PlainFunction::doorbell_at, i));
    payload.insert(payload.end(), one.begin(), one.end());
  }
  EXPECT_EQ(error_of(peer, Command::region_write_multi, payload, {.flags = spec::flag::no_reply}), -1);
  EXPECT_EQ(function().doorbell_count(), 200u);
}

TEST_F(ServerRegions, VU56_WriteMultiOfAnotherLengthThanItsEntriesWritesNothing) {
  Peer peer = enabled_client();
  const auto one = entry(PlainFunction::doorbell_at, 1);
  for (const std::uint64_t count : {UINT64_C(0), UINT64_C(2), UINT64_MAX, UINT64_C(0x0aaaaaaaaaaaaaab)}) {
    EXPECT_EQ(error_of(peer, Command::region_write_multi, joined(spec::WriteMulti{count}, one)), EINVAL);
  }
  EXPECT_EQ(error_of(peer, Command::region_write_multi, joined(spec::WriteMulti{1}, one, std::uint8_t{0})), EINVAL);
  EXPECT_EQ(error_of(peer, Command::region_write_multi, testing::pattern(7)), EINVAL);
  EXPECT_EQ(function().doorbell_count(), 0u);
}

TEST_F(ServerRegions, VU56_WriteMultiOfMoreThanATurnsWritesWritesNothing) {
  Peer peer = enabled_client();
  const auto write_all = [&](std::uint64_t count) {
    std::vector<std::byte> payload = joined(spec::WriteMulti{count});
    const auto one = joined(entry(PlainFunction::doorbell_at, 1));
    for (std::uint64_t i = 0; i < count; ++i) payload.insert(payload.end(), one.begin(), one.end());
    return error_of(peer, Command::region_write_multi, payload);
  };
  EXPECT_EQ(write_all(257), EINVAL);
  EXPECT_EQ(function().doorbell_count(), 0u);
  EXPECT_EQ(write_all(256), 0);
  EXPECT_EQ(function().doorbell_count(), 256u);
}

TEST_F(ServerRegions, VU56_WriteMultiStopsAtTheFirstBadEntry) {
  Peer peer = enabled_client();
  const auto good = entry(PlainFunction::doorbell_at, 1);
  const auto bad = {entry(0, 0, 9), entry(0, 0, UINT32_MAX), entry(PlainFunction::bar_size, 0), entry(0, 0, 4, 9)};
  unsigned rung = 0;
  for (const auto& one : bad) {
    EXPECT_EQ(error_of(peer, Command::region_write_multi, joined(spec::WriteMulti{3}, good, one, good)), EINVAL);
    EXPECT_EQ(function().doorbell_count(), ++rung);
    EXPECT_EQ(error_of(peer, Command::region_write_multi, joined(spec::WriteMulti{3}, good, one, good),
                       {.flags = spec::flag::no_reply}),
              -1);
    EXPECT_EQ(function().doorbell_count(), ++rung);
  }
}

TEST_F(ServerRegions, VU57_DeviceFeatureAndMigrationAreKnownButNotOffered) {
  Peer peer = client();
  for (const auto command : {Command::device_feature, Command::mig_data_read, Command::mig_data_write}) {
    EXPECT_EQ(error_of(peer, command, testing::pattern(8)), ENOTSUP);
    EXPECT_EQ(error_of(peer, command), ENOTSUP);
  }
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerRegions, PostedWritesAreDoneBeforeALaterCommandIsAnswered) {
  serve({.area = false});
  Peer peer = enabled_client();
  for (std::uint32_t i = 0; i < 100; ++i) {
    peer.send(Command::region_write, joined(access(PlainFunction::doorbell_at, 4), i), {.flags = spec::flag::no_reply});
  }
  EXPECT_EQ(read_register(peer, PlainFunction::doorbell_count_at), 100u);
}

/// A server over a function that checks nothing itself.
class ServerOfATrustingFunction : public ServerRegions {
 protected:
  using Access = testing::IdleFunction::Access;

  Peer client_of_trusting(std::size_t max_data_transfer = std::size_t{1} << 20) {
    vfio_user::Server::Options options = server_options_;
    options.loop = &loop_;
    options.max_data_transfer = max_data_transfer;
    auto server = Server::listen(
        path(),
        [this](Loop&, Log) -> Result<std::unique_ptr<pci::Function>> {
          auto made = std::make_unique<testing::IdleFunction>();
          trusting_ = made.get();
          return made;
        },
        options);
    EXPECT_TRUE(server) << server.error().message();
    server_.emplace(std::move(*server));
    return client();
  }
  static spec::RegionAccess asked(const Access& one) {
    return access(one.offset, static_cast<std::uint32_t>(one.length), one.region);
  }

  testing::IdleFunction* trusting_ = nullptr;
};

TEST_F(ServerOfATrustingFunction, VU52_AnAccessBeyondARegionDoesNotReachIt) {
  Peer peer = client_of_trusting();
  for (const auto& [one, error] : testing::refused_reads) {
    EXPECT_EQ(read_error(peer, asked(one)), error) << one.region << " " << one.offset;
  }
  for (const auto& [one, error] : testing::refused_writes()) {
    EXPECT_EQ(write_error(peer, asked(one), one.length), error) << one.region << " " << one.offset;
    if (one.length > 8) continue;
    const auto bad = entry(one.offset, 0, static_cast<std::uint32_t>(one.length), one.region);
    EXPECT_EQ(error_of(peer, Command::region_write_multi, joined(spec::WriteMulti{1}, bad)), error)
        << one.region << " " << one.offset;
  }
  EXPECT_EQ(trusting_->reads, std::vector<Access>());
  EXPECT_EQ(trusting_->writes, std::vector<Access>());
  EXPECT_EQ(read_error(peer, access(0, 16)), 0);
  EXPECT_EQ(trusting_->reads, (std::vector<Access>{{0, 0, 16}}));
}

TEST_F(ServerOfATrustingFunction, VU52_ARefusedReadTakesNoMemory) {
  if (!testing::NoMemoryFor::is_possible()) GTEST_SKIP() << "a sanitizer ends the process instead";
  constexpr std::uint32_t largest = 64U << 20;
  Peer peer = client_of_trusting(largest);
  const testing::NoMemoryFor large(std::size_t{1} << 20);
  EXPECT_EQ(read_error(peer, access(0, largest)), EINVAL);
  EXPECT_EQ(read_error(peer, access(0, largest, 2)), EINVAL) << "no such BAR";
  EXPECT_EQ(read_error(peer, access(0, largest, UINT32_MAX)), EINVAL);
  EXPECT_EQ(read_error(peer, access(0, 4, 1)), EACCES);
}

}  // namespace
}  // namespace outboard::vfio_user
