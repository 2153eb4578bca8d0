#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include <outboard/testing/manual_loop.hpp>
#include <outboard/testing/temp_dir.hpp>
#include <outboard/testing/vfio_user_client_fixture.hpp>

// Rows of the checklist in the vfio-user notes, section 7.3, that a client has to keep.

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using testing::joined;
using testing::open_fds;

class ClientRows : public testing::VfioUserClientTest {
 protected:
  /// The client is dead, and says so.
  void expect_dead(int code) {
    EXPECT_TRUE(client_->gone());
    EXPECT_EQ(error_of(read()), code);
  }
};

TEST_F(ClientRows, SaysWhatItWantsInOneVersionMessageAndAsksEverythingAtOnce) {
  reply_version();
  reply_info();
  reply_regions();
  reply_irqs();
  ASSERT_TRUE(make());
  const auto version = server_.receive();
  ASSERT_TRUE(version);
  EXPECT_EQ(version->header.command, 1);
  EXPECT_EQ(version->header.msg_id, version_id);
  EXPECT_EQ(version->header.flags, 0u);
  EXPECT_EQ(version->at<spec::Version>().major, 0);
  EXPECT_EQ(version->payload.back(), std::byte{0});
  EXPECT_EQ(server_.receive()->header.command, 4);
  for (std::uint32_t index = 0; index < 9; ++index) {
    const auto question = server_.receive();
    ASSERT_TRUE(question);
    EXPECT_EQ(question->header.command, 5);
    EXPECT_EQ(question->at<abi::RegionInfo>().index, index);
    EXPECT_GE(question->at<abi::RegionInfo>().argsz, 32u);
  }
}

TEST_F(ClientRows, ABoundIsCheckedBeforeAnythingIsSent) {
  connect();
  std::byte byte{};
  EXPECT_EQ(error_of(client_->read_region(0, bar_size, MutableBytes(&byte, 1))), EINVAL);
  EXPECT_EQ(error_of(client_->write_region(0, UINT64_MAX, Bytes(&byte, 1))), EINVAL);
  EXPECT_EQ(error_of(client_->post_write(1, 0, Bytes(&byte, 1))), EINVAL);
  EXPECT_EQ(error_of(client_->read_region(9, 0, MutableBytes(&byte, 1))), EINVAL);
  EXPECT_FALSE(server_.receive());
}

TEST_F(ClientRows, Row01_EofBetweenMessagesIsToldOnceAndForAll) {
  connect();
  server_.close();
  int gone = 0;
  client_->on_event([&gone](pci::Event event) { gone += event == pci::Event::gone ? 1 : 0; });
  ASSERT_TRUE(client_->process());
  ASSERT_TRUE(client_->process());
  EXPECT_EQ(gone, 1);
  expect_dead(ECONNRESET);
}

TEST_F(ClientRows, Row04_AMessageThatStallsEndsTheConnection) {
  options_.timeout = std::chrono::milliseconds(20);
  connect();
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_});
  server_.send_bytes(Bytes(bytes).first(20));
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  EXPECT_FALSE(client_->gone());  // it may be late
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  EXPECT_TRUE(client_->gone());
}

TEST_F(ClientRows, Row04_ALateMessageMayEndAfterADeadline) {
  options_.timeout = std::chrono::milliseconds(20);
  connect();
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_++});
  server_.send_bytes(Bytes(bytes).first(20));
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  server_.send_bytes(Bytes(bytes).subspan(20));
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, Row05AndRow06AndRow07_AHeaderThatIsNoneIsFatal) {
  const testing::VfioUserPeer::Shape shapes[] = {{.flags = 1, .size = 15},
                                                 {.flags = 1, .size = 0},
                                                 {.flags = 1, .size = UINT32_MAX},
                                                 {.flags = 1, .size = (1u << 20) + 33},
                                                 {.flags = 2},
                                                 {.flags = 15}};
  for (const auto& shape : shapes) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    connect();
    auto with_id = shape;
    with_id.id = next_id_;
    server_.send(Command::region_read, read_reply(1), with_id);
    EXPECT_EQ(error_of(read()), EPROTO);
    expect_dead(EPROTO);
  }
}

TEST_F(ClientRows, Row03_AReplyInPiecesIsPutTogether) {
  connect();
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_++});
  for (std::size_t i = 0; i < bytes.size(); ++i) server_.send_bytes(Bytes(bytes).subspan(i, 1));
  EXPECT_EQ(read().value(), 77u);
}

TEST_F(ClientRows, Row10_DescriptorsWithABodyAreFatal) {
  connect();
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_});
  server_.send_bytes(Bytes(bytes).first(20));
  ASSERT_TRUE(client_->process());
  const std::size_t before = open_fds();
  server_.send_bytes(Bytes(bytes).subspan(20), {fd});
  EXPECT_EQ(error_of(read()), EPROTO);
  EXPECT_EQ(open_fds(), before);
  ::close(fd);
}

