// Moving a function by the kernel's VFIO: its device features, against a strict kernel.

#include <outboard/vfio/internal/migration.hpp>

#include <algorithm>
#include <array>

#include <tests/support/vfio_handle_fixture.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;
namespace id = abi::device_feature;
namespace flag = abi::device_feature_flag;
using memory::Iova;
using memory::IovaRange;
using pci::MigrationState;
using ::testing::Each;
using testing::FakeVfioMigration;
using ::testing::HasSubstr;

std::vector<std::byte> numbered(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7);
  return bytes;
}

class KernelMigration : public testing::VfioHandleTest {
 protected:
  void open_movable(FakeVfioMigration::Options options = {}) {
    add({.migration = options});
    open();
    ASSERT_NE(handle_->migration(), nullptr);
  }
  pci::Migration& migration() { return *handle_->migration(); }
  FakeVfioMigration& kernel_side() { return *device_->migration; }
  Status go(MigrationState state) { return migration().set_state(state); }
  int code_of(const Status& status) { return status ? 0 : status.error().code(); }
};

TEST_F(KernelMigration, AnOrdinaryFunctionHasNone) {
  add();
  open();
  EXPECT_EQ(handle_->migration(), nullptr);
}

TEST_F(KernelMigration, AnotherErrorOfTheKernelIsOneOfOpening) {
  add({.migration = FakeVfioMigration::Options{}});
  device_->failures[abi::DeviceRequest::feature] = {EIO};
  EXPECT_EQ(refusal().code(), EIO);
}

TEST_F(KernelMigration, SupportSaysWhatTheDriverHas) {
  open_movable({.pre_copy = true});
  const auto support = migration().support().value();
  EXPECT_TRUE(support.pre_copy);
  EXPECT_FALSE(support.p2p);
}

TEST_F(KernelMigration, AStateIsReadInPiecesUntilItEnds) {
  open_movable({.max_transfer = 7});
  kernel_side().saved = numbered(50);
  ASSERT_TRUE(go(MigrationState::stop_copy));
  std::vector<std::byte> got(40);
  EXPECT_EQ(migration().read(got).value(), 40u);
  EXPECT_TRUE(std::ranges::equal(got, Bytes(kernel_side().saved).first(40)));
  EXPECT_EQ(migration().read(got).value(), 10u);
  EXPECT_EQ(migration().read(got).value(), 0u);
}

TEST_F(KernelMigration, InPreCopyAReadEndsForNowAndGoesOnInStopCopyOnTheSameStream) {
  open_movable({.pre_copy = true});
  kernel_side().saved = numbered(50);
  kernel_side().available_early = 20;
  ASSERT_TRUE(go(MigrationState::pre_copy));
  std::vector<std::byte> got(50);
  EXPECT_EQ(migration().read(got).value(), 20u);
  EXPECT_EQ(migration().read(got).value(), 0u);
  ASSERT_TRUE(go(MigrationState::stop_copy));
  EXPECT_EQ(migration().read(got).value(), 30u);
  EXPECT_EQ(got.front(), kernel_side().saved[20]);
}

TEST_F(KernelMigration, AStateIsWrittenInPieces) {
  open_movable({.max_transfer = 7});
  ASSERT_TRUE(go(MigrationState::resuming));
  EXPECT_TRUE(migration().write(numbered(50)));
  EXPECT_EQ(kernel_side().loaded, numbered(50));
}

TEST_F(KernelMigration, WhereThereAreNoDataNoneAreReadOrWritten) {
  open_movable();
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(migration().read(bytes).error().code(), EINVAL);
  ASSERT_TRUE(go(MigrationState::stop_copy));
  ASSERT_TRUE(go(MigrationState::running));
  EXPECT_EQ(migration().read(bytes).error().code(), EINVAL);
  EXPECT_EQ(code_of(migration().write(bytes)), EINVAL);
}

TEST_F(KernelMigration, AChangeWithoutAWayLeavesTheStream) {
  open_movable({.pre_copy = true});
  kernel_side().saved = numbered(8);
  ASSERT_TRUE(go(MigrationState::stop_copy));
  EXPECT_EQ(code_of(go(MigrationState::pre_copy)), EINVAL);
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(migration().read(bytes).value(), 8u);
}

TEST_F(KernelMigration, AfterAnErrorOnlyAResetHelps) {
  open_movable();
  kernel_side().fails_after = MigrationState::stop;
  EXPECT_EQ(code_of(go(MigrationState::stop_copy)), EIO);
  EXPECT_EQ(migration().state().value(), MigrationState::error);
  EXPECT_EQ(code_of(go(MigrationState::running)), EINVAL);
  ASSERT_TRUE(handle_->reset());
  EXPECT_EQ(migration().state().value(), MigrationState::running);
}

TEST_F(KernelMigration, AResetEndsTheStream) {
  open_movable();
  ASSERT_TRUE(go(MigrationState::stop_copy));
  ASSERT_TRUE(handle_->reset());
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(migration().read(bytes).error().code(), EINVAL);
}

TEST_F(KernelMigration, ARevokedFunctionIsNotMoved) {
  open_movable();
  ASSERT_TRUE(go(MigrationState::stop_copy));
  handle_->revoke();
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(migration().read(bytes).error().code(), ENODEV);
  EXPECT_EQ(migration().state().error().code(), ENODEV);
}

// The log of dirty pages

