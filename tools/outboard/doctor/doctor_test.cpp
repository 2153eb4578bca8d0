#include <tools/outboard/doctor/doctor.hpp>

#include <gtest/gtest.h>

#include <sys/syscall.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::command {
namespace {

Finding finding(const std::string& root, const std::string& name) {
  const auto all = examine(root);
  const auto found = std::ranges::find(all, name, &Finding::name);
  return found == all.end() ? Finding{} : *found;
}

TEST(Doctor, EachThingIsNamedOnceAndWhatIsWrongHasACure) {
  std::vector<std::string> names;
  for (const auto& one : examine()) {
    names.push_back(one.name);
    EXPECT_FALSE(one.use.empty());
    EXPECT_EQ(one.state == Finding::State::ok, one.cure.empty()) << one.name;
  }
  std::ranges::sort(names);
  EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
}

TEST(Doctor, WhatIsNotThereIsMissing) {
  const outboard::testing::TempDir root;
  EXPECT_EQ(finding(root.path(), "VFIO").state, Finding::State::missing);
  EXPECT_EQ(finding(root.path(), "IOMMU").state, Finding::State::missing);
  EXPECT_EQ(finding(root.path(), "hugepages").state, Finding::State::missing);
}

TEST(Doctor, WhatIsThereIsFound) {
  const outboard::testing::TempDir root;
  std::filesystem::create_directories(root.path("sys/kernel/iommu_groups/0"));
  std::filesystem::create_directories(root.path("dev/vfio"));
  std::filesystem::create_directories(root.path("proc"));
  std::ofstream(root.path("dev/vfio/vfio")) << "";
  std::ofstream(root.path("proc/meminfo")) << "HugePages_Total: 8\nHugePages_Free: 5\nHugepagesize: 2048 kB\n";
  EXPECT_EQ(finding(root.path(), "VFIO").state, Finding::State::ok);
  EXPECT_EQ(finding(root.path(), "IOMMU").detail, "1 group");
  EXPECT_EQ(finding(root.path(), "hugepages").detail, "5 of 8 free, 2 MiB each");
}

TEST(Doctor, FewMappingsAreLow) {
  const outboard::testing::TempDir root;
  std::filesystem::create_directories(root.path("proc/sys/vm"));
  std::ofstream(root.path("proc/sys/vm/max_map_count")) << "1000\n";
  EXPECT_EQ(finding(root.path(), "mappings").state, Finding::State::low);
  std::ofstream(root.path("proc/sys/vm/max_map_count")) << "262144\n";
  EXPECT_EQ(finding(root.path(), "mappings").state, Finding::State::ok);
  EXPECT_EQ(finding(root.path(), "mappings").detail, "262144 in one process");
}

TEST(Doctor, SignalsThatAClientCanMakeAServerWaitForAreSaid) {
  EXPECT_EQ(client_signals().state, Finding::State::ok);
  for (const long call : {SYS_io_setup, SYS_io_submit, SYS_io_getevents}) {
    outboard::testing::with_calls_denied({call}, EPERM,
                                         [] { EXPECT_EQ(client_signals().state, Finding::State::denied); });
  }
}

TEST(Doctor, SystemCallsThatAreNotThereAreNamed) {
  EXPECT_EQ(system_calls().state, Finding::State::ok);
  for (const int error : {ENOSYS, EPERM}) {
    outboard::testing::with_calls_denied({SYS_epoll_pwait2, SYS_statx}, error, [] {
      EXPECT_EQ(system_calls().state, Finding::State::denied);
      EXPECT_EQ(system_calls().detail, "without epoll_pwait2, statx: older calls are used instead");
    });
  }
}

}  // namespace
}  // namespace outboard::command
