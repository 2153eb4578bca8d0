#include <outboard/vfio/internal/sysfs.hpp>

#include <sys/stat.h>

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/sysfs_tree.hpp>

namespace outboard::vfio {
namespace {

using outboard::testing::SysfsTree;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr pci::Address address{0, 0, 4, 0};
const std::string folder = "bus/pci/devices/0000:00:04.0";

std::vector<std::string> addresses_of(const std::vector<FunctionFacts>& all) {
  std::vector<std::string> texts;
  for (const FunctionFacts& facts : all) texts.push_back(facts.address.text());
  return texts;
}

class SysfsTest : public ::testing::Test {
 protected:
  SysfsTest() { tree.add({.address = "0000:00:04.0", .driver = "vfio-pci", .group = 3, .cdev = "vfio0"}); }

  Result<FunctionFacts> read() const { return tree.sysfs().function(address); }

  SysfsTree tree;
};

TEST_F(SysfsTest, SaysWhatTheKernelSaysAboutAFunction) {
  tree.write(folder + "/numa_node", "1\n");
  const auto facts = read();
  ASSERT_TRUE(facts.has_value()) << facts.error().message();
  EXPECT_EQ(facts->vendor, 0x1234);
  EXPECT_EQ(facts->device, 0x11e8);
  EXPECT_EQ(facts->subsystem_vendor, 0x1af4);
  EXPECT_EQ(facts->subsystem, 0x1100);
  EXPECT_EQ(facts->class_code, 0x00ff00u);
  EXPECT_EQ(facts->revision, 0x10);
  EXPECT_EQ(facts->driver, "vfio-pci");
  EXPECT_EQ(facts->group, 3u);
  EXPECT_FALSE(facts->no_iommu_group);
  EXPECT_EQ(facts->cdev, "vfio0");
  EXPECT_EQ(facts->numa_node, 1);
}

TEST_F(SysfsTest, WithoutDriverGroupNodeAndNumaEachIsAbsent) {
  tree.add({.address = "0000:00:04.0"});
  const auto facts = read().value();
  EXPECT_EQ(facts.driver, "");
  EXPECT_EQ(facts.group, std::nullopt);
  EXPECT_EQ(facts.cdev, "");
  EXPECT_EQ(facts.numa_node, std::nullopt);
}

TEST_F(SysfsTest, AGroupThatVfioMadeWithoutAnIommuIsToldApart) {
  tree.write("kernel/iommu_groups/3/name", "vfio-noiommu\n");
  EXPECT_TRUE(read().value().no_iommu_group);
}

TEST_F(SysfsTest, VendorVariantsOfVfioPciAreVfioToo) {
  for (const char* driver : {"vfio-pci", "mlx5_vfio_pci", "hisi-acc-vfio-pci"}) {
    tree.bind("0000:00:04.0", driver);
    EXPECT_TRUE(read().value().bound_to_vfio()) << driver;
  }
  for (const char* driver : {"", "nvme", "pci-stub", "vfio-pci-not"}) {
    tree.bind("0000:00:04.0", driver);
    EXPECT_FALSE(read().value().bound_to_vfio()) << driver;
  }
}

TEST_F(SysfsTest, AFunctionThatIsNotThereIsNoDevice) {
  const auto facts = tree.sysfs().function({0, 0, 9, 0});
  ASSERT_FALSE(facts.has_value());
  EXPECT_EQ(facts.error().code(), ENODEV);
  EXPECT_EQ(facts.error().subject(), "0000:00:09.0");
}

struct BadText {
  const char* name;
  std::string content;
};

class BadIdentity : public SysfsTest, public ::testing::WithParamInterface<BadText> {};

TEST_P(BadIdentity, IsAnErrorThatNamesTheAttribute) {
  tree.write(folder + "/vendor", GetParam().content);
  const auto facts = read();
  ASSERT_FALSE(facts.has_value());
  EXPECT_EQ(facts.error().code(), EIO);
  EXPECT_THAT(facts.error().subject(), HasSubstr("/vendor"));
}

INSTANTIATE_TEST_SUITE_P(Contents, BadIdentity,
                         ::testing::Values(BadText{"Empty", ""}, BadText{"Word", "none\n"},
                                           BadText{"PrefixOnly", "0x\n"}, BadText{"TooWide", "0x12345\n"},
                                           BadText{"Negative", "-1\n"}, BadText{"Tail", "0x1234 0x5\n"},
                                           BadText{"TwoLines", "0x1234\n0x5678\n"},
                                           BadText{"Huge", std::string(1 << 20, '1')},
                                           BadText{"Overflow", "0x12345678123456789\n"}),
                         [](const auto& instance) { return instance.param.name; });

TEST_F(SysfsTest, WhatIsNotNeededToTellAFunctionMayBeBad) {
  for (const char* name : {"subsystem_vendor", "subsystem_device", "revision", "numa_node"})
    tree.write(folder + "/" + name, "nonsense");
  const auto facts = read();
  ASSERT_TRUE(facts.has_value());
  EXPECT_EQ(facts->subsystem_vendor, 0);
  EXPECT_EQ(facts->revision, 0);
  EXPECT_EQ(facts->numa_node, std::nullopt);
}

TEST_F(SysfsTest, AMissingAttributeIsAnErrorAndADirectoryInItsPlaceToo) {
  tree.remove(folder + "/class");
  EXPECT_EQ(read().error().code(), EIO);
  std::filesystem::create_directories(tree.path(folder + "/class"));
  EXPECT_EQ(read().error().code(), EIO);
}

TEST_F(SysfsTest, ALinkInALoopIsAnErrorAndAFifoKeepsNobody) {
  tree.link(folder + "/device", "device");
  EXPECT_EQ(read().error().code(), EIO);
  tree.remove(folder + "/device");
  ASSERT_EQ(::mkfifo(tree.path(folder + "/device").c_str(), 0600), 0);
  EXPECT_EQ(read().error().code(), EIO);
}

TEST_F(SysfsTest, ADanglingDriverLinkStillNamesTheDriver) {
  tree.link(folder + "/driver", "../../../bus/pci/drivers/gone");
  EXPECT_EQ(read().value().driver, "gone");
}

TEST_F(SysfsTest, AGroupLinkThatNamesNoNumberIsNoGroup) {
  for (const char* target :
       {"../iommu_groups/", "../iommu_groups/x", "../iommu_groups/-3", "iommu_group", "/99999999999"}) {
    tree.link(folder + "/iommu_group", target);
    EXPECT_EQ(read().value().group, std::nullopt) << target;
  }
}

TEST_F(SysfsTest, ANodeIsOnlyWhatIsCalledVfioAndANumber) {
  tree.remove(folder + "/vfio-dev");
  std::filesystem::create_directories(tree.path(folder + "/vfio-dev/vfio"));
  std::filesystem::create_directories(tree.path(folder + "/vfio-dev/vfio1x"));
  std::filesystem::create_directories(tree.path(folder + "/vfio-dev/other"));
  EXPECT_EQ(read().value().cdev, "");
}

TEST_F(SysfsTest, AllFunctionsComeSortedWithoutWhatIsNoFunction) {
  tree.add({.address = "0000:00:1f.2"});
  tree.add({.address = "0000:00:03.0"});
  std::filesystem::create_directories(tree.path("bus/pci/devices/not-an-address"));
  tree.link("bus/pci/devices/0000:00:05.0", "/nowhere");
  tree.link("bus/pci/devices/0000:00:06.0", "0000:00:06.0");
  const auto all = tree.sysfs().functions();
  ASSERT_TRUE(all.has_value());
  EXPECT_THAT(addresses_of(*all), ElementsAre("0000:00:03.0", "0000:00:04.0", "0000:00:1f.2"));
}

TEST_F(SysfsTest, AMachineWithoutPciHasNoFunctions) {
  EXPECT_THAT(Sysfs(tree.path("nowhere")).functions().value(), IsEmpty());
}

TEST_F(SysfsTest, AGroupListsItsMembers) {
  tree.add({.address = "0000:00:04.1", .driver = "nvme", .group = 3});
  tree.add({.address = "0000:00:05.0", .group = 4});
  std::filesystem::create_directories(tree.path("kernel/iommu_groups/3/devices/INTC1055:00"));  // a platform device
  const auto members = tree.sysfs().group_members(3);
  ASSERT_TRUE(members.has_value());
  EXPECT_THAT(addresses_of(*members), ElementsAre("0000:00:04.0", "0000:00:04.1"));
  EXPECT_EQ(tree.sysfs().group_members(9).error().code(), ENODEV);
}

TEST_F(SysfsTest, NumbersOfAFunctionAreReadByName) {
  tree.write(folder + "/sriov_numvfs", "2\n");
  EXPECT_EQ(tree.sysfs().number(address, "sriov_numvfs"), 2u);
  EXPECT_EQ(tree.sysfs().number(address, "sriov_totalvfs"), std::nullopt);
}

}  // namespace
}  // namespace outboard::vfio