TEST_F(ClientRows, Row11_DescriptorsWithAReplyThatHasNoneFailThatRequest) {
  connect();
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const std::size_t before = open_fds();
  reply(Command::region_read, next_id_++, read_reply(77), {fd});
  EXPECT_EQ(error_of(read()), EPROTO);
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(alive());
  ::close(fd);
}

TEST_F(ClientRows, Row69_AReplyThatAnswersNothingIsFatal) {
  connect();
  reply(Command::region_read, static_cast<std::uint16_t>(next_id_ + 5), read_reply(1));
  EXPECT_EQ(error_of(read()), EPROTO);
  expect_dead(EPROTO);
}

TEST_F(ClientRows, Row70_AReplyForAnotherCommandIsFatal) {
  connect();
  reply(Command::region_write, next_id_, read_reply(1));
  EXPECT_EQ(error_of(read()), EPROTO);
  expect_dead(EPROTO);
}

TEST_F(ClientRows, Row71_AReplyLongerThanAskedForIsFatal) {
  connect();
  auto payload = read_reply(1);
  payload.push_back(std::byte{0});
  EXPECT_EQ(error_of(read_answered(payload)), EPROTO);
  expect_dead(EPROTO);
}

TEST_F(ClientRows, Row71_AReplyShorterThanItsFixedPartFailsThatRequest) {
  connect();
  for (const std::size_t size : {0u, 1u, 15u}) {
    EXPECT_EQ(error_of(read_answered(Bytes(read_reply(1)).first(size))), EPROTO);
  }
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, Row72_AReadReplyWithAnotherCountFailsAndCopiesNothing) {
  connect();
  for (const std::uint32_t count : {0u, 3u, 5u, UINT32_MAX}) {
    const spec::RegionAccess echo{.offset = 8, .region = 0, .count = count};
    EXPECT_EQ(error_of(read_answered(joined(echo, std::uint32_t{0x12345678}))), EPROTO);
    EXPECT_EQ(last_value_, 0xccccccccu);
  }
  EXPECT_EQ(error_of(read_answered(Bytes(read_reply(1)).first(18))), EPROTO);
  EXPECT_EQ(last_value_, 0xccccccccu);
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, Row72_AWriteReplyWithAnotherCountFails) {
  connect();
  const std::uint32_t value = 1;
  reply(Command::region_write, next_id_++, joined(spec::RegionAccess{.offset = 8, .region = 0, .count = 3}));
  EXPECT_EQ(error_of(client_->write_region(0, 8, as_bytes_of(value))), EPROTO);
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, Row73_AnErrorReplyIsNeverSuccessAndItsPayloadIsDrained) {
  connect();
  for (const auto& [sent, expected] :
       {std::pair<std::uint32_t, int>{0, EIO}, {EACCES, EACCES}, {4096, EIO}, {UINT32_MAX, EIO}}) {
    reply_error(Command::region_read, next_id_++, sent, testing::pattern(100));
    EXPECT_EQ(error_of(read()), expected);
  }
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, Row74_NoReplyInTimeIsTimedOutAndTheLateOneDropped) {
  options_.timeout = std::chrono::milliseconds(30);
  connect();
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  reply(Command::region_read, next_id_++, read_reply(0xdead));
  EXPECT_TRUE(alive());
  EXPECT_FALSE(client_->gone());
}

TEST_F(ClientRows, Row74_ALateReplyForAnotherCommandIsFatal) {
  options_.timeout = std::chrono::milliseconds(30);
  connect();
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  reply(Command::region_write, next_id_++, read_reply(0xdead));
  EXPECT_EQ(error_of(read()), EPROTO);
}

TEST_F(ClientRows, Row75_APeerThatClosesInTheMiddleOfAReplyWakesWhoWaits) {
  connect();
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_});
  server_.send_bytes(Bytes(bytes).first(30));
  server_.close();
  EXPECT_EQ(error_of(read()), ECONNRESET);
  expect_dead(ECONNRESET);
}

TEST_F(ClientRows, Row75_RequestsThatAreOnTheirWayTogetherAllFail) {
  connect();
  server_.close();
  EXPECT_EQ(error_of(client_->enable_interrupts(pci::InterruptKind::msix, 4)), ECONNRESET);
  EXPECT_EQ(error_of(client_->reset()), ECONNRESET);
  EXPECT_EQ(error_of(client_->dma().allocate(4096)), ECONNRESET);
}

