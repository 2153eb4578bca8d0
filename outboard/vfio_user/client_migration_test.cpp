// A client that asks a server to move its function, and what a server can answer.

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include <tests/support/vfio_user_client_fixture.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
namespace flag = abi::device_feature_flag;
namespace id = abi::device_feature;
using pci::MigrationState;
using testing::joined;

class ClientMigrationTest : public testing::VfioUserClientTest {
 protected:
  void SetUp() override { connect(); }

  template <typename... Parts>
  void reply_feature(std::uint32_t flags, const Parts&... parts) {
    auto payload = joined(abi::DeviceFeature{.argsz = 0, .flags = flags}, parts...);
    const auto size = static_cast<std::uint32_t>(payload.size());
    std::memcpy(payload.data(), &size, sizeof size);
    reply(Command::device_feature, next_id_++, payload);
  }
  void reply_feature_error(int error) {
    reply_error(Command::device_feature, next_id_++, static_cast<std::uint32_t>(error));
  }
  void reply_data(std::uint32_t size, const std::vector<std::byte>& data) {
    auto payload = joined(spec::MigrationData{.argsz = 8 + size, .size = size});
    payload.insert(payload.end(), data.begin(), data.end());
    reply(Command::mig_data_read, next_id_++, payload);
  }
  pci::Migration& migration() { return *client_->migration(); }
};

TEST_F(ClientMigrationTest, KnowsWhatTheServerOffers) {
  reply_feature(flag::get | id::migration, abi::Migration{.flags = abi::migration_flag::stop_copy});
  auto plain = migration().support();
  ASSERT_TRUE(plain);
  EXPECT_FALSE(plain->pre_copy);
  EXPECT_FALSE(plain->p2p);
  reply_feature(flag::get | id::migration, abi::Migration{.flags = 7});
  auto all = migration().support();
  ASSERT_TRUE(all);
  EXPECT_TRUE(all->pre_copy);
  EXPECT_TRUE(all->p2p);
}

/// Servers without migration say so in different ways.
TEST_F(ClientMigrationTest, AServerThatCannotMoveItsFunctionIsNoFault) {
  for (const int error : {ENOTTY, ENOTSUP, ENOSYS, EINVAL}) {
    reply_feature_error(error);
    EXPECT_EQ(error_of(migration().support()), ENOTSUP) << error;
  }
  reply_feature(flag::get | id::migration, abi::Migration{.flags = abi::migration_flag::pre_copy});
  EXPECT_EQ(error_of(migration().support()), ENOTSUP) << "STOP_COPY is what all others need";
  EXPECT_TRUE(alive());
}

TEST_F(ClientMigrationTest, StatesAreSetAndRead) {
  reply_feature(flag::set | id::mig_device_state, abi::MigrationDeviceState{.device_state = 1, .data_fd = 0});
  EXPECT_TRUE(migration().set_state(MigrationState::stop));
  const auto request = server_.receive();
  ASSERT_TRUE(request);
  EXPECT_EQ(request->at<abi::DeviceFeature>().argsz, 16U);
  EXPECT_EQ(request->at<abi::DeviceFeature>().flags, flag::set | id::mig_device_state);
  EXPECT_EQ(request->at<abi::MigrationDeviceState>(8).device_state, 1U);
  reply_feature(flag::get | id::mig_device_state, abi::MigrationDeviceState{.device_state = 3, .data_fd = 0});
  EXPECT_EQ(migration().state().value(), MigrationState::stop_copy);
  reply_feature(flag::get | id::mig_device_state, abi::MigrationDeviceState{.device_state = 8, .data_fd = 0});
  EXPECT_EQ(error_of(migration().state()), EPROTO);
  EXPECT_TRUE(alive());
}

TEST_F(ClientMigrationTest, DataMayBePaddedButNotMoreThanTheyAre) {
  std::vector<std::byte> into(8);
  reply_data(3, {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{9}, std::byte{9}, std::byte{9}, std::byte{9},
                 std::byte{9}});
  EXPECT_EQ(migration().read(into).value(), 3U);
  EXPECT_EQ(into[2], std::byte{3});
  EXPECT_EQ(into[3], std::byte{0}) << "padding is no data";
  reply_data(8, std::vector<std::byte>(7));
  EXPECT_EQ(error_of(migration().read(into)), EPROTO) << "fewer bytes than it says";
  reply_data(9, std::vector<std::byte>(8));
  EXPECT_EQ(error_of(migration().read(into)), EPROTO) << "more than was asked for";
  EXPECT_TRUE(alive());
}

