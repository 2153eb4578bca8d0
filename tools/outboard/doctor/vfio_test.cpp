#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <tests/support/temp_dir.hpp>
#include <tools/outboard/doctor/doctor.hpp>

namespace outboard::command {
namespace {

using State = Finding::State;

class DoctorVfio : public ::testing::Test {
 protected:
  Finding finding(const std::string& name) const {
    const auto all = examine_vfio(root.path());
    const auto found = std::ranges::find(all, name, &Finding::name);
    return found == all.end() ? Finding{} : *found;
  }
  void folder(const std::string& path) const { std::filesystem::create_directories(root.path(path)); }
  void node(const std::string& path) const {
    folder(std::filesystem::path(path).parent_path());
    std::ofstream(root.path(path)) << "";
  }

  outboard::testing::TempDir root;
};

TEST_F(DoctorVfio, OnAnEmptyMachineEachRowHasItsCure) {
  for (const auto& each : examine_vfio(root.path())) {
    EXPECT_EQ(each.state, State::missing) << each.name;
    EXPECT_NE(each.cure, "") << each.name;
  }
}

TEST_F(DoctorVfio, TheIommuIsThereWithItsGroups) {
  folder("sys/kernel/iommu_groups");
  EXPECT_EQ(finding("IOMMU").state, State::missing);
  folder("sys/kernel/iommu_groups/0");
  EXPECT_EQ(finding("IOMMU").state, State::ok);
  EXPECT_EQ(finding("IOMMU").detail, "1 group");
}

TEST_F(DoctorVfio, ModulesAreKnownByWhatTheyAdd) {
  EXPECT_NE(finding("vfio-pci").cure.find("vfio-pci"), std::string::npos);
  folder("sys/bus/pci/drivers/vfio-pci");
  folder("sys/module/vfio_iommu_type1");
  EXPECT_EQ(finding("vfio-pci").state, State::ok);
  EXPECT_EQ(finding("vfio_iommu_type1").state, State::ok);
}

TEST_F(DoctorVfio, ANodeOfAGroupIsSomethingToDrive) {
  node("dev/vfio/vfio");
  folder("dev/vfio/devices");
  EXPECT_EQ(finding("VFIO devices").state, State::missing);
  node("dev/vfio/12");
  node("dev/vfio/noiommu-3");
  EXPECT_EQ(finding("VFIO devices").state, State::ok);
  EXPECT_NE(finding("VFIO devices").detail.find("/dev/vfio/12"), std::string::npos);
}

TEST_F(DoctorVfio, ANodeOfADeviceIsSomethingToDriveAndNeedsNothingOfTheGroups) {
  node("dev/iommu");
  node("dev/vfio/devices/vfio0");
  EXPECT_EQ(finding("VFIO devices").state, State::ok);
  EXPECT_EQ(finding("VFIO devices").detail, "/dev/vfio/devices/vfio0");
  for (const char* name : {"vfio_iommu_type1", "VFIO"}) {
    EXPECT_EQ(finding(name).state, State::ok) << name;
    EXPECT_NE(finding(name).detail.find("not needed"), std::string::npos) << name;
    EXPECT_EQ(finding(name).cure, "") << name;
  }
}

TEST_F(DoctorVfio, ANodeOfADeviceThatCannotBeOpenedIsNamed) {
  node("dev/iommu");
  folder("dev/vfio/devices");
  std::filesystem::create_symlink("/nowhere", root.path("dev/vfio/devices/vfio3"));  // what keeps root out too
  node("dev/vfio/12");
  EXPECT_EQ(finding("VFIO devices").state, State::denied);
  EXPECT_NE(finding("VFIO devices").cure.find("/dev/vfio/devices/vfio3"), std::string::npos);
}

TEST_F(DoctorVfio, WithoutIommufdTheGroupIsTheWayAndWhatItNeedsIsMissed) {
  node("dev/vfio/12");
  node("dev/vfio/devices/vfio0");
  EXPECT_EQ(finding("VFIO devices").detail, "/dev/vfio/12");
  EXPECT_EQ(finding("vfio_iommu_type1").state, State::missing);
}

TEST_F(DoctorVfio, VFIO3_ANodeThatCannotBeOpenedIsNamed) {
  folder("dev/vfio");
  std::filesystem::create_symlink("/nowhere", root.path("dev/vfio/12"));  // what keeps root out too
  EXPECT_EQ(finding("VFIO devices").state, State::denied);
  EXPECT_NE(finding("VFIO devices").cure.find(::geteuid() == 0 ? "--device" : "chown"), std::string::npos);
}

}  // namespace
}  // namespace outboard::command