TEST_F(ClientRows, Row76_AVersionThatCannotBeLivedWithIsRefused) {
  const auto refused = [this](const std::string& json, std::uint16_t major = 0, std::uint16_t minor = 0) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    reply_version(json, major, minor);
    const auto client = make();
    return !client && client.error().code() == EPROTO && server_.closed();
  };
  EXPECT_TRUE(refused("{}", 1));
  EXPECT_TRUE(refused("{}", 0, 1));
  EXPECT_TRUE(refused("{"));
  EXPECT_TRUE(refused("[]"));
  EXPECT_TRUE(refused("{} x"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_data_xfer_size":0}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_data_xfer_size":67108865}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_data_xfer_size":-1}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_msg_fds":100000}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_msg_fds":"8"}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_dma_maps":65536}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"pgsizes":0}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"pgsizes":2048}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"twin_socket":{"supported":true}}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}})"));
}

TEST_F(ClientRows, Row76_AVersionReplyWithoutCapabilitiesMeansTheDefaults) {
  reply(Command::version, version_id, joined(spec::Version{}));
  reply_info();
  reply_regions();
  reply_irqs();
  EXPECT_TRUE(make());
}

TEST_F(ClientRows, Row77_CountsThatCannotBeMeantAreRefused) {
  const std::array<std::uint32_t, 3> infos[] = {{3, 7, 5},  {3, 101, 5},        {3, UINT32_MAX, 5}, {3, 9, 2},
                                                {3, 9, 51}, {3, 9, UINT32_MAX}, {1, 9, 5} /* no PCI */};
  for (const auto& [flags, regions, irqs] : infos) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    reply_version();
    reply_info(flags, regions, irqs);
    EXPECT_EQ(error_of(make()), EPROTO) << flags << " " << regions << " " << irqs;
  }
}

TEST_F(ClientRows, WhatSpeaksAnotherProtocolIsToldApart) {
  const std::string greeting = "220 mail.example.org ESMTP ready\r\n";
  server_.send_bytes(std::as_bytes(std::span(greeting)));
  EXPECT_EQ(error_of(make()), EPROTO);
}

TEST_F(ClientRows, WhatClosesAtOnceIsToldApart) {
  server_.close();
  EXPECT_EQ(error_of(make()), ECONNRESET);
}

TEST_F(ClientRows, WhatNeverAnswersIsToldApart) {
  options_.timeout = std::chrono::milliseconds(20);
  EXPECT_EQ(error_of(make()), ETIMEDOUT);
}

TEST_F(ClientRows, AServerThatIsBusySaysSo) {
  reply_error(Command::version, version_id, EBUSY);
  EXPECT_EQ(error_of(make()), EBUSY);
}

// Regions that a server describes wrongly.

class ClientRegions : public ClientRows {
 protected:
  /// BAR 0 as described, all else as usual. The region as the client sees it.
  Result<pci::RegionInfo> bar0(Bytes payload, const std::vector<int>& fds = {}) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    reply_version();
    reply_info();
    reply(Command::device_get_region_info, first_region_id, payload, fds);
    reply_regions(1);
    // A second question comes before those about interrupts.
    if (second_) {
      server_.send(Command::device_get_region_info, *second_, {.flags = 1, .id = first_irq_id, .fds = fds});
      irq_id_ = first_irq_id + 1;
    }
    reply_irqs();
    auto client = make();
    if (!client) return client.error();
    client_ = std::move(*client);
    return client_->region(0);
  }
  static std::size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    return static_cast<std::size_t>(std::count(std::istreambuf_iterator<char>(maps), {}, '\n'));
  }
  static abi::RegionInfo mappable(std::uint32_t argsz = 32, std::uint32_t cap_offset = 0) {
    return {.argsz = argsz,
            .flags = cap_offset == 0 ? 7u : 15u,
            .index = 0,
            .cap_offset = cap_offset,
            .size = bar_size,
            .offset = 0};
  }
  static abi::SparseMmapCapability sparse(std::uint32_t areas, std::uint32_t next = 0) {
    return {.header = {.id = 1, .version = 1, .next = next}, .nr_areas = areas, .reserved = 0};
  }

  UniqueFd file_ = testing::make_sealed_memfd(bar_size);
  std::optional<std::vector<std::byte>> second_;
};

TEST_F(ClientRegions, AreasAreMapped) {
  const auto region = bar0(
      joined(mappable(80, 32), sparse(2), abi::SparseMmapArea{0x1000, 0x1000}, abi::SparseMmapArea{0x3000, 0x1000}),
      {file_.get()});
  ASSERT_TRUE(region) << region.error().message();
  ASSERT_EQ(region->areas.size(), 2u);
  const auto window = client_->map_window(0, 0x1800, 0x800);
  ASSERT_TRUE(window) << window.error().message();
  window->write<std::uint32_t>(4, 0xabcd);
  std::uint32_t value = 0;
  ASSERT_EQ(::pread(file_.get(), &value, 4, 0x1804), 4);
  EXPECT_EQ(value, 0xabcdu);
  EXPECT_EQ(error_of(client_->map_window(0, 0x1800, 0x801)), ENOTSUP);
  EXPECT_EQ(error_of(client_->map_window(0, 0, 4)), ENOTSUP);
  EXPECT_EQ(error_of(client_->map_window(0, 0x3000, bar_size)), EINVAL);
}

