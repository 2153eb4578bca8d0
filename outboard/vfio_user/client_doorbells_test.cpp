#include <tuple>

#include <sys/eventfd.h>
#include <unistd.h>

#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_client_fixture.hpp>

// Doorbells that a server offers as eventfds.

namespace outboard::vfio_user {
namespace {

using testing::joined;
using ClientRows = testing::VfioUserClientTest;

TEST_F(ClientRows, DoorbellsOfBothFormsAreTaken) {
  const UniqueFd bell(::eventfd(0, EFD_CLOEXEC));
  const spec::IoEventFd shorter{
      .offset = 16, .size = 4, .fd_index = 0, .type = 0, .flags = 1, .padding = 0, .datamatch = 3};
  const spec::IoEventFdWithShadow longer{.offset = 16,
                                         .size = 4,
                                         .fd_index = 0,
                                         .type = 0,
                                         .flags = 1,
                                         .shadow_mem_fd_index = 0,
                                         .shadow_offset = 99,
                                         .datamatch = 3};
  for (const auto& entries : {joined(shorter, shorter), joined(longer, longer)}) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    connect();
    auto payload = joined(spec::RegionIoFds{
        .argsz = static_cast<std::uint32_t>(16 + entries.size()), .flags = 0, .index = 0, .count = 2});
    payload.insert(payload.end(), entries.begin(), entries.end());
    reply(Command::device_get_region_io_fds, next_id_++, payload, {bell.get()});
    const auto bells = client_->io_eventfds(0);
    ASSERT_TRUE(bells) << bells.error().message();
    ASSERT_EQ(bells->size(), 2u);
    EXPECT_EQ((*bells)[1].offset, 16u);
    EXPECT_EQ((*bells)[1].size, 4u);
    EXPECT_EQ((*bells)[1].datamatch, 3u);
    (*bells)[0].fd->signal();
    std::uint64_t count = 0;
    EXPECT_EQ(::read(bell.get(), &count, sizeof count), 8);
  }
}

TEST_F(ClientRows, DoorbellsThatMakeNoSenseAreRefusedOrLeftOut) {
  const UniqueFd bell(::eventfd(0, EFD_CLOEXEC));
  const spec::IoEventFd good{
      .offset = 16, .size = 4, .fd_index = 0, .type = 0, .flags = 0, .padding = 0, .datamatch = 0};
  auto outside = good, odd = good, without = good, other = good;
  outside.offset = bar_size;
  odd.size = 3;
  without.fd_index = 1;
  other.type = 1;
  connect();
  reply(Command::device_get_region_io_fds, next_id_++,
        joined(spec::RegionIoFds{.argsz = 216, .flags = 0, .index = 0, .count = 5}, outside, odd, without, other, good),
        {bell.get()});
  EXPECT_EQ(client_->io_eventfds(0).value().size(), 1u);
  reply(Command::device_get_region_io_fds, next_id_++,
        joined(spec::RegionIoFds{.argsz = 56, .flags = 0, .index = 7, .count = 2}, good), {bell.get()});
  EXPECT_EQ(error_of(client_->io_eventfds(7)), EPROTO);
  reply(Command::device_get_region_io_fds, next_id_++,
        joined(spec::RegionIoFds{.argsz = 96, .flags = 0, .index = 7, .count = 2}, good), {bell.get()});
  EXPECT_EQ(error_of(client_->io_eventfds(7)), EPROTO);
  reply(Command::device_get_region_io_fds, next_id_++,
        joined(spec::RegionIoFds{.argsz = 16, .flags = 0, .index = 7, .count = UINT32_MAX}));
  EXPECT_EQ(error_of(client_->io_eventfds(7)), EPROTO);
  reply_error(Command::device_get_region_io_fds, next_id_++, ENOTSUP);
  EXPECT_TRUE(client_->io_eventfds(7).value().empty());
}

TEST_F(ClientRows, DoorbellsBesideSharedMemoryKeepTheirNumbers) {
  const UniqueFd shadow = testing::make_sealed_memfd(4096);
  const UniqueFd bell(::eventfd(0, EFD_CLOEXEC));
  const spec::IoEventFd in_memory{
      .offset = 16, .size = 4, .fd_index = 0, .type = 0, .flags = 0, .padding = 0, .datamatch = 0};
  auto by_eventfd = in_memory;
  by_eventfd.fd_index = 1;
  connect();
  reply(Command::device_get_region_io_fds, next_id_++,
        joined(spec::RegionIoFds{.argsz = 96, .flags = 0, .index = 0, .count = 2}, in_memory, by_eventfd),
        {shadow.get(), bell.get()});
  const auto bells = client_->io_eventfds(0);
  ASSERT_TRUE(bells) << bells.error().message();
  ASSERT_EQ(bells->size(), 1u);
  (*bells)[0].fd->signal();
  std::uint64_t count = 0;
  EXPECT_EQ(::read(bell.get(), &count, sizeof count), 8);
}

TEST_F(ClientRows, AServerThatDoesNotKnowDoorbellsHasNone) {
  connect();
  unsigned region = 0;
  for (const int error : {ENOTSUP, ENOSYS, EINVAL}) {
    reply_error(Command::device_get_region_io_fds, next_id_++, static_cast<std::uint32_t>(error));
    const auto bells = client_->io_eventfds(region++);
    ASSERT_TRUE(bells) << bells.error().message();
    EXPECT_TRUE(bells->empty());
  }
}

}  // namespace
}  // namespace outboard::vfio_user
