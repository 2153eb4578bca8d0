// The commands by which a client moves the function, as a server of a function that can be moved takes them.

#include <functional>

#include <outboard/base/state.hpp>
#include <outboard/vfio_user/internal/migration_path.hpp>
#include <tests/support/vfio_user_server_fixture.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
namespace flag = abi::device_feature_flag;
namespace id = abi::device_feature;
using testing::joined;
using testing::PlainFunction;
using enum MigrationState;

constexpr std::uint32_t roomy = 4096;

class ServerMigration : public testing::VfioUserServerTest {
 protected:
  void SetUp() override { serve_migratable({}); }
  void serve_migratable(PlainFunction::Options options) {
    options.migratable = true;
    server_.reset();
    serve(options);
  }

  template <typename... Parts>
  std::optional<Message> feature(Peer& peer, std::uint32_t flags, const Parts&... parts) {
    return exchange(peer, Command::device_feature,
                    joined(abi::DeviceFeature{.argsz = roomy, .flags = flags}, parts...));
  }
  template <typename... Parts>
  int feature_error(Peer& peer, std::uint32_t flags, const Parts&... parts) {
    const auto reply = feature(peer, flags, parts...);
    return reply ? reply->error() : -1;
  }
  static std::vector<std::byte> set_state_request(MigrationState state) {
    return joined(abi::DeviceFeature{.argsz = 16, .flags = flag::set | id::mig_device_state},
                  abi::MigrationDeviceState{.device_state = static_cast<std::uint32_t>(state), .data_fd = 0});
  }
  int set_state(Peer& peer, MigrationState state) {
    return error_of(peer, Command::device_feature, set_state_request(state));
  }
  MigrationState state(Peer& peer) {
    const auto reply = feature(peer, flag::get | id::mig_device_state);
    return reply ? MigrationState{reply->at<abi::MigrationDeviceState>(8).device_state} : error;
  }
  std::optional<Message> read_data(Peer& peer, std::uint32_t size) {
    return exchange(peer, Command::mig_data_read, joined(spec::MigrationData{.argsz = 8 + size, .size = size}));
  }
  /// All data, in pieces of `size`: less than that ends them.
  std::vector<std::byte> read_all(Peer& peer, std::uint32_t size) {
    std::vector<std::byte> all;
    for (std::uint32_t got = size; got == size;) {
      const auto reply = read_data(peer, size);
      if (!reply || reply->error() != 0) return {};
      got = reply->at<spec::MigrationData>().size;
      EXPECT_EQ(reply->at<spec::MigrationData>().argsz, 8 + got);
      EXPECT_EQ(reply->payload.size(), 8U + got);
      const Bytes piece = reply->data(8);
      all.insert(all.end(), piece.begin(), piece.end());
    }
    return all;
  }
  int write_data(Peer& peer, Bytes data) {
    auto payload = joined(spec::MigrationData{.argsz = static_cast<std::uint32_t>(8 + data.size()),
                                              .size = static_cast<std::uint32_t>(data.size())});
    payload.insert(payload.end(), data.begin(), data.end());
    return error_of(peer, Command::mig_data_write, payload);
  }
};

TEST_F(ServerMigration, OffersStopCopyAndPreCopy) {
  Peer peer = client();
  const auto reply = feature(peer, flag::get | id::migration);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->payload.size(), 16U);
  EXPECT_EQ(reply->at<abi::DeviceFeature>().argsz, 16U);
  EXPECT_EQ(reply->at<abi::DeviceFeature>().flags, flag::get | id::migration);
  EXPECT_EQ(reply->at<abi::Migration>(8).flags, abi::migration_flag::stop_copy | abi::migration_flag::pre_copy);
}

TEST_F(ServerMigration, ProbesSucceedForWhatThereIs) {
  Peer peer = client();
  for (const std::uint32_t offered :
       {flag::get | id::migration, flag::get | id::mig_device_state, flag::set | id::mig_device_state,
        flag::get | flag::set | id::mig_device_state, flag::set | id::dma_logging_start,
        flag::set | id::dma_logging_stop, flag::get | id::dma_logging_report, id::migration}) {
    const auto reply = feature(peer, flag::probe | offered);
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->error(), 0) << offered;
    EXPECT_EQ(reply->payload, joined(abi::DeviceFeature{.argsz = roomy, .flags = flag::probe | offered}));
  }
  EXPECT_EQ(state(peer), running) << "a probe changes nothing";
}

