// A block device made from options, as `serve blk` and `local:blk,...` make it.

#include <outboard/devices/blk/registration.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/devices/blk/layout.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::blk {
namespace {

using ::testing::HasSubstr;

class BlkFromOptions : public ::testing::Test {
 protected:
  Result<std::unique_ptr<virtio::Device>> make(const std::string& text) {
    OUTBOARD_TRY(auto set, OptionSet::parse(text));
    return registration.make(set, loop, Log());
  }
  Error refused(const std::string& text) {
    auto made = make(text);
    EXPECT_FALSE(made) << text;
    return made ? Error(EIO) : made.error();
  }
  testing::ManualLoop loop;
  testing::TempDir dir;
};

TEST_F(BlkFromOptions, Ram) {
  const auto device = make("ram,size=64M,queues=2,queue-size=128");
  ASSERT_TRUE(device) << device.error().message();
  EXPECT_EQ((*device)->identity().device_id, device_id);
  EXPECT_EQ((*device)->identity().queue_sizes, (std::vector<std::uint16_t>{128, 128}));
  EXPECT_THAT((*device)->description(), HasSubstr("ram, 67108864 bytes"));
}

TEST_F(BlkFromOptions, NullReadOnly) {
  const auto device = make("null,size=1G,read-only");
  ASSERT_TRUE(device) << device.error().message();
  EXPECT_TRUE((*device)->identity().features.has(feature::ro));
}

TEST_F(BlkFromOptions, AnImageOnTheEngineThatIsNamed) {
  static_cast<void>(dir.make_file("disk.raw", 1 << 20));
  const auto device = make("image=" + dir.path("disk.raw") + ",engine=pool,serial=abc");
  ASSERT_TRUE(device) << device.error().message();
  EXPECT_THAT((*device)->description(), HasSubstr("threads"));
}

TEST_F(BlkFromOptions, NothingBehindTheDiskIsRefusedWithWhatThereIs) {
  EXPECT_THAT(refused("queues=2").cure(), HasSubstr("image=FILE"));
  EXPECT_THAT(refused("ram,null,size=1M").message(), HasSubstr("one backing storage"));
}

TEST_F(BlkFromOptions, ASizeIsNeededAndMustBeWholeSectors) {
  EXPECT_THAT(refused("ram").cure(), HasSubstr("size=64M"));
  EXPECT_THAT(refused("null,size=1000").cure(), HasSubstr("1024"));
}

TEST_F(BlkFromOptions, UnknownAndConflictingOptionsAreRefused) {
  EXPECT_THAT(refused("ram,size=1M,imgae=x").message(), HasSubstr("imgae: unknown option"));
  EXPECT_THAT(refused("ram,size=1M,direct").message(), HasSubstr("direct: has no use beside ram, size"));
  EXPECT_THAT(refused("ram,size=1M,queues=0").message(), HasSubstr("queues: 0 is not between 1 and 256"));
  EXPECT_THAT(refused("ram,size=1M,queue-size=100").message(), HasSubstr("queue-size: 100 is not a power of two"));
  EXPECT_EQ(refused("ram,size=1M,serial=123456789012345678901").subject(), "serial");
}

TEST_F(BlkFromOptions, AnImageThatIsNotThereSaysSo) {
  EXPECT_THAT(refused("image=" + dir.path("none")).message(), HasSubstr("there is no such image"));
}

}  // namespace
}  // namespace outboard::blk