TEST_F(ClientRegions, AWindowIntoAHugeAreaMapsItsOwnPagesOnly) {
  constexpr std::uint64_t huge = UINT64_C(1) << 40;
  file_ = testing::make_sealed_memfd(huge);
  auto info = mappable();
  info.size = huge;
  ASSERT_TRUE(bar0(joined(info), {file_.get()}));
  const std::size_t before = mappings();
  const auto window = client_->map_window(0, huge / 2 + 4092, 8);  // across two pages
  ASSERT_TRUE(window) << window.error().message();
  window->write<std::uint32_t>(4, 0xabcd);
  std::uint32_t value = 0;
  ASSERT_EQ(::pread(file_.get(), &value, 4, static_cast<off_t>(huge / 2 + 4096)), 4);
  EXPECT_EQ(value, 0xabcdu);

  server_.close();
  ASSERT_TRUE(client_->process());

  EXPECT_EQ(window->read<std::uint32_t>(0), UINT32_MAX);
  EXPECT_EQ(window->read<std::uint32_t>(4), UINT32_MAX);
  EXPECT_LE(mappings(), before + 10);
}

TEST_F(ClientRegions, ADescriptionThatNeedsMoreRoomIsAskedForOnceMore) {
  second_ = joined(mappable(2000, 32), sparse(1), abi::SparseMmapArea{0x1000, 0x1000});
  second_->resize(2000);
  const auto region = bar0(joined(mappable(2000)), {file_.get()});
  ASSERT_TRUE(region) << region.error().message();
  EXPECT_EQ(region->areas.size(), 1u);
}

TEST_F(ClientRegions, Row78_ADescriptionThatGrowsAgainIsRefused) {
  second_ = joined(mappable(3000));
  EXPECT_EQ(error_of(bar0(joined(mappable(2000)))), EPROTO);
}

TEST_F(ClientRegions, Row78_ADescriptionOfAbsurdSizeIsRefusedWithoutASecondTry) {
  EXPECT_EQ(error_of(bar0(joined(mappable(UINT32_MAX)))), EPROTO);
}

TEST_F(ClientRegions, Row78_AnArgszBelowTheFixedPartIsRefused) {
  EXPECT_EQ(error_of(bar0(joined(mappable(31)))), EPROTO);
}

TEST_F(ClientRegions, Row78_ADescriptionOfAnotherRegionIsRefused) {
  auto info = mappable();
  info.index = 1;
  EXPECT_EQ(error_of(bar0(joined(info), {file_.get()})), EPROTO);
}

TEST_F(ClientRegions, Row78_AChainThatLoopsOrPointsOutsideIsRefused) {
  const abi::SparseMmapArea area{0x1000, 0x1000};
  for (const std::uint32_t cap_offset : {8u, 31u, 33u, 44u, 64u, 0x40000000u, UINT32_MAX - 7}) {
    EXPECT_EQ(error_of(bar0(joined(mappable(64, cap_offset), sparse(1), area), {file_.get()})), EPROTO) << cap_offset;
  }
  for (const std::uint32_t next : {32u, 8u, 33u, 64u, 0x80000000u, UINT32_MAX}) {
    EXPECT_EQ(error_of(bar0(joined(mappable(64, 32), sparse(1, next), area), {file_.get()})), EPROTO) << next;
  }
}

TEST_F(ClientRegions, Row78_MoreAreasThanBytesAreRefused) {
  const abi::SparseMmapArea area{0x1000, 0x1000};
  for (const std::uint32_t count : {2u, 0x10000000u, UINT32_MAX}) {
    EXPECT_EQ(error_of(bar0(joined(mappable(64, 32), sparse(count), area), {file_.get()})), EPROTO);
  }
}

TEST_F(ClientRegions, Row78_ABarWhoseSizeIsNoPowerOfTwoIsRefused) {
  auto info = mappable();
  for (const std::uint64_t size : {UINT64_C(3), bar_size + 1, UINT64_MAX}) {
    info.size = size;
    EXPECT_EQ(error_of(bar0(joined(info))), EPROTO);
  }
}

TEST_F(ClientRegions, Row78_AnOffsetThatWrapsIsNotMapped) {
  auto info = mappable();
  for (const std::uint64_t offset : {UINT64_MAX - 0xfff, UINT64_MAX - 0x3fff, UINT64_C(0x1000), UINT64_C(1)}) {
    info.offset = offset;
    const auto region = bar0(joined(info), {file_.get()});
    ASSERT_TRUE(region);
    EXPECT_TRUE(region->areas.empty()) << offset;
  }
}

