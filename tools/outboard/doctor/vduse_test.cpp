#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <tests/support/temp_dir.hpp>
#include <tools/outboard/doctor/doctor.hpp>

namespace outboard::command {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class FakeNetlink final : public vduse::Netlink {
 public:
  explicit FakeNetlink(Result<std::vector<vduse::ManagementDevice>> devices) : devices_(std::move(devices)) {}
  Result<std::vector<vduse::ManagementDevice>> management_devices() override { return devices_; }
  Status add(const std::string&) override { return {}; }
  Status remove(const std::string&) override { return {}; }

 private:
  Result<std::vector<vduse::ManagementDevice>> devices_;
};

class DoctorVduse : public ::testing::Test {
 protected:
  Finding finding(const std::string& name) {
    FakeNetlink netlink(devices);
    const auto all = examine_vduse(root.path(), netlink);
    const auto found = std::ranges::find(all, name, &Finding::name);
    return found == all.end() ? Finding{} : *found;
  }
  void capabilities(const std::string& mask) const {
    std::filesystem::create_directories(root.path("proc/self"));
    std::ofstream(root.path("proc/self/status")) << "Name:\tx\nCapPrm:\tffff\nCapEff:\t" << mask << "\n";
  }

  outboard::testing::TempDir root;
  Result<std::vector<vduse::ManagementDevice>> devices = std::vector<vduse::ManagementDevice>{};
};

TEST_F(DoctorVduse, AModuleIsMissingUntilItHasAddedItsPlaceInSysfs) {
  for (const auto& [name, place] :
       {std::pair("vduse", "sys/class/vduse"), std::pair("virtio_vdpa", "sys/bus/vdpa/drivers/virtio_vdpa"),
        std::pair("vhost_vdpa", "sys/bus/vdpa/drivers/vhost_vdpa")}) {
    EXPECT_EQ(finding(name).state, Finding::State::missing);
    EXPECT_THAT(finding(name).cure, HasSubstr(std::string("modprobe ") + name));
    std::filesystem::create_directories(root.path(place));
    EXPECT_EQ(finding(name).state, Finding::State::ok);
  }
}

TEST_F(DoctorVduse, ModprobeIsACureOnlyIfTheKernelHasTheModule) {
  utsname kernel{};
  ASSERT_EQ(::uname(&kernel), 0);
  const std::string folder = std::string("lib/modules/") + kernel.release;
  EXPECT_THAT(finding("vduse").cure, HasSubstr("modprobe vduse on the host"));
  std::filesystem::create_directories(root.path(folder));
  for (const char* name : {"vduse", "VDUSE", "vDPA netlink"})
    EXPECT_THAT(finding(name).cure, AllOf(HasSubstr("CONFIG_VDPA_USER"), Not(HasSubstr("modprobe")))) << name;
  std::ofstream(root.path(folder + "/modules.dep")) << "kernel/drivers/vdpa/vdpa_user/vduse.ko.xz: kernel/x.ko.xz\n";
  EXPECT_EQ(finding("vduse").cure, "modprobe vduse");
  EXPECT_EQ(finding("VDUSE").cure, "modprobe vduse");
  EXPECT_THAT(finding("virtio_vdpa").cure, Not(HasSubstr("modprobe")));
  std::ofstream(root.path(folder + "/modules.builtin")) << "kernel/drivers/virtio/virtio-vdpa.ko\n";
  EXPECT_EQ(finding("virtio_vdpa").cure, "modprobe virtio_vdpa");
}

TEST_F(DoctorVduse, RootIsToldOfTheContainerAndNotToBecomeRoot) {
  capabilities("0000000000000000");
  for (const char* name : {"CAP_NET_ADMIN", "CAP_SYS_RESOURCE"}) {
    const bool is_root = ::geteuid() == 0;
    EXPECT_EQ(finding(name).cure.find("run as root") == std::string::npos, is_root) << finding(name).cure;
    EXPECT_EQ(finding(name).cure.find("--cap-add") != std::string::npos, is_root) << finding(name).cure;
  }
}

TEST_F(DoctorVduse, TheControlNodeIsLookedFor) {
  EXPECT_EQ(finding("VDUSE").state, Finding::State::missing);
  std::filesystem::create_directories(root.path("dev/vduse"));
  std::ofstream(root.path("dev/vduse/control")) << "";
  EXPECT_EQ(finding("VDUSE").state, Finding::State::ok);
}

TEST_F(DoctorVduse, TheManagementDeviceOfVduseHasNoBus) {
  EXPECT_EQ(finding("vDPA netlink").state, Finding::State::missing);
  devices = std::vector<vduse::ManagementDevice>{{"pci", "vduse", 0}};
  EXPECT_EQ(finding("vDPA netlink").state, Finding::State::missing);
  devices->push_back({"", "vduse", 0});
  EXPECT_EQ(finding("vDPA netlink").state, Finding::State::ok);
}

TEST_F(DoctorVduse, WithoutTheNetlinkFamilyThatIsSaid) {
  devices = Error(ENOENT, "there is no netlink family `vdpa`");
  EXPECT_EQ(finding("vDPA netlink").state, Finding::State::missing);
  EXPECT_EQ(finding("vDPA netlink").detail, "there is no netlink family `vdpa`");
}

TEST_F(DoctorVduse, TheRightToAttachIsOneBit) {
  capabilities("0000000000000fff");
  EXPECT_EQ(finding("CAP_NET_ADMIN").state, Finding::State::denied);
  capabilities("0000000000001000");
  EXPECT_EQ(finding("CAP_NET_ADMIN").state, Finding::State::ok);
}

TEST_F(DoctorVduse, TheRightNotToWaitForOwnWritesIsAnotherBit) {
  capabilities("0000000000001000");
  EXPECT_EQ(finding("CAP_SYS_RESOURCE").state, Finding::State::denied);
  EXPECT_NE(finding("CAP_SYS_RESOURCE").cure.find("--direct"), std::string::npos);
  capabilities("0000000001000000");
  EXPECT_EQ(finding("CAP_SYS_RESOURCE").state, Finding::State::ok);
}

}  // namespace
}  // namespace outboard::command
