// A function of this process behind a kernel's VFIO (a fake one), re-exported: what vfio::Handle and Passthrough make of each
// other, under a kernel that complains about whatever a real one would make somebody suffer for.

#include <gtest/gtest.h>

#include <optional>

#include <outboard/base/endian.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/config_walk.hpp>
#include <outboard/pci/passthrough.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/fake_vfio.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::pci {
namespace {

using testing::PlainFunction;
using enum InterruptKind;
using memory::Iova;

class PassthroughOverVfio : public ::testing::Test {
 protected:
  void make(const std::string& cdev = {}, bool trust = false) {
    auto made = PlainFunction::create(device_loop);
    ASSERT_TRUE(made);
    plain = made->get();
    device = &kernel.add({.cdev = cdev}, std::move(*made), [this] { device_loop.run_until_idle(); });
    auto handle = vfio::Handle::open(device->options().address, kernel.options());
    ASSERT_TRUE(handle) << handle.error().message();
    Passthrough::Options options{.trust_client = trust};
    options.run_blocking = [](Loop::Task task) { task(); };
    options.ended = [this](const std::string& why) { ended.push_back(why); };
    auto passthrough = Passthrough::create(std::move(*handle), loop, Log(), std::move(options));
    ASSERT_TRUE(passthrough) << passthrough.error().message();
    function = std::move(*passthrough);
  }
  void TearDown() override {
    function.reset();
    EXPECT_EQ(kernel.violations(), std::vector<std::string>());
    EXPECT_FALSE(kernel.in_use(device->options().address));
  }

  std::uint32_t read(unsigned region, std::uint64_t offset) {
    le32 value = 0;
    const auto done = function->read_region(region, offset, as_writable_bytes_of(value));
    EXPECT_TRUE(done) << done.error().message();
    return value;
  }
  void write(unsigned region, std::uint64_t offset, std::uint32_t bits) {
    const auto done = function->write_region(region, offset, as_bytes_of(le32(bits)));
    EXPECT_TRUE(done) << done.error().message();
  }
  void command(std::uint16_t bits) { EXPECT_TRUE(function->write_region(region::config, 4, as_bytes_of(le16(bits)))); }
  Status map(std::uint64_t start, MutableBytes bytes) {
    return function->map(
        {.range = {Iova{start}, bytes.size()}, .memory = memory::HostMemory::borrowed(bytes), .port = nullptr});
  }
  Status bind(InterruptKind kind, std::uint32_t start, const EventFd& eventfd) {
    std::vector<EventFd> list;
    list.push_back(eventfd.duplicate().value());
    return function->bind_interrupts(kind, start, std::move(list));
  }
  Status wait(void (Passthrough::*what)(Function::Completion)) {
    std::optional<Status> result;
    ((*function).*what)([&](Status status) { result = std::move(status); });
    loop.run_until_idle();
    return result ? *result : Status(Error(ETIME));
  }
  std::uint32_t dma(std::uint64_t address, std::uint32_t what) {
    write(0, PlainFunction::dma_address_at, static_cast<std::uint32_t>(address));
    write(0, PlainFunction::dma_address_at + 4, static_cast<std::uint32_t>(address >> 32));
    write(0, PlainFunction::dma_length_at, 16);
    write(0, PlainFunction::dma_command_at, what);
    return read(0, PlainFunction::dma_status_at);
  }

  struct alignas(4096) Page {
    std::byte bytes[0x4000]{};
  };

