/// The layouts of the driver for Linux are those of the device.

#include <cstddef>

#include <gtest/gtest.h>

// Not a part of the library, so on no include path.
#include "../../../linux/virtio_example/virtio_example.h"

#include <outboard/devices/example/layout.hpp>

namespace outboard::example {
namespace {

TEST(LinuxHeader, NumbersAreThoseOfTheChapter) {
  EXPECT_EQ(VIRTIO_ID_EXAMPLE, device_id);
  EXPECT_EQ(VIRTIO_EXAMPLE_VQ_REQUEST, request_queue);
  EXPECT_EQ(VIRTIO_EXAMPLE_VQ_EVENT, event_queue);
  EXPECT_EQ(virtio::Feature{VIRTIO_EXAMPLE_F_LIMIT}, feature::limit);
  EXPECT_EQ(VIRTIO_EXAMPLE_S_OK, spec::status::ok);
  EXPECT_EQ(VIRTIO_EXAMPLE_S_RANGE, spec::status::range);
  EXPECT_EQ(VIRTIO_EXAMPLE_EV_LIMIT_HIT, spec::event::limit_hit);
}

TEST(LinuxHeader, LayoutsAreThoseOfTheChapter) {
  EXPECT_EQ(sizeof(virtio_example_config), sizeof(spec::Config));
  EXPECT_EQ(offsetof(virtio_example_config, limit), offsetof(spec::Config, limit));
  EXPECT_EQ(offsetof(virtio_example_config, epoch), offsetof(spec::Config, epoch));
  EXPECT_EQ(sizeof(virtio_example_request), sizeof(spec::Request));
  EXPECT_EQ(sizeof(virtio_example_reply), sizeof(spec::Reply));
  EXPECT_EQ(offsetof(virtio_example_reply, result), offsetof(spec::Reply, result));
  EXPECT_EQ(offsetof(virtio_example_reply, status), offsetof(spec::Reply, status));
  EXPECT_EQ(sizeof(virtio_example_event), sizeof(spec::Event));
  EXPECT_EQ(offsetof(virtio_example_event, missed), offsetof(spec::Event, missed));
  EXPECT_EQ(offsetof(virtio_example_event, value), offsetof(spec::Event, value));
}

}  // namespace
}  // namespace outboard::example