TEST_F(ClientRegions, Row78_AreasThatCannotBeMappedAreDropped) {
  const auto region =
      bar0(joined(mappable(144, 32), sparse(6), abi::SparseMmapArea{0x1001, 0x1000}, abi::SparseMmapArea{0x1000, 0x800},
                  abi::SparseMmapArea{0x3000, 0x2000}, abi::SparseMmapArea{UINT64_MAX - 0xfff, 0x2000},
                  abi::SparseMmapArea{0x2000, 0x1000}, abi::SparseMmapArea{0x2000, 0x2000}),
           {file_.get()});
  ASSERT_TRUE(region);
  ASSERT_EQ(region->areas.size(), 1u);
  EXPECT_EQ(region->areas[0].offset, 0x2000u);
}

TEST_F(ClientRegions, Row79_MmapWithoutADescriptorIsATrappedRegion) {
  const auto region = bar0(joined(mappable()));
  ASSERT_TRUE(region);
  EXPECT_TRUE(region->areas.empty());
  EXPECT_EQ(error_of(client_->map_window(0, 0, 4096)), ENOTSUP);
}

TEST_F(ClientRegions, Row79_AFileShorterThanTheAreaIsATrappedRegion) {
  const UniqueFd small = testing::make_sealed_memfd(0x3000);
  EXPECT_TRUE(bar0(joined(mappable()), {small.get()})->areas.empty());
  const UniqueFd other(::eventfd(0, EFD_CLOEXEC));
  EXPECT_TRUE(bar0(joined(mappable()), {other.get()})->areas.empty());
}

TEST_F(ClientRegions, TwoDescriptorsForARegionAreRefused) {
  EXPECT_EQ(error_of(bar0(joined(mappable()), {file_.get(), file_.get()})), EPROTO);
}

TEST_F(ClientRegions, WithoutConfigurationSpaceThereIsNoFunction) {
  reply_version();
  reply_info();
  for (std::uint32_t index = 0; index < 9; ++index) {
    if (index == 7) {
      reply_error(Command::device_get_region_info, first_region_id + 7, EINVAL);
    } else {
      reply_region(plain_region(index));
    }
  }
  reply_irqs();
  EXPECT_FALSE(make());
}

// Memory that the server reaches by messages.

class ClientMemory : public ClientRows {
 protected:
  static constexpr std::size_t size = 8192;

  void SetUp() override {
    client_socket_ = socket_.get();
    pages_ = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    connect();
    reply(Command::dma_map, next_id_++, {});
    auto buffer = client_->dma().map(memory(), nullptr, 0);
    ASSERT_TRUE(buffer) << buffer.error().message();
    buffer_ = std::move(*buffer);
    server_.receive();  // the DMA_MAP
  }
  void TearDown() override {
    unmap();
    client_.reset();
    ::munmap(pages_, size);
  }
  void unmap() {
    if (!buffer_) return;
    reply(Command::dma_unmap, next_id_++, std::vector<std::byte>(24));
    buffer_.reset();
    server_.receive();
  }
  MutableBytes memory() const { return {static_cast<std::byte*>(pages_), size}; }
  std::uint64_t address() const { return raw(buffer_.iova()); }

  std::optional<Message> serve(Command command, Bytes payload, const testing::VfioUserPeer::Shape& shape = {}) {
    server_.send(command, payload, shape);
    EXPECT_TRUE(client_->process());
    return server_.receive();
  }
  int read_error(std::uint64_t at, std::uint64_t count) {
    const auto reply = serve(Command::dma_read, joined(spec::DmaAccess{at, count}));
    return reply ? reply->error() : -1;
  }
  int write_error(std::uint64_t at, std::uint64_t count, std::size_t length) {
    auto payload = joined(spec::DmaAccess{at, count});
    const auto data = testing::pattern(length);
    payload.insert(payload.end(), data.begin(), data.end());
    const auto reply = serve(Command::dma_write, payload);
    return reply ? reply->error() : -1;
  }

  int client_socket_ = -1;
  void* pages_ = nullptr;
  memory::DmaBuffer buffer_;
};

TEST_F(ClientMemory, IsReadAndWritten) {
  memory()[100] = std::byte{42};
  const auto read = serve(Command::dma_read, joined(spec::DmaAccess{address() + 100, 4}));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->payload.size(), 20u);
  EXPECT_EQ(read->at<spec::DmaAccess>().address, address() + 100);
  EXPECT_EQ(read->at<spec::DmaAccess>().count, 4u);
  EXPECT_EQ(read->payload[16], std::byte{42});
  const auto write = serve(Command::dma_write, joined(spec::DmaAccess{address() + 200, 4}, std::uint32_t{0x01020304}));
  ASSERT_TRUE(write);
  EXPECT_EQ(write->payload, joined(spec::DmaAccess{address() + 200, 4}));
  EXPECT_EQ(memory()[200], std::byte{4});
}

TEST_F(ClientMemory, APostedWriteIsNotAnswered) {
  EXPECT_FALSE(serve(Command::dma_write, joined(spec::DmaAccess{address(), 4}, std::uint32_t{0x01020304}),
                     {.flags = spec::flag::no_reply}));
  EXPECT_EQ(memory()[0], std::byte{4});
}

