#include <tools/outboard/pci/binding.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include <tests/support/sysfs_tree.hpp>

namespace outboard::command {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;

TEST(PciAnnouncement, TheShortCommandDoesWhatTheLinesDo) {
  const std::vector<std::string> lines{"echo vfio-pci >override"};
  EXPECT_THAT(announcement(lines, "bind", {.addresses = {"0000:01:00.0", "0000:01:00.1"}}),
              EndsWith("# or: outboard pci bind 0000:01:00.0 0000:01:00.1 --yes\n"));
  EXPECT_THAT(
      announcement(lines, "bind",
                   {.addresses = {"0000:01:00.0"}, .driver = "mlx5_vfio_pci", .state = "/a b/it's", .no_iommu = true}),
      EndsWith("bind 0000:01:00.0 --driver mlx5_vfio_pci --no-iommu --state '/a b/it'\\''s' --yes\n"));
  EXPECT_THAT(announcement(lines, "unbind", {.addresses = {"0000:01:00.0"}, .state = "/tmp/state"}),
              EndsWith("# or: outboard pci unbind 0000:01:00.0 --state /tmp/state --yes\n"));
}

TEST(PciAnnouncement, AModuleThatTheLinesLoadIsLoadedByTheShortCommandToo) {
  EXPECT_THAT(announcement({"modprobe vfio-pci", "echo vfio-pci >override"}, "bind", {.addresses = {"0000:01:00.0"}}),
              EndsWith("# or: outboard pci bind 0000:01:00.0 --modprobe --yes\n"));
}

TEST(PciAnnouncement, WhereNothingIsToBeDoneItSaysSo) {
  EXPECT_EQ(announcement({}, "bind", {.addresses = {"0000:01:00.0"}}), "# nothing to do\n");
}

TEST(PciUnbind, WhatWasGivenBackIsSaidThoughALaterOneFails) {
  const outboard::testing::SysfsTree tree;
  tree.add({.address = "0000:01:00.0", .driver = "vfio-pci", .group = 4});
  tree.add({.address = "0000:01:00.1", .driver = "nvme", .group = 5});
  vfio::Binding::Options options;
  options.root = std::filesystem::path(tree.root()).parent_path();
  options.state = options.root / "run";
  options.write = [&](const std::string& path, const std::string& value) -> Status {
    if (path.ends_with("/driver/unbind")) tree.bind(value, "");
    if (path.ends_with("/drivers_probe")) tree.bind(value, "virtio-pci");
    return {};
  };
  std::vector<std::string> said;
  const auto done =
      give_back(vfio::Binding(options), {{0, 1, 0, 0}, {0, 1, 0, 1}}, [&](const std::string& text) -> Status {
        said.push_back(text);
        return {};
      });
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().subject(), "0000:01:00.1");
  EXPECT_THAT(said, ElementsAre("0000:01:00.0: back to virtio-pci\n"));
}

}  // namespace
}  // namespace outboard::command
