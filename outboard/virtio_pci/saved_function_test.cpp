// What a virtio function says of itself for another process, as sections.

#include <gtest/gtest.h>

#include <tests/support/virtio_function_rig.hpp>

namespace outboard::virtio_pci {
namespace {

using testing::VirtioFunctionRig;

TEST(SavedVirtioFunction, HasTheFunctionTheSelectorsTheVectorsAndTheIsr) {
  VirtioFunctionRig r;
  r.start();
  r.set_bar<std::uint32_t>(offsetof(spec::CommonConfig, device_feature_select), 1);
  r.set_bar<std::uint16_t>(offsetof(spec::CommonConfig, config_msix_vector), 2);
  r.select(1);
  r.set_bar<std::uint16_t>(offsetof(spec::CommonConfig, queue_msix_vector), 0);
  r.publish(0, 0, 41);
  r.kick(0);

  StateWriter writer;
  r.function->save(writer);
  const auto bytes = std::move(writer).finish().value();
  auto whole = StateReader::open(bytes, state_tag("VFUN"), 1).value();
  EXPECT_TRUE(whole.section(state_tag("FUNC"), 1));
  auto common = whole.section(state_tag("VPCI"), 1).value();
  EXPECT_EQ(common.get<std::uint32_t>().value(), 1U) << "device_feature_select";
  EXPECT_EQ(common.get<std::uint32_t>().value(), 3U) << "driver_feature_select";
  EXPECT_EQ(common.get<std::uint16_t>().value(), 1U) << "queue_select";
  EXPECT_EQ(common.get<std::uint16_t>().value(), 2U) << "config_msix_vector";
  EXPECT_EQ(common.get<std::uint16_t>().value(), 2U) << "queues";
  EXPECT_EQ(common.get<std::uint16_t>().value(), spec::no_vector);
  EXPECT_EQ(common.get<std::uint16_t>().value(), 0U);
  EXPECT_TRUE(common.end());
  EXPECT_EQ(whole.get<std::uint8_t>().value(), 1U) << "a used buffer, and nobody has read it";
  EXPECT_FALSE(whole.get_flag().value());
  EXPECT_TRUE(whole.end());
}

}  // namespace
}  // namespace outboard::virtio_pci