TEST_F(ClientMemory, Row80_WhatIsNotMappedOrPartlyMappedIsRefusedWithoutEffect) {
  memory()[size - 1] = std::byte{7};
  EXPECT_EQ(read_error(address() - 1, 1), EFAULT);
  EXPECT_EQ(read_error(address() + size, 1), EFAULT);
  EXPECT_EQ(read_error(address() + size - 4, 5), EFAULT);
  EXPECT_EQ(read_error(0, 64), EFAULT);
  EXPECT_EQ(write_error(address() - 2, 4, 4), EFAULT);
  EXPECT_EQ(write_error(address() + size - 1, 2, 2), EFAULT);
  EXPECT_EQ(memory()[size - 1], std::byte{7});
}

TEST_F(ClientMemory, Row81_CountsBeyondTheLimitOrThePayloadOrTheLastAddress) {
  EXPECT_EQ(read_error(address(), (1u << 20) + 1), E2BIG);
  EXPECT_EQ(read_error(address(), UINT64_MAX), E2BIG);
  EXPECT_EQ(write_error(address(), UINT64_MAX, 4), E2BIG);
  EXPECT_EQ(write_error(address(), 5, 4), EINVAL);
  EXPECT_EQ(write_error(address(), 3, 4), EINVAL);
  EXPECT_EQ(read_error(UINT64_MAX, 2), EFAULT);
  EXPECT_EQ(read_error(UINT64_MAX - 3, 4), EFAULT);
  EXPECT_EQ(serve(Command::dma_read, testing::pattern(15))->error(), EINVAL);
}

TEST_F(ClientMemory, Row81_ACountOfZeroSucceeds) {
  EXPECT_EQ(read_error(address(), 0), 0);
  EXPECT_EQ(read_error(0, 0), 0);
  EXPECT_EQ(write_error(0, 0, 0), 0);
}

TEST_F(ClientMemory, Row82_ACommandThatComesWhileACallWaitsIsServed) {
  memory()[0] = std::byte{9};
  server_.send(Command::dma_read, joined(spec::DmaAccess{address(), 1}));
  reply(Command::region_read, next_id_++, read_reply(5));
  EXPECT_EQ(read().value(), 5u);
  server_.receive();  // the REGION_READ
  const auto answer = server_.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->payload.back(), std::byte{9});
}

TEST_F(ClientMemory, Row82_ACommandThatComesRightBehindAReplyIsServedToo) {
  // All in one piece. The first two make the client look for more at once: when the reply has been taken, nothing makes the
  // descriptor readable for the last one, which came with it.
  memory()[0] = std::byte{9};
  const auto command = server_.message(11, joined(spec::DmaAccess{address(), 1}), {});
  const auto answer = server_.message(9, read_reply(5), {.flags = spec::flag::reply, .id = next_id_++});
  std::vector<std::byte> bytes;
  for (const auto& each : {command, command, answer, command}) bytes.insert(bytes.end(), each.begin(), each.end());
  server_.send_bytes(bytes);
  EXPECT_EQ(read().value(), 5u);
  server_.receive();  // the REGION_READ
  for (int i = 0; i < 3; ++i) {
    const auto served = server_.receive();
    ASSERT_TRUE(served) << i;
    EXPECT_EQ(served->payload.back(), std::byte{9});
  }
}

TEST_F(ClientMemory, Row82_ACommandThatIsLeftInTheSocketBehindAReplyMakesTheDescriptorReadable) {
  const auto command = server_.message(11, joined(spec::DmaAccess{address(), 1}), {});
  auto bytes = server_.message(9, read_reply(5), {.flags = spec::flag::reply, .id = next_id_++});
  bytes.insert(bytes.end(), command.begin(), command.end());
  server_.send_bytes(bytes);
  EXPECT_EQ(read().value(), 5u);
  server_.receive();  // the REGION_READ
  if (!server_.receive()) {
    pollfd state{.fd = client_->fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&state, 1, 0), 1);
    ASSERT_TRUE(client_->process());
    EXPECT_TRUE(server_.receive());
  }
}