TEST_F(ServerMigration, VU57_WhatThereIsNotOrMakesNoSenseIsRefused) {
  Peer peer = client();
  for (const std::uint32_t unknown :
       {flag::get | 0U, flag::get | 3U, flag::get | 9U, flag::get | 0xffffU, flag::set | id::migration,
        flag::get | id::dma_logging_start, flag::get | id::dma_logging_stop, flag::set | id::dma_logging_report}) {
    EXPECT_EQ(feature_error(peer, unknown), ENOTTY) << unknown;
    EXPECT_EQ(feature_error(peer, flag::probe | unknown), ENOTTY) << unknown;
  }
  EXPECT_EQ(feature_error(peer, flag::probe | flag::get | flag::set | id::migration), ENOTTY);
  EXPECT_EQ(feature_error(peer, flag::get | flag::set | id::mig_device_state), EINVAL);
  EXPECT_EQ(feature_error(peer, id::migration), EINVAL) << "no method";
  EXPECT_EQ(feature_error(peer, flag::get | id::migration | 1U << 19), EINVAL) << "an unknown flag";
  const auto request = joined(abi::DeviceFeature{.argsz = 8, .flags = flag::get | id::migration});
  for (std::size_t size = 0; size < 8; ++size)
    EXPECT_EQ(error_of(peer, Command::device_feature, Bytes(request).first(size)), EINVAL);
  EXPECT_EQ(error_of(peer, Command::device_feature, joined(abi::DeviceFeature{.argsz = 7, .flags = flag::get | 1U})),
            EINVAL);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerMigration, AFunctionThatCannotBeMovedHasNoneOfTheCommands) {
  server_.reset();
  serve();
  Peer peer = client();
  EXPECT_EQ(feature_error(peer, flag::probe | flag::get | id::migration), ENOTSUP);
  EXPECT_EQ(read_data(peer, 1)->error(), ENOTSUP);
  EXPECT_EQ(write_data(peer, {}), ENOTSUP);
}

// States.

TEST_F(ServerMigration, StopsTheFunctionAndLetsItRun) {
  Peer peer = client();
  EXPECT_EQ(state(peer), running);
  EXPECT_EQ(set_state(peer, stop), 0);
  EXPECT_TRUE(function().is_stopped());
  EXPECT_EQ(set_state(peer, stop), 0) << "it is there";
  EXPECT_EQ(state(peer), stop);
  EXPECT_EQ(set_state(peer, running), 0);
  EXPECT_FALSE(function().is_stopped());
}

TEST_F(ServerMigration, GoesEveryWayThatThereIs) {
  Peer peer = client();
  // A state that can be loaded, for the ways out of RESUMING.
  ASSERT_EQ(set_state(peer, stop_copy), 0);
  const auto saved = read_all(peer, 65536);
  for (const MigrationState from : {stop, running, stop_copy, resuming, pre_copy}) {
    for (const MigrationState to : {stop, running, stop_copy, resuming, pre_copy}) {
      ASSERT_EQ(error_of(peer, Command::device_reset), 0);
      ASSERT_EQ(set_state(peer, from), 0);
      if (from == resuming) {
        EXPECT_EQ(write_data(peer, saved), 0);
      }
      const bool refused = from == stop_copy && to == pre_copy;
      EXPECT_EQ(set_state(peer, to), refused ? EINVAL : 0);
      EXPECT_EQ(state(peer), refused ? from : to);
      EXPECT_EQ(function().is_stopped(), !(state(peer) == running || state(peer) == pre_copy));
    }
  }
}