TEST_F(KernelMigration, DirtyPagesAreReportedOnceAndTheBitmapIsOverwritten) {
  open_movable();
  const IovaRange range{Iova{0x10000}, 0x100000};
  EXPECT_EQ(migration().start_dirty_log(4096, std::array{range}).value(), 4096u);
  kernel_side().dirty = {0x10000, 0x13000, 0x10000 + 100 * 4096};
  std::array<std::byte, 32> bitmap;
  bitmap.fill(std::byte{0xff});
  ASSERT_TRUE(migration().report_dirty(range, 4096, bitmap));
  EXPECT_EQ(bitmap[0], std::byte{0x09});
  EXPECT_EQ(bitmap[12], std::byte{0x10});
  EXPECT_EQ(bitmap[31], std::byte{0});
  ASSERT_TRUE(migration().report_dirty(range, 4096, bitmap));
  EXPECT_THAT(bitmap, Each(std::byte{0}));
}

TEST_F(KernelMigration, TheKernelMayNoteLargerPages) {
  open_movable({.min_page = 65536});
  EXPECT_EQ(migration().start_dirty_log(4096, std::array{IovaRange{Iova{0}, 0x100000}}).value(), 65536u);
}

TEST_F(KernelMigration, ALogHas1To256Ranges) {
  open_movable();
  const auto none = migration().start_dirty_log(4096, {});
  EXPECT_EQ(none.error().code(), EINVAL);
  EXPECT_THAT(none.error().cure(), HasSubstr("ranges that are mapped"));
  std::vector<IovaRange> many;
  for (std::uint64_t i = 0; i < 257; ++i) many.push_back({Iova{i * 8192}, 4096});
  EXPECT_EQ(migration().start_dirty_log(4096, many).error().code(), E2BIG);
  many.pop_back();
  EXPECT_TRUE(migration().start_dirty_log(4096, many));
}

TEST_F(KernelMigration, ADriverWithoutALogSaysSo) {
  open_movable({.logs = false});
  EXPECT_EQ(migration().start_dirty_log(4096, std::array{IovaRange{Iova{0}, 4096}}).error().code(), ENOTSUP);
  EXPECT_TRUE(migration().stop_dirty_log());
}

TEST_F(KernelMigration, OddReportsAreRefused) {
  open_movable();
  const IovaRange range{Iova{0}, 0x40000};
  ASSERT_TRUE(migration().start_dirty_log(4096, std::array{range}));
  std::array<std::byte, 16> bitmap{};
  const MutableBytes word = MutableBytes(bitmap).first(8);
  EXPECT_EQ(code_of(migration().report_dirty(range, 4096, bitmap)), EINVAL) << "a word too many";
  EXPECT_EQ(code_of(migration().report_dirty(range, 4096, word.first(7))), EINVAL);
  EXPECT_EQ(code_of(migration().report_dirty(range, 2048, word)), EINVAL);
  EXPECT_EQ(code_of(migration().report_dirty(range, 12288, word)), EINVAL);
  EXPECT_EQ(code_of(migration().report_dirty({Iova{0}, 0x1001}, 4096, word)), EINVAL);
  ASSERT_TRUE(migration().stop_dirty_log());
  EXPECT_EQ(code_of(migration().report_dirty(range, 4096, word)), EINVAL) << "nothing is noted";
}

// What the strict kernel refuses, so that the tests above mean something

struct FeatureCall {
  const char* what;
  std::uint32_t flags;
  std::uint32_t argsz;
  int answer;
};

class FeatureRule : public KernelMigration, public ::testing::WithParamInterface<FeatureCall> {};

TEST_P(FeatureRule, IsKept) {
  add({.migration = FakeVfioMigration::Options{}});
  struct {
    abi::DeviceFeature head;
    std::array<std::uint64_t, 4> data;
  } call{.head = {.argsz = GetParam().argsz, .flags = GetParam().flags}, .data = {}};
  const int done =
      device_->ioctl(static_cast<unsigned long>(abi::DeviceRequest::feature), reinterpret_cast<std::uintptr_t>(&call));
  EXPECT_EQ(done, GetParam().answer) << GetParam().what;
}

INSTANTIATE_TEST_SUITE_P(
    Rows, FeatureRule,
    ::testing::Values(FeatureCall{"a head cut short", flag::get | id::migration, 7, -EINVAL},
                      FeatureCall{"data cut short", flag::get | id::migration, 15, -EINVAL},
                      FeatureCall{"whole", flag::get | id::migration, 16, 0},
                      FeatureCall{"a probe has no data", flag::probe | flag::get | id::migration, 8, 0},
                      FeatureCall{"get and set", flag::get | flag::set | id::mig_device_state, 16, -EINVAL},
                      FeatureCall{"both, probed", flag::probe | flag::get | flag::set | id::mig_device_state, 8, 0},
                      FeatureCall{"neither", id::mig_device_state, 16, -EINVAL},
                      FeatureCall{"an unknown flag", 1U << 19 | flag::get | id::migration, 16, -EINVAL},
                      FeatureCall{"set what can be got", flag::set | id::migration, 16, -EINVAL},
                      FeatureCall{"to ERROR", flag::set | id::mig_device_state, 16, -EINVAL},
                      FeatureCall{"a log of nothing", flag::set | id::dma_logging_start, 40, -EINVAL},
                      FeatureCall{"a log cut short", flag::set | id::dma_logging_start, 24, -EINVAL},
                      FeatureCall{"a report without a log", flag::get | id::dma_logging_report, 40, -EINVAL},
                      FeatureCall{"an unknown feature", flag::get | 99, 16, -ENOTTY}),
    [](const auto& row) {
      std::string name = row.param.what;
      std::erase_if(name, [](char c) { return c == ','; });
      std::ranges::replace(name, ' ', '_');
      return name;
    });

}  // namespace
}  // namespace outboard::vfio