  testing::ManualLoop device_loop, loop;
  testing::FakeVfio kernel;
  testing::FakeVfioDevice* device = nullptr;
  PlainFunction* plain = nullptr;
  std::unique_ptr<Passthrough> function;
  std::unique_ptr<Page> memory = std::make_unique<Page>();
  EventFd line = std::move(*EventFd::create());
  std::vector<std::string> ended;
};

class PassthroughThroughEitherInterface : public PassthroughOverVfio,
                                          public ::testing::WithParamInterface<const char*> {};

TEST_P(PassthroughThroughEitherInterface, RegistersDmaAndInterruptsWork) {
  make(GetParam());
  ASSERT_TRUE(map(0x100000, memory->bytes));
  ASSERT_TRUE(bind(msix, 2, line));
  command(0x0006);
  EXPECT_EQ(read(0, PlainFunction::id_at), PlainFunction::id_value);
  memory->bytes[5] = std::byte{0x42};
  EXPECT_EQ(dma(0x100000, PlainFunction::dma_from_memory), PlainFunction::dma_done);
  EXPECT_EQ(read(0, PlainFunction::buffer_at + 4) >> 8 & 0xFF, 0x42u);
  write(0, PlainFunction::signal_msix_at, 2);
  EXPECT_EQ(line.drain(), 1u);
  EXPECT_EQ(dma(0x200000, PlainFunction::dma_from_memory), PlainFunction::dma_failed + EFAULT);
}

INSTANTIATE_TEST_SUITE_P(, PassthroughThroughEitherInterface, ::testing::Values("", "vfio0"),
                         [](const auto& each) { return std::string(*each.param == '\0' ? "Group" : "Cdev"); });

TEST_F(PassthroughOverVfio, TheHostsAddressesAreNotShown) {
  make();
  EXPECT_EQ(read(region::config, 0x10) & ~0xFu, 0u);
  write(region::config, 0x10, UINT32_MAX);
  EXPECT_EQ(read(region::config, 0x10), ~static_cast<std::uint32_t>(PlainFunction::bar_size - 1));
}

TEST_F(PassthroughOverVfio, WhileDecodingIsOffNothingIsAskedOfTheKernel) {
  make();
  command(0);
  EXPECT_EQ(read(0, 0), UINT32_MAX);
  write(0, PlainFunction::scratch_at, 1);
  EXPECT_TRUE(device->accesses.empty());
}

TEST_F(PassthroughOverVfio, TheDescriptorIsTheKernelsAndOnlyForTrustedClients) {
  make();
  EXPECT_EQ(function->region(0).fd, nullptr);
}

TEST_F(PassthroughOverVfio, ATrustedClientGetsIt) {
  make({}, true);
  ASSERT_NE(function->region(0).fd, nullptr);
  EXPECT_FALSE(function->region(0).areas.empty());
}

TEST_F(PassthroughOverVfio, AResetIsTheKernelsAndTheClientFindsAPowerOn) {
  make();
  ASSERT_TRUE(map(0x100000, memory->bytes));
  ASSERT_TRUE(bind(msix, 0, line));
  command(0x0006);
  write(0, PlainFunction::scratch_at, 7);
  const unsigned before = device->resets;
  EXPECT_TRUE(wait(&Passthrough::reset));
  EXPECT_EQ(device->resets, before + 1);
  EXPECT_EQ(read(region::config, 4) & 0xFFFF, 0u);
  command(0x0006);
  EXPECT_EQ(read(0, PlainFunction::scratch_at), 0u);
  write(0, PlainFunction::signal_msix_at, 0);
  EXPECT_EQ(line.drain(), 1u) << "bound still";
}

TEST_F(PassthroughOverVfio, TheNextClientFindsNothingOfTheLast) {
  make();
  ASSERT_TRUE(map(0x100000, memory->bytes));
  ASSERT_TRUE(bind(msi, 0, line));
  command(0x0006);
  write(0, PlainFunction::scratch_at, 7);
  EXPECT_TRUE(wait(&Passthrough::release_client));
  command(0x0006);
  EXPECT_EQ(read(0, PlainFunction::scratch_at), 0u);
  EXPECT_EQ(dma(0x100000, PlainFunction::dma_from_memory), PlainFunction::dma_failed + ENODEV)
      << "no bus mastering without memory";
  ASSERT_TRUE(map(0x100000, memory->bytes));
  EXPECT_TRUE(bind(msix, 0, line));
}

TEST_F(PassthroughOverVfio, VFIO20_FewerMsiVectorsThanAskedForAreAnError) {
  make();
  device->machine_vectors[msi] = 1;
  std::vector<EventFd> lines;
  for (int i = 0; i < 4; ++i) lines.push_back(std::move(*EventFd::create()));
  const auto bound = function->bind_interrupts(msi, 0, std::move(lines));
  ASSERT_FALSE(bound);
  EXPECT_EQ(bound.error().code(), ENOSPC);
  EXPECT_TRUE(bind(msi, 0, line)) << "one there is";
}

TEST_F(PassthroughOverVfio, VFIO41_MemoryBeyondTheLimitOfLockedPagesIsRefused) {
  make();
  kernel.limits.lockable = 0x1000;
  const auto mapped = map(0x100000, memory->bytes);
  ASSERT_FALSE(mapped);
  EXPECT_EQ(mapped.error().code(), ENOMEM);
  kernel.limits.lockable = UINT64_MAX;
  EXPECT_TRUE(map(0x100000, memory->bytes)) << "nothing has changed";
}

TEST_F(PassthroughOverVfio, VFIO44_AnUnplugIsPassedOnAndTheDeviceGivenBack) {
  make();
  ASSERT_TRUE(map(0x100000, memory->bytes));
  ASSERT_TRUE(bind(request, 0, line));
  device->request_unplug();
  loop.run_until_idle();
  EXPECT_EQ(line.drain(), 1u);
  EXPECT_TRUE(kernel.in_use(device->options().address));
  loop.advance(std::chrono::seconds(6));
  EXPECT_FALSE(kernel.in_use(device->options().address));
  EXPECT_EQ(ended.size(), 1u);
  EXPECT_EQ(read(region::config, 0), UINT32_MAX);
}

TEST_F(PassthroughOverVfio, VFIO37_AnErrorIsPassedOn) {
  make();
  ASSERT_TRUE(bind(error, 0, line));
  device->report_error();
  loop.run_until_idle();
  EXPECT_EQ(line.drain(), 1u);
}

}  // namespace
}  // namespace outboard::pci
