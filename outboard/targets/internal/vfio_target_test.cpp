#include <outboard/targets/internal/vfio_target.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/targets/target.hpp>

namespace outboard::targets {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string refusal(const std::string& target) {
  const auto opened = open(target);
  EXPECT_FALSE(opened) << target;
  return opened ? "" : opened.error().message() + "\n" + opened.error().cure();
}

TEST(VfioTarget, AnAddressIsWantedAsTheKernelWritesIt) {
  EXPECT_THAT(refusal("vfio:nvme0"), AllOf(HasSubstr("nvme0"), HasSubstr("0000:00:04.0")));
  EXPECT_THAT(refusal("vfio:"), HasSubstr("vfio:"));
}

TEST(VfioTarget, AFunctionThatIsNotThereIsNamedByItsTarget) {
  EXPECT_THAT(refusal("vfio:fffe:ff:1f.7"), AllOf(HasSubstr("vfio:fffe:ff:1f.7"), HasSubstr("no such PCI function")));
}

TEST(VfioTarget, WordsAreCheckedBeforeAnythingIsOpened) {
  EXPECT_THAT(refusal("vfio:fffe:ff:1f.7,interface=window"), AllOf(HasSubstr("'window'"), HasSubstr("no-iommu")));
  EXPECT_THAT(refusal("vfio:fffe:ff:1f.7,interfaces=group"),
              AllOf(HasSubstr("interfaces: unknown option"), HasSubstr("vf-token")));
  EXPECT_THAT(refusal("vfio:fffe:ff:1f.7,vf-token"), HasSubstr("vf-token"));
}

}  // namespace
}  // namespace outboard::targets