TEST_F(ClientMemory, Row85_WhatACallCouldNotSendGoesWhenTheServerReads) {
  const int small = 4096;
  ::setsockopt(client_socket_, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  pollfd state{.fd = client_->fd(), .events = POLLIN, .revents = 0};
  const auto command = joined(spec::DmaAccess{address(), size});
  for (int i = 0; i < 4; ++i) server_.send(Command::dma_read, command);
  reply(Command::region_read, next_id_++, read_reply(5));
  EXPECT_EQ(read().value(), 5u);

  server_.receive();  // the REGION_READ
  for (int i = 0; i < 4; ++i) {
    auto answer = server_.receive();
    while (!answer) {
      ASSERT_EQ(::poll(&state, 1, 0), 1);
      ASSERT_TRUE(client_->process());
      answer = server_.receive();
    }
    EXPECT_EQ(answer->payload.size(), 16 + size);
  }
  EXPECT_EQ(::poll(&state, 1, 0), 0);
}

TEST_F(ClientMemory, Row82_AFloodOfCommandsIsServedAPieceAtATime) {
  std::vector<std::byte> bytes;
  const auto posted = server_.message(11, joined(spec::DmaAccess{address(), size}), {.flags = spec::flag::no_reply});
  for (int i = 0; i < 2000; ++i) bytes.insert(bytes.end(), posted.begin(), posted.end());
  const auto last = server_.message(11, joined(spec::DmaAccess{address(), 1}), {});
  bytes.insert(bytes.end(), last.begin(), last.end());
  ASSERT_TRUE(server_.send_bytes(bytes));
  pollfd state{.fd = client_->fd(), .events = POLLIN, .revents = 0};

  ASSERT_TRUE(client_->process());

  EXPECT_FALSE(server_.receive());
  while (::poll(&state, 1, 0) == 1) ASSERT_TRUE(client_->process());
  EXPECT_TRUE(server_.receive());
}

TEST_F(ClientMemory, Row83_DescriptorsAndUnknownCommandsAreRefused) {
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const std::size_t before = open_fds();
  EXPECT_EQ(serve(Command::dma_read, joined(spec::DmaAccess{address(), 1}), {.fds = {fd}})->error(), EINVAL);
  EXPECT_EQ(serve(Command::region_read, testing::pattern(16))->error(), ENOSYS);
  EXPECT_EQ(serve(static_cast<Command>(0), {})->error(), ENOSYS);
  EXPECT_EQ(serve(static_cast<Command>(99), testing::pattern(16), {.fds = {fd}})->error(), ENOSYS);
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(alive());
  ::close(fd);
}

TEST_F(ClientMemory, Row84_AfterItWasTakenBackItIsNotThere) {
  const std::uint64_t at = address();
  unmap();
  EXPECT_EQ(read_error(at, 1), EFAULT);
}

TEST_F(ClientRows, ADmaMapThatIsRefusedLeavesNoWindow) {
  connect();
  reply_error(Command::dma_map, next_id_++, ENOSPC);
  EXPECT_EQ(error_of(client_->dma().allocate(4096)), ENOSPC);
  const auto map = server_.receive();
  ASSERT_TRUE(map);
  const auto asked = map->at<spec::DmaMap>();
  EXPECT_EQ(asked.argsz, 32u);
  EXPECT_EQ(asked.flags, 3u);
  EXPECT_EQ(map->fds.size(), 1u);
  server_.send(Command::dma_read, joined(spec::DmaAccess{asked.address, 1}));
  ASSERT_TRUE(client_->process());
  EXPECT_EQ(server_.receive()->error(), EFAULT);
}

// Interrupts and doorbells.

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

TEST_F(ClientRows, AServerThatCannotResetIsNotAsked) {
  reply_version();
  reply_info(2);
  reply_regions();
  reply_irqs();
  client_ = std::move(make().value());
  while (server_.receive()) {
  }
  EXPECT_EQ(error_of(client_->reset()), ENOTSUP);
  EXPECT_FALSE(server_.receive());
}

TEST_F(ClientRows, ErrorAndUnplugEventsComeThroughTheLoop) {
  reply_version();
  reply_info();
  reply_regions();
  for (std::uint32_t index = 0; index < 5; ++index) reply_irq(index, 1);
  client_ = std::move(make().value());
  while (server_.receive()) {
  }
  testing::ManualLoop loop;
  reply(Command::device_set_irqs, 17, {});
  reply(Command::device_set_irqs, 18, {});
  ASSERT_TRUE(client_->attach(loop));
  const auto error_fd = server_.receive();
  const auto request_fd = server_.receive();
  ASSERT_TRUE(error_fd && request_fd);
  ASSERT_EQ(error_fd->fds.size(), 1u);
  EXPECT_EQ(error_fd->at<abi::IrqSet>().index, 3u);
  std::vector<pci::Event> events;
  client_->on_event([&events](pci::Event event) { events.push_back(event); });
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(request_fd->fds[0].get(), &one, 8), 8);
  loop.run_until_idle();
  ASSERT_EQ(::write(error_fd->fds[0].get(), &one, 8), 8);
  loop.run_until_idle();
  EXPECT_EQ(events, (std::vector{pci::Event::unplug_requested, pci::Event::error}));
  client_.reset();
}

