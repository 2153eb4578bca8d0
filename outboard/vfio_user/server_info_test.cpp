#include <fcntl.h>
#include <sys/mman.h>

#include <tests/support/vfio_user_server_fixture.hpp>

// Rows of docs/spec-map.md (VU) that concern what a client asks about the device.

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using testing::joined;
using testing::PlainFunction;

abi::RegionInfo region_question(std::uint32_t index, std::uint32_t argsz = 32) {
  return {.argsz = argsz, .flags = 0, .index = index, .cap_offset = 0, .size = 0, .offset = 0};
}
abi::IrqInfo irq_question(std::uint32_t index, std::uint32_t argsz = 16) {
  return {.argsz = argsz, .flags = 0, .index = index, .count = 0};
}
spec::RegionIoFds io_fds_question(std::uint32_t index, std::uint32_t argsz) {
  return {.argsz = argsz, .flags = 0, .index = index, .count = 0};
}

class ServerInfo : public testing::VfioUserServerTest {};

TEST_F(ServerInfo, DeviceIsAPciFunctionThatCanBeReset) {
  Peer peer = client();
  const auto reply = exchange(peer, Command::device_get_info, joined(abi::DeviceInfo{.argsz = 16}));
  ASSERT_TRUE(reply);
  ASSERT_EQ(reply->payload.size(), 16u);
  const auto info = reply->at<abi::DeviceInfo>();
  EXPECT_EQ(info.argsz, 16u);
  EXPECT_EQ(info.flags, abi::device_flag::reset | abi::device_flag::pci);
  EXPECT_EQ(info.num_regions, 9u);
  EXPECT_EQ(info.num_irqs, 5u);
}

TEST_F(ServerInfo, VU42_QuestionsTooShortOrWithTooLittleRoomAreRefused) {
  Peer peer = client();
  const std::pair<Command, std::size_t> commands[] = {{Command::device_get_info, 16},
                                                      {Command::device_get_region_info, 32},
                                                      {Command::device_get_irq_info, 16},
                                                      {Command::device_get_region_io_fds, 16}};
  for (const auto& [command, size] : commands) {
    std::vector<std::byte> payload(size);
    EXPECT_EQ(error_of(peer, command, payload), EINVAL);  // argsz 0
    payload[0] = static_cast<std::byte>(size - 1);
    EXPECT_EQ(error_of(peer, command, payload), EINVAL);
    payload[0] = static_cast<std::byte>(size);
    EXPECT_EQ(error_of(peer, command, Bytes(payload).first(size - 1)), EINVAL);
    EXPECT_EQ(error_of(peer, command), EINVAL);
    EXPECT_EQ(error_of(peer, command, payload), 0);
  }
}

TEST_F(ServerInfo, VU43_AnArgszWithoutBoundIsAnsweredAtTheUsualSize) {
  Peer peer = client();
  const auto info = exchange(peer, Command::device_get_info, joined(abi::DeviceInfo{.argsz = UINT32_MAX}));
  EXPECT_EQ(info->payload.size(), 16u);
  const auto region = exchange(peer, Command::device_get_region_info, joined(region_question(0, UINT32_MAX)));
  EXPECT_EQ(region->payload.size(), 64u);
  const auto irq = exchange(peer, Command::device_get_irq_info, joined(irq_question(0, UINT32_MAX)));
  EXPECT_EQ(irq->payload.size(), 16u);
  const auto fds = exchange(peer, Command::device_get_region_io_fds, joined(io_fds_question(0, UINT32_MAX)));
  EXPECT_EQ(fds->payload.size(), 16u);
}

TEST_F(ServerInfo, VU44_IndexesBeyondTheCountAreRefused) {
  Peer peer = client();
  for (const std::uint32_t index : {9u, 10u, UINT32_MAX}) {
    EXPECT_EQ(error_of(peer, Command::device_get_region_info, joined(region_question(index))), EINVAL);
    EXPECT_EQ(error_of(peer, Command::device_get_region_io_fds, joined(io_fds_question(index, 16))), EINVAL);
  }
  for (const std::uint32_t index : {5u, UINT32_MAX}) {
    EXPECT_EQ(error_of(peer, Command::device_get_irq_info, joined(irq_question(index))), EINVAL);
  }
}

TEST_F(ServerInfo, SparseRegionComesWithItsAreasAndADescriptor) {
  Peer peer = client();
  const auto reply = exchange(peer, Command::device_get_region_info, joined(region_question(0, 64)));
  ASSERT_TRUE(reply);
  ASSERT_EQ(reply->payload.size(), 64u);
  const auto info = reply->at<abi::RegionInfo>();
  EXPECT_EQ(info.argsz, 64u);
  EXPECT_EQ(info.flags, 15u);
  EXPECT_EQ(info.index, 0u);
  EXPECT_EQ(info.cap_offset, 32u);
  EXPECT_EQ(info.size, PlainFunction::bar_size);
  const auto sparse = reply->at<abi::SparseMmapCapability>(32);
  EXPECT_EQ(sparse.header.id, abi::region_capability::sparse_mmap);
  EXPECT_EQ(sparse.header.version, 1u);
  EXPECT_EQ(sparse.header.next, 0u);
  EXPECT_EQ(sparse.nr_areas, 1u);
  const auto area = reply->at<abi::SparseMmapArea>(48);
  EXPECT_EQ(area.offset, PlainFunction::area_at);
  EXPECT_EQ(area.size, PlainFunction::area_size);
  ASSERT_EQ(reply->fds.size(), 1u);
  void* const mapped = ::mmap(nullptr, area.size, PROT_READ | PROT_WRITE, MAP_SHARED, reply->fds[0].get(),
                              static_cast<off_t>(info.offset + area.offset));
  ASSERT_NE(mapped, MAP_FAILED);
  static_cast<volatile std::uint32_t*>(mapped)[1] = 42;
  enable(peer);
  EXPECT_EQ(read_register(peer, PlainFunction::area_at + 4), 42u);
  ::munmap(mapped, area.size);
}