TEST_F(ServerMigration, VU58_AStateThatCannotBeIsRefusedAndNothingHasChanged) {
  Peer peer = client();
  for (const std::uint32_t wrong : {0U, 5U, 7U, 8U, 0xffffffffU})
    EXPECT_EQ(set_state(peer, MigrationState{wrong}), EINVAL) << wrong;
  const auto request = set_state_request(stop);
  for (std::size_t size = 8; size < request.size(); ++size)
    EXPECT_EQ(error_of(peer, Command::device_feature, Bytes(request).first(size)), EINVAL);
  auto small = request;
  small[0] = std::byte{15};
  EXPECT_EQ(error_of(peer, Command::device_feature, small), EINVAL) << "argsz";
  EXPECT_EQ(state(peer), running);
  EXPECT_FALSE(function().is_stopped());
}

TEST_F(ServerMigration, AResetEndsEveryState) {
  Peer peer = client();
  for (const MigrationState from : {stop, stop_copy, resuming, pre_copy}) {
    ASSERT_EQ(set_state(peer, from), 0);
    EXPECT_EQ(error_of(peer, Command::device_reset), 0);
    EXPECT_EQ(state(peer), running);
    EXPECT_FALSE(function().is_stopped());
  }
}

TEST_F(ServerMigration, SoDoesAResetOfTheDriver) {
  Peer peer = client();
  ASSERT_EQ(set_state(peer, stop_copy), 0);
  function().reset([](const Status&) {});
  pump();
  EXPECT_EQ(state(peer), running);
  EXPECT_EQ(read_data(peer, 1)->error(), EINVAL);
}

TEST_F(ServerMigration, AStateThatWasRefusedLeavesTheErrorState) {
  Peer peer = client();
  ASSERT_EQ(set_state(peer, resuming), 0);
  EXPECT_EQ(write_data(peer, joined(std::uint64_t{7})), 0);
  EXPECT_EQ(set_state(peer, running), EINVAL);
  EXPECT_EQ(state(peer), error);
  for (const MigrationState to : {error, stop, running, stop_copy, resuming, pre_copy})
    EXPECT_EQ(set_state(peer, to), EINVAL);
  EXPECT_EQ(error_of(peer, Command::device_reset), 0);
  EXPECT_EQ(state(peer), running);
}

TEST_F(ServerMigration, AFunctionThatDoesNotRunStaysStopped) {
  Peer peer = client();
  ASSERT_EQ(set_state(peer, stop), 0);
  function().run_result = Error(EIO, "no memory");
  EXPECT_EQ(set_state(peer, pre_copy), EIO);
  EXPECT_EQ(state(peer), stop);
  function().run_result = {};
  EXPECT_EQ(set_state(peer, running), 0);
}

TEST_F(ServerMigration, ALateStopIsAnsweredInTimeAndTheStateIsToldWhenItHasEnded) {
  serve_migratable({.slow_stop = true});
  Peer peer = client();
  peer.send(Command::device_feature, set_state_request(stop));
  pump();
  EXPECT_FALSE(peer.receive()) << "it is answered when it has ended";
  loop_.advance(std::chrono::seconds(3));
  const auto late = peer.receive();
  ASSERT_TRUE(late);
  EXPECT_EQ(late->error(), ETIMEDOUT);
  EXPECT_EQ(set_state(peer, running), EBUSY);
  EXPECT_EQ(error_of(peer, Command::device_reset), EBUSY);
  function().finish_stop();
  pump();
  EXPECT_EQ(state(peer), stop);
  EXPECT_EQ(function().late_unmaps, 0U) << "it was no unmap";
}

TEST_F(ServerMigration, AStopThatFailsLeavesTheFunctionRunning) {
  serve_migratable({.slow_stop = true});
  Peer peer = client();
  for (const MigrationState from : {running, pre_copy}) {
    ASSERT_EQ(set_state(peer, from), 0);
    peer.send(Command::device_feature, set_state_request(stop_copy));
    pump();
    function().finish_stop(Error(ETIMEDOUT, "requests are late"));
    pump();
    EXPECT_EQ(peer.receive()->error(), ETIMEDOUT);
    EXPECT_EQ(state(peer), from);
  }
}

