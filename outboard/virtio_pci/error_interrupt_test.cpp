// The ERR interrupt of a function whose device breaks.

#include <gtest/gtest.h>

#include <outboard/virtio/spec.hpp>
#include <tests/support/virtio_function_rig.hpp>

namespace outboard::virtio_pci {
namespace {

using Rig = testing::VirtioFunctionRig;

EventFd bind_error(Rig& rig) {
  EventFd mine = EventFd::create().value();
  std::vector<EventFd> theirs;
  theirs.push_back(mine.duplicate().value());
  EXPECT_TRUE(rig.function->bind_interrupts(pci::InterruptKind::error, 0, std::move(theirs)));
  return mine;
}

void break_device(Rig& rig) {
  rig.start();
  rig.function->core().break_device("a test breaks it");
  rig.loop.run_until_idle();
  ASSERT_NE(rig.device_status() & virtio::spec::status::needs_reset, 0);
}

TEST(ErrorInterrupt, IsOfferedAndNotRaisedUnlessItIsAskedFor) {
  Rig rig;
  const EventFd error = bind_error(rig);
  EXPECT_EQ(rig.function->interrupts(pci::InterruptKind::error).count, 1U);
  break_device(rig);
  EXPECT_EQ(error.drain(), 0U) << "QEMU would stop the virtual machine";
}

TEST(ErrorInterrupt, TellsOnceThatTheDeviceNeedsAReset) {
  Rig rig({.error_interrupt = true});
  const EventFd error = bind_error(rig);
  const auto vectors = rig.enable_msix();
  break_device(rig);
  EXPECT_EQ(error.drain(), 1U);
  rig.function->core().break_device("and again");
  rig.device->change_config(0, std::byte{0x55});
  rig.loop.run_until_idle();
  EXPECT_EQ(error.drain(), 0U);

  rig.available.clear();
  break_device(rig);  // after a reset
  EXPECT_EQ(error.drain(), 1U);
}

TEST(ErrorInterrupt, AConfigurationChangeIsNoError) {
  Rig rig({.error_interrupt = true});
  const EventFd error = bind_error(rig);
  rig.start();
  rig.device->change_config(0, std::byte{0x55});
  rig.loop.run_until_idle();
  EXPECT_EQ(error.drain(), 0U);
}

}  // namespace
}  // namespace outboard::virtio_pci
