// A block device made from words, as `serve blk` and `local:blk,...` make it.

#include <outboard/devices/blk/registration.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/devices/blk/layout.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/testing/temp_dir.hpp>

namespace outboard::blk {
namespace {

using ::testing::HasSubstr;

class BlkFromWords : public ::testing::Test {
 protected:
  Result<std::unique_ptr<virtio::Device>> make(const std::string& text) {
    OUTBOARD_TRY(auto words, OptionSet::parse(text));
    return registration.make(words, loop, Log());
  }
  Error refused(const std::string& text) {
    auto made = make(text);
    EXPECT_FALSE(made) << text;
    return made ? Error(EIO) : made.error();
  }
  testing::ManualLoop loop;
  testing::TempDir dir;
};

TEST_F(BlkFromWords, Ram) {
  const auto device = make("ram,size=64M,queues=2,queue-size=128");
  ASSERT_TRUE(device) << device.error().message();
  EXPECT_EQ((*device)->identity().device_id, device_id);
  EXPECT_EQ((*device)->identity().queue_sizes, (std::vector<std::uint16_t>{128, 128}));
  EXPECT_THAT((*device)->description(), HasSubstr("ram, 67108864 bytes"));
}

TEST_F(BlkFromWords, NullReadOnly) {
  const auto device = make("null,size=1G,read-only");
  ASSERT_TRUE(device) << device.error().message();
  EXPECT_TRUE((*device)->identity().features.has(feature::ro));
}

TEST_F(BlkFromWords, AnImageOnTheEngineThatIsNamed) {
  static_cast<void>(dir.make_file("disk.raw", 1 << 20));
  const auto device = make("image=" + dir.path("disk.raw") + ",engine=pool,serial=abc");
  ASSERT_TRUE(device) << device.error().message();
  EXPECT_THAT((*device)->description(), HasSubstr("threads"));
}

TEST_F(BlkFromWords, NothingBehindTheDiskIsRefusedWithWhatThereIs) {
  EXPECT_THAT(refused("queues=2").cure(), HasSubstr("image=FILE"));
  EXPECT_THAT(refused("ram,null,size=1M").message(), HasSubstr("one backing storage"));
}

TEST_F(BlkFromWords, ASizeIsNeededAndMustBeWholeSectors) {
  EXPECT_THAT(refused("ram").cure(), HasSubstr("size=64M"));
  EXPECT_THAT(refused("null,size=1000").cure(), HasSubstr("1024"));
}

TEST_F(BlkFromWords, WordsThatAreUnknownOrDoNotGoTogetherAreRefused) {
  EXPECT_THAT(refused("ram,size=1M,imgae=x").message(), HasSubstr("imgae: there is no such option"));
  EXPECT_THAT(refused("ram,size=1M,direct").message(), HasSubstr("direct: does not go with"));
  EXPECT_THAT(refused("ram,size=1M,queues=0").message(), HasSubstr("queues: 0 is not between 1 and 256"));
  EXPECT_THAT(refused("ram,size=1M,queue-size=100").message(), HasSubstr("queue-size: 100 is not a power of two"));
  EXPECT_EQ(refused("ram,size=1M,serial=123456789012345678901").subject(), "serial");
}

TEST_F(BlkFromWords, AnImageThatIsNotThereSaysSo) {
  EXPECT_THAT(refused("image=" + dir.path("none")).message(), HasSubstr("there is no such image"));
}

}  // namespace
}  // namespace outboard::blk