TEST_F(ServerMigration, TheNextClientFindsItRunning) {
  for (const MigrationState left : {stop, stop_copy, resuming, pre_copy}) {
    Peer peer = client();
    ASSERT_EQ(set_state(peer, left), 0);
    peer.close();
    pump();
    Peer next = client();
    EXPECT_EQ(state(next), running);
    EXPECT_FALSE(function().is_stopped());
    next.close();
    pump();
  }
}

TEST_F(ServerMigration, AClientThatLeavesDuringAStopIsReleasedAfterIt) {
  serve_migratable({.slow_stop = true});
  Peer peer = client();
  peer.send(Command::device_feature, set_state_request(stop));
  pump();
  peer.close();
  pump();
  function().finish_stop();
  pump();
  Peer next = client();
  EXPECT_TRUE(alive(next));
  EXPECT_EQ(state(next), running);
}

// Data.

TEST_F(ServerMigration, MovesWhatTheDriverSees) {
  Peer peer = client();
  enable(peer);
  write_register(peer, PlainFunction::area_at + 4, 0xabcd);
  ASSERT_EQ(set_state(peer, stop_copy), 0);
  const auto saved = read_all(peer, 1000);
  EXPECT_EQ(read_data(peer, 1000)->at<spec::MigrationData>().size, 0U) << "there is no more";
  ASSERT_EQ(error_of(peer, Command::device_reset), 0);
  write_register(peer, PlainFunction::area_at + 4, 0);

  ASSERT_EQ(set_state(peer, resuming), 0);
  for (std::size_t at = 0; at < saved.size(); at += 777)
    ASSERT_EQ(write_data(peer, Bytes(saved).subspan(at, std::min<std::size_t>(777, saved.size() - at))), 0);
  ASSERT_EQ(set_state(peer, running), 0);
  EXPECT_EQ(read_register(peer, PlainFunction::area_at + 4), 0xabcdU);
}

TEST_F(ServerMigration, HasNoDataBeforeItIsStopped) {
  Peer peer = client();
  ASSERT_EQ(set_state(peer, pre_copy), 0);
  EXPECT_EQ(read_all(peer, 64), std::vector<std::byte>{});
  ASSERT_EQ(set_state(peer, stop_copy), 0);
  EXPECT_FALSE(read_all(peer, 64).empty());
}

TEST_F(ServerMigration, TakesAStateWithPaddingBehindEachPiece) {
  Peer peer = client();
  ASSERT_EQ(set_state(peer, stop_copy), 0);
  const auto saved = read_all(peer, 65536);
  ASSERT_EQ(set_state(peer, resuming), 0);
  for (std::size_t at = 0; at < saved.size(); at += 4096) {
    const Bytes piece = Bytes(saved).subspan(at, std::min<std::size_t>(4096, saved.size() - at));
    auto payload =
        joined(spec::MigrationData{.argsz = 8 + 4096 + 64, .size = static_cast<std::uint32_t>(piece.size())});
    payload.insert(payload.end(), piece.begin(), piece.end());
    payload.resize(8 + 4096 + 64, std::byte{0xee});
    ASSERT_EQ(error_of(peer, Command::mig_data_write, payload), 0);
  }
  EXPECT_EQ(set_state(peer, running), 0);
}

