#include <tools/outboard/pci/list.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include <tests/support/sysfs_tree.hpp>

namespace outboard::command {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class PciList : public ::testing::Test {
 protected:
  PciList() {
    tree.add({.address = "0000:00:04.0", .driver = "vfio-pci", .group = 3});
    tree.add({.address = "0000:00:05.0",
              .vendor = 0x1af4,
              .device = 0x1042,
              .class_code = 0x010000,
              .driver = "virtio-pci",
              .group = 4});
    fs::create_directories(tree.path("bus/pci/drivers/vfio-pci"));
  }
  std::vector<PciFunction> functions() const {
    return pci_functions({.root = root(), .state = root() / "run"}).value();
  }
  std::string text() const { return pci_text(functions(), PciNames::load({})); }
  nlohmann::json json() const { return nlohmann::json::parse(pci_json(functions(), PciNames::load({})))["functions"]; }
  fs::path root() const { return fs::path(tree.root()).parent_path(); }
  void write(const std::string& path, const std::string& content) const {
    fs::create_directories((root() / path).parent_path());
    std::ofstream(root() / path) << content;
  }

  outboard::testing::SysfsTree tree;
};

TEST_F(PciList, SaysWhatEachIsAndWhetherItCanBeUsed) {
  write("dev/vfio/3", "");
  EXPECT_EQ(text(),
            "0000:00:04.0 Unclassified device [00ff]: Device 1234:11e8 [1234:11e8]\n"
            "             vfio-pci, IOMMU group 3; usable: /dev/vfio/3\n"
            "0000:00:05.0 SCSI storage controller: Red Hat, Inc. Virtio 1.0 block device [1af4:1042]\n"
            "             virtio-pci, IOMMU group 4; to use it: outboard pci bind 0000:00:05.0\n");
}

TEST_F(PciList, SaysWhyNot) {
  tree.add({.address = "0000:00:04.1", .driver = "nvme", .group = 3});
  tree.add({.address = "0000:00:06.0"});
  EXPECT_THAT(
      text(),
      HasSubstr("cannot be used: IOMMU group 3 cannot be used while other drivers have a part of it: 0000:00:04.1"));
  EXPECT_THAT(text(), HasSubstr("no driver, no IOMMU group; cannot be used: no IOMMU"));
}

TEST_F(PciList, NamesWhoHasItAndWhoHadIt) {
  write("dev/vfio/3", "");
  write("run/0000:00:04.0", "driver nvme\noverride \ndevice 1234:11e8:1af4:1100\n");
  write("proc/4711/comm", "qemu\n");
  fs::create_directories(root() / "proc/4711/fd");
  fs::create_symlink(root() / "dev/vfio/3", root() / "proc/4711/fd/9");
  EXPECT_THAT(text(), HasSubstr("vfio-pci (was nvme), IOMMU group 3; in use by process 4711 (qemu)"));
  EXPECT_EQ(json()[0]["old_driver"], "nvme");
  EXPECT_EQ(json()[0]["holder"]["pid"], 4711);
}

TEST_F(PciList, AsJsonHasWhatAScriptNeeds) {
  write("dev/vfio/3", "");
  const auto all = json();
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0]["address"], "0000:00:04.0");
  EXPECT_EQ(all[0]["usable"], true);
  EXPECT_EQ(all[0]["node"], "/dev/vfio/3");
  EXPECT_EQ(all[0]["numa_node"], nullptr);
  EXPECT_EQ(all[1]["vendor"], 0x1af4);
  EXPECT_EQ(all[1]["driver"], "virtio-pci");
  EXPECT_EQ(all[1]["usable"], false);
  EXPECT_EQ(all[1]["node"], nullptr);
}

TEST_F(PciList, WithIommufdTheNodeIsTheDevicesOwn) {
  tree.add({.address = "0000:00:04.0", .driver = "vfio-pci", .group = 3, .cdev = "vfio7"});
  EXPECT_EQ(json()[0]["node"], "/dev/vfio/3");
  write("dev/iommu", "");
  EXPECT_EQ(json()[0]["node"], "/dev/vfio/devices/vfio7");
}

TEST_F(PciList, AMachineWithoutFunctionsSaysSo) { EXPECT_EQ(pci_text({}, PciNames::load({})), "no PCI functions\n"); }

}  // namespace
}  // namespace outboard::command