/// A client whose server can tell of errors and unplug requests.
class ClientIsTold : public ClientRows {
 protected:
  void SetUp() override {
    reply_version();
    reply_info();
    reply_regions();
    for (std::uint32_t index = 0; index < 5; ++index) reply_irq(index, 1);
    client_ = std::move(make().value());
    while (server_.receive()) {
    }
    reply(Command::device_set_irqs, 17, {});
    reply(Command::device_set_irqs, 18, {});
    ASSERT_TRUE(client_->attach(loop_));
    error_ = server_.receive().value();
    request_ = server_.receive().value();
    loop_.run_until_idle();
  }
  void TearDown() override { client_.reset(); }
  /// An error and an unplug request, at once.
  void tell_of_both() {
    const std::uint64_t one = 1;
    for (const Message* each : {&error_, &request_}) EXPECT_EQ(::write(each->fds.at(0).get(), &one, 8), 8);
  }

  testing::ManualLoop loop_;
  Message error_, request_;
  std::vector<pci::Event> told_;
};

TEST_F(ClientIsTold, AHandlerMayDestroyTheClient) {
  client_->on_event([this](pci::Event event) {
    client_.reset();
    told_.push_back(event);
  });
  tell_of_both();
  loop_.run_until_idle();
  EXPECT_EQ(told_, std::vector{pci::Event::error}) << "and of nothing more";
}

TEST_F(ClientIsTold, AHandlerThatDestroysTheClientTakesItsMemoryBackFirst) {
  reply(Command::dma_map, 19, {});
  ASSERT_TRUE(client_->dma().allocate(4096));
  ASSERT_TRUE(server_.receive());
  client_->on_event([this](pci::Event) {
    reply(Command::dma_unmap, 20, joined(spec::DmaUnmap{.argsz = 24, .flags = 0, .address = 0, .size = 0}));
    client_.reset();
  });
  tell_of_both();
  loop_.run_until_idle();
  const auto last = server_.receive();
  ASSERT_TRUE(last);
  EXPECT_EQ(static_cast<Command>(last->header.command), Command::dma_unmap);
}

TEST_F(ClientIsTold, AHandlerThatRevokesMayDestroyTheClientWhenItHearsThatItIsGone) {
  client_->on_event([this](pci::Event event) {
    told_.push_back(event);
    if (event == pci::Event::error) client_->revoke();
    if (event == pci::Event::gone) client_.reset();
  });
  tell_of_both();
  loop_.run_until_idle();
  EXPECT_EQ(told_, (std::vector{pci::Event::error, pci::Event::gone}));
  EXPECT_EQ(client_, nullptr);
}

TEST_F(ClientIsTold, AHandlerMaySetAnother) {
  client_->on_event([this, captured = std::make_unique<int>(1)](pci::Event) {
    client_->on_event([this](pci::Event event) { told_.push_back(event); });
    *captured = 2;
  });
  tell_of_both();
  loop_.run_until_idle();
  EXPECT_EQ(told_, std::vector{pci::Event::unplug_requested});
}

TEST_F(ClientRows, AskingForEventsDoesNotWait) {
  std::string logged;
  options_.log = Log([&logged](Level, std::string_view line) { logged += line; });
  options_.timeout = std::chrono::milliseconds(50);
  reply_version();
  reply_info();
  reply_regions();
  for (std::uint32_t index = 0; index < 5; ++index) reply_irq(index, 1);
  client_ = std::move(make().value());
  while (server_.receive()) {
  }
  ASSERT_TRUE(client_->process());
  const auto error_fd = server_.receive();
  const auto request_fd = server_.receive();
  ASSERT_TRUE(error_fd && request_fd);
  EXPECT_EQ(error_fd->at<abi::IrqSet>().index, 3u);
  EXPECT_EQ(request_fd->at<abi::IrqSet>().index, 4u);
  EXPECT_EQ(logged, "");
  server_.reply_error(*error_fd, ENOTSUP);
  server_.reply(*request_fd, {});
  ASSERT_TRUE(client_->process());
  EXPECT_NE(logged.find("no events"), std::string::npos);
  next_id_ = 19;
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, APostedWriteAsksForNoReply) {
  connect();
  const std::uint32_t value = 0x01020304;
  ASSERT_TRUE(client_->post_write(0, 8, as_bytes_of(value)));
  const auto message = server_.receive();
  ASSERT_TRUE(message);
  EXPECT_EQ(message->header.command, 10);
  EXPECT_EQ(message->header.flags, spec::flag::no_reply);
  EXPECT_EQ(message->payload, joined(spec::RegionAccess{.offset = 8, .region = 0, .count = 4}, value));
}

TEST_F(ClientRows, Row85_PostedWritesThatNobodyReadsEndInAnErrorNotInAHang) {
  options_.timeout = std::chrono::milliseconds(30);
  connect();
  const std::vector<std::byte> data(4096);
  Status status;
  for (int i = 0; i < 10000 && status; ++i) status = client_->post_write(0, 0, data);
  EXPECT_EQ(error_of(status), ETIMEDOUT);
}

}  // namespace
}  // namespace outboard::vfio_user