TEST_F(ServerMigration, VU60_DataInTheWrongStateOrTooManyAreRefused) {
  Peer peer = client();
  for (const MigrationState wrong : {running, stop, resuming}) {
    ASSERT_EQ(set_state(peer, wrong), 0);
    EXPECT_EQ(read_data(peer, 8)->error(), EINVAL);
  }
  ASSERT_EQ(error_of(peer, Command::device_reset), 0);
  for (const MigrationState wrong : {running, stop, stop_copy}) {
    ASSERT_EQ(set_state(peer, wrong), 0);
    EXPECT_EQ(write_data(peer, joined(std::uint64_t{1})), EINVAL);
  }
  EXPECT_EQ(read_data(peer, 1048577)->error(), EINVAL);
  EXPECT_EQ(error_of(peer, Command::mig_data_read, joined(spec::MigrationData{.argsz = 15, .size = 8})), EINVAL);
  EXPECT_EQ(error_of(peer, Command::mig_data_read, joined(std::uint32_t{16})), EINVAL);
  ASSERT_EQ(error_of(peer, Command::device_reset), 0);
  ASSERT_EQ(set_state(peer, resuming), 0);
  for (const auto& [argsz, size] : {std::pair{16U, 9U}, {15U, 8U}, {7U, 0U}, {0xffffffffU, 0xffffffffU}}) {
    EXPECT_EQ(error_of(peer, Command::mig_data_write,
                       joined(spec::MigrationData{.argsz = argsz, .size = size}, std::uint64_t{0})),
              EINVAL);
  }
  EXPECT_EQ(error_of(peer, Command::mig_data_write, joined(std::uint32_t{8})), EINVAL);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerMigration, KeepsNoMoreThanAStateCanHave) {
  Peer peer = client();
  ASSERT_EQ(set_state(peer, resuming), 0);
  const std::vector<std::byte> piece(65536);
  for (std::size_t size = 0; size < StateWriter::max_size; size += piece.size()) ASSERT_EQ(write_data(peer, piece), 0);
  EXPECT_EQ(write_data(peer, joined(std::uint8_t{0})), EFBIG);
  EXPECT_EQ(set_state(peer, stop), EINVAL);
}

TEST_F(ServerMigration, RefusesAStateThatIsCutAnywhere) {
  Peer peer = client();
  ASSERT_EQ(set_state(peer, stop_copy), 0);
  const auto saved = read_all(peer, 65536);
  for (std::size_t size = 0; size < saved.size(); size += size < 4400 ? 61 : 4099) {
    ASSERT_EQ(error_of(peer, Command::device_reset), 0);
    ASSERT_EQ(set_state(peer, resuming), 0);
    ASSERT_EQ(write_data(peer, Bytes(saved).first(size)), 0);
    ASSERT_EQ(set_state(peer, stop), EINVAL) << size;
    ASSERT_EQ(state(peer), error);
  }
}

// The log of written memory.

class ServerDirtyLog : public ServerMigration {
 protected:
  static abi::DmaLoggingControl control(std::uint64_t page_size, std::uint32_t ranges = 0) {
    return {.page_size = page_size, .num_ranges = ranges, .reserved = 0};
  }
  std::optional<Message> report(Peer& peer, std::uint64_t iova, std::uint64_t length, std::uint64_t page_size = 4096) {
    return feature(peer, flag::get | id::dma_logging_report,
                   abi::DmaLoggingReport{.iova = iova, .length = length, .page_size = page_size});
  }
  int report_error(Peer& peer, std::uint64_t iova, std::uint64_t length, std::uint64_t page_size = 4096) {
    const auto reply = report(peer, iova, length, page_size);
    return reply ? reply->error() : -1;
  }
  /// Lets the function write into its client's memory.
  void write_memory(Peer& peer) {
    const UniqueFd file = testing::make_sealed_memfd(0x4000);
    const spec::DmaMap map{.argsz = 32, .flags = 3, .offset = 0, .address = 0x10000, .size = 0x4000};
    ASSERT_EQ(error_of(peer, Command::dma_map, joined(map), {.fds = {file.get()}}), 0);
    enable(peer);
    write_register(peer, PlainFunction::dma_address_at, 0x12ffe);
    write_register(peer, PlainFunction::dma_length_at, 4);
    write_register(peer, PlainFunction::dma_command_at, PlainFunction::dma_to_memory);
    pump();
    ASSERT_EQ(read_register(peer, PlainFunction::dma_status_at), PlainFunction::dma_done);
  }
};