TEST_F(ServerInfo, CapabilitiesThatDoNotFitAreAskedForAgain) {
  Peer peer = client();
  const auto reply = exchange(peer, Command::device_get_region_info, joined(region_question(0, 63)));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->payload.size(), 32u);
  EXPECT_EQ(reply->at<abi::RegionInfo>().argsz, 64u);
  EXPECT_EQ(reply->at<abi::RegionInfo>().cap_offset, 0u);
  EXPECT_TRUE(reply->fds.empty());
}

TEST_F(ServerInfo, ARegionThatIsNotThereHasNoSize) {
  Peer peer = client();
  const auto reply = exchange(peer, Command::device_get_region_info, joined(region_question(8)));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), 0);
  EXPECT_EQ(reply->at<abi::RegionInfo>().size, 0u);
  EXPECT_EQ(reply->at<abi::RegionInfo>().flags, 0u);
}

TEST_F(ServerInfo, ConfigurationSpaceIsReadAndWrittenAndNeverMapped) {
  Peer peer = client();
  const auto reply = exchange(peer, Command::device_get_region_info, joined(region_question(7)));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->at<abi::RegionInfo>().flags, 3u);
  EXPECT_EQ(reply->at<abi::RegionInfo>().size, 4096u);
  EXPECT_TRUE(reply->fds.empty());
}

TEST_F(ServerInfo, InterruptsAreDescribedAsTheKernelDoes) {
  Peer peer = client();
  const auto info = [&](std::uint32_t index) {
    return exchange(peer, Command::device_get_irq_info, joined(irq_question(index)))->at<abi::IrqInfo>();
  };
  EXPECT_EQ(info(0).count, 1u);
  EXPECT_EQ(info(0).flags, abi::irq_flag::eventfd | abi::irq_flag::maskable | abi::irq_flag::automasked);
  EXPECT_EQ(info(1).count, 4u);
  EXPECT_EQ(info(1).flags, abi::irq_flag::eventfd);
  EXPECT_EQ(info(2).count, 4u);
  EXPECT_EQ(info(2).flags, abi::irq_flag::eventfd);
  EXPECT_EQ(info(2).index, 2u);
  for (const std::uint32_t notice : {3u, 4u}) {  // ERR, which QEMU warns of where there is none, and REQ
    EXPECT_EQ(info(notice).count, 1u);
    EXPECT_EQ(info(notice).flags, abi::irq_flag::eventfd);
  }
}

TEST_F(ServerInfo, DoorbellsAreSentInTheFormOfTheSpecification) {
  serve({.doorbell_fd = true});
  Peer peer = client();
  const auto shorter = exchange(peer, Command::device_get_region_io_fds, joined(io_fds_question(0, 55)));
  ASSERT_TRUE(shorter);
  EXPECT_EQ(shorter->payload.size(), 16u);
  EXPECT_EQ(shorter->at<spec::RegionIoFds>().argsz, 56u);
  EXPECT_EQ(shorter->at<spec::RegionIoFds>().count, 1u);
  EXPECT_TRUE(shorter->fds.empty());

  const auto reply = exchange(peer, Command::device_get_region_io_fds, joined(io_fds_question(0, 56)));

  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->payload.size(), 56u);
  const auto bell = reply->at<spec::IoEventFd>(16);
  EXPECT_EQ(bell.offset, PlainFunction::doorbell_at);
  EXPECT_EQ(bell.size, 4u);
  EXPECT_EQ(bell.fd_index, 0u);
  EXPECT_EQ(bell.type, spec::io_fd_type::ioeventfd);
  EXPECT_EQ(bell.flags, 0u);
  ASSERT_EQ(reply->fds.size(), 1u);
  EventFd::adopt(std::move(const_cast<UniqueFd&>(reply->fds[0]))).value().signal();
  pump();
  EXPECT_EQ(function().doorbell_count(), 1u);
}

TEST_F(ServerInfo, DoorbellsThatAClientCannotReceiveAreLeftOut) {
  serve({.doorbell_fd = true});
  Peer peer = client(R"({"capabilities":{"max_msg_fds":0}})");
  const auto reply = exchange(peer, Command::device_get_region_io_fds, joined(io_fds_question(0, 4096)));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->at<spec::RegionIoFds>().count, 0u);
  EXPECT_TRUE(reply->fds.empty());
}

}  // namespace
}  // namespace outboard::vfio_user