TEST_F(ClientMigrationTest, AWriteHasRoomForItsDataInArgsz) {
  reply(Command::mig_data_write, next_id_++, {});
  EXPECT_TRUE(migration().write(std::vector<std::byte>(5)));
  const auto request = server_.receive();
  ASSERT_TRUE(request);
  EXPECT_EQ(request->at<spec::MigrationData>().argsz, 13U) << "libvfio-user wants it";
  EXPECT_EQ(request->at<spec::MigrationData>().size, 5U);
  EXPECT_EQ(request->payload.size(), 13U);
}

TEST_F(ClientMigrationTest, TheServerChoosesThePagesThatItNotes) {
  reply_feature(flag::set | id::dma_logging_start,
                abi::DmaLoggingControl{.page_size = 65536, .num_ranges = 0, .reserved = 0});
  EXPECT_EQ(migration().start_dirty_log(4096, {}).value(), 65536U);
  reply_feature(flag::set | id::dma_logging_start,
                abi::DmaLoggingControl{.page_size = 3, .num_ranges = 0, .reserved = 0});
  EXPECT_EQ(error_of(migration().start_dirty_log(4096, {})), EPROTO);
  for (const std::uint64_t size : {UINT64_C(0), UINT64_C(1), UINT64_C(256), UINT64_C(1) << 31, UINT64_C(1) << 63}) {
    reply_feature(flag::set | id::dma_logging_start,
                  abi::DmaLoggingControl{.page_size = size, .num_ranges = 0, .reserved = 0});
    EXPECT_EQ(error_of(migration().start_dirty_log(4096, {})), EPROTO) << size;
  }
  reply_feature_error(ENOTTY);
  EXPECT_EQ(error_of(migration().start_dirty_log(4096, {})), ENOTSUP);
  reply_feature_error(ENOSPC);
  EXPECT_EQ(error_of(migration().start_dirty_log(4096, {})), ENOSPC);
  EXPECT_TRUE(alive());
}

TEST_F(ClientMigrationTest, AReportHasItsBitmap) {
  std::vector<std::byte> bitmap(8, std::byte{0xcc});
  const memory::IovaRange range{memory::Iova{0x10000}, 0x3000};
  reply_feature(flag::get | id::dma_logging_report,
                abi::DmaLoggingReport{.iova = 0x10000, .length = 0x3000, .page_size = 4096}, std::uint64_t{5});
  EXPECT_TRUE(migration().report_dirty(range, 4096, bitmap));
  EXPECT_EQ(bitmap[0], std::byte{5});
  const auto request = server_.receive();
  ASSERT_TRUE(request);
  EXPECT_EQ(request->at<abi::DeviceFeature>().argsz, 40U);
  EXPECT_EQ(request->at<abi::DmaLoggingReport>(8).length, 0x3000U);
  reply_feature(flag::get | id::dma_logging_report,
                abi::DmaLoggingReport{.iova = 0x10000, .length = 0x3000, .page_size = 4096});
  EXPECT_EQ(error_of(migration().report_dirty(range, 4096, bitmap)), EPROTO) << "without a bitmap";
}

/// Whatever is wrong with a reply is the reply's fault: the call fails, and the connection goes on where it can.
TEST_F(ClientMigrationTest, AReplyForAnotherFeatureIsRefused) {
  reply_feature(flag::get | id::mig_device_state, abi::Migration{.flags = 1});
  EXPECT_EQ(error_of(migration().support()), EPROTO);
  EXPECT_TRUE(alive());
}

TEST_F(ClientMigrationTest, AReplyThatIsTooShortIsRefused) {
  reply(Command::device_feature, next_id_++,
        joined(abi::DeviceFeature{.argsz = 8, .flags = flag::get | id::migration}));
  EXPECT_EQ(error_of(migration().support()), EPROTO);
}

}  // namespace
}  // namespace outboard::vfio_user
