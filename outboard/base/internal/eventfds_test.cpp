#include <outboard/base/internal/eventfds.hpp>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>

#include <gtest/gtest.h>

namespace outboard {
namespace {

TEST(EventFds, AnEventfdIsOne) {
  const auto event = EventFd::create().value();
  EXPECT_TRUE(is_eventfd(event.get()));
  EXPECT_TRUE(may_be_eventfd(event.get()));
}

TEST(EventFds, FilesPipesAndClosedDescriptorsAreNone) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]), writer(ends[1]), device(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int fd : {reader.get(), writer.get(), device.get(), -1}) {
    EXPECT_FALSE(is_eventfd(fd)) << fd;
    EXPECT_FALSE(may_be_eventfd(fd)) << fd;
  }
}

TEST(EventFds, OtherDescriptorsWithoutAFileAreToldByProcAlone) {
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  EXPECT_FALSE(is_eventfd(epoll.get()));
  EXPECT_TRUE(may_be_eventfd(epoll.get()));
}

TEST(EventFds, AReadOnlyDescriptorIsNone) {
  const UniqueFd watches(::inotify_init1(IN_CLOEXEC));
  EXPECT_FALSE(is_eventfd(watches.get()));
  EXPECT_FALSE(may_be_eventfd(watches.get()));
}

TEST(EventFds, AListIsDuplicatedWithItsGaps) {
  std::vector<EventFd> list(2);
  list[1] = EventFd::create().value();
  const auto copies = duplicate(list);
  ASSERT_TRUE(copies);
  EXPECT_FALSE((*copies)[0].valid());
  EXPECT_TRUE((*copies)[1].same_as(list[1]));
}

}  // namespace
}  // namespace outboard