TEST_F(ServerDirtyLog, ReportsWhatTheFunctionHasWritten) {
  Peer peer = client();
  const auto started = feature(peer, flag::set | id::dma_logging_start, control(UINT64_C(2) << 20));
  ASSERT_TRUE(started);
  EXPECT_EQ(started->error(), 0);
  EXPECT_EQ(started->at<abi::DmaLoggingControl>(8).page_size, 4096U) << "what is noted";
  write_memory(peer);
  const auto reply = report(peer, 0x10000, 0x4000);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->payload.size(), 8U + 24 + 8);
  EXPECT_EQ(reply->at<abi::DeviceFeature>().argsz, 40U);
  EXPECT_EQ(reply->at<abi::DmaLoggingReport>(8).iova, 0x10000U);
  EXPECT_EQ(reply->at<std::uint64_t>(32), 0b1100U);
  EXPECT_EQ(report(peer, 0x10000, 0x4000)->at<std::uint64_t>(32), 0U) << "once";
  EXPECT_EQ(feature_error(peer, flag::set | id::dma_logging_stop), 0);
  EXPECT_EQ(report_error(peer, 0x10000, 0x4000), EINVAL);
}

TEST_F(ServerDirtyLog, ReportsOnlyTheRangesThatWereAskedFor) {
  Peer peer = client();
  EXPECT_EQ(feature_error(peer, flag::set | id::dma_logging_start, control(4096, 1),
                          abi::DmaLoggingRange{.iova = 0x10000, .length = 0x4000}),
            0);
  EXPECT_EQ(report_error(peer, 0x10000, 0x4000), 0);
  EXPECT_EQ(report_error(peer, 0x14000, 0x1000), EINVAL);
}

TEST_F(ServerDirtyLog, VU59_AStartThatMakesNoSenseIsRefused) {
  Peer peer = client();
  const std::uint32_t start = flag::set | id::dma_logging_start;
  EXPECT_EQ(feature_error(peer, start), EINVAL);
  EXPECT_EQ(feature_error(peer, start, std::uint64_t{4096}), EINVAL);
  EXPECT_EQ(feature_error(peer, start, control(0)), EINVAL);
  EXPECT_EQ(feature_error(peer, start, control(4097)), EINVAL);
  EXPECT_EQ(feature_error(peer, start, control(4096, 1)), EINVAL) << "without the range";
  EXPECT_EQ(feature_error(peer, start, control(4096, 0xffffffff), std::uint64_t{0}), EINVAL);
  EXPECT_EQ(feature_error(peer, start, control(4096, 1), abi::DmaLoggingRange{.iova = 0, .length = 0}), EINVAL);
  EXPECT_EQ(feature_error(peer, start, control(4096)), 0);
  EXPECT_EQ(feature_error(peer, start, control(4096)), EEXIST);
}

TEST_F(ServerDirtyLog, VU59_AReportThatMakesNoSenseIsRefused) {
  Peer peer = client();
  ASSERT_EQ(feature_error(peer, flag::set | id::dma_logging_start, control(4096)), 0);
  EXPECT_EQ(report_error(peer, 0, 0x4000, 0), EINVAL);
  EXPECT_EQ(report_error(peer, 0, 0x4000, 4095), EINVAL);
  EXPECT_EQ(report_error(peer, 0, 0x4000, 2048), EINVAL);
  EXPECT_EQ(report_error(peer, 0, 0), EINVAL);
  EXPECT_EQ(report_error(peer, UINT64_MAX - 4095, 8192), EINVAL);
  EXPECT_EQ(report_error(peer, 0, UINT64_MAX), EINVAL) << "no message has such a bitmap";
  EXPECT_EQ(report_error(peer, 0, UINT64_C(65536) * 8 * 4096), 0);
  EXPECT_EQ(report_error(peer, 0, (UINT64_C(1) << 20) * 8 * 4096 + 1), EINVAL);
  EXPECT_EQ(report_error(peer, 0, UINT64_MAX, UINT64_C(1) << 62), 0);
  EXPECT_EQ(feature_error(peer, flag::get | id::dma_logging_report, std::uint64_t{0}), EINVAL);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerDirtyLog, IsOfTheClientThatBeganIt) {
  Peer peer = client();
  ASSERT_EQ(feature_error(peer, flag::set | id::dma_logging_start, control(4096)), 0);
  peer.close();
  pump();
  Peer next = client();
  EXPECT_EQ(report_error(next, 0, 0x4000), EINVAL);
}

}  // namespace
}  // namespace outboard::vfio_user
