#pragma once

#include <memory>

#include <outboard/devices/blk/driver.hpp>

#include "cases.hpp"
#include "transport.hpp"

namespace outboard::vhost {

/// A driver on its transport.
struct Disk {
  std::unique_ptr<Transport> transport;
  std::unique_ptr<blk::Driver> driver;

  const Node& node() const { return transport->node(); }
};

/// Negotiates and starts the disk. The driver has no timeout: a test that hangs is ended from outside.
inline Result<Disk> start(const Arguments& arguments) {
  OUTBOARD_TRY(auto transport, Transport::open(arguments.node));
  const blk::Driver::Options options{
      .queues = arguments.queues, .packed = arguments.packed, .timeout = Duration::zero()};
  OUTBOARD_TRY(auto driver, blk::Driver::start(*transport, options));
  if (driver.features().has(virtio::Feature::ring_packed) != arguments.packed)
    return Error(EPROTO, "the ring is not of the kind that was asked for");
  if (driver.queue_count() != arguments.queues) return Error(EPROTO, "not as many queues as were asked for");
  return Disk{std::move(transport), std::make_unique<blk::Driver>(std::move(driver))};
}

/// Whether the driver never had to reset the device.
inline Status check_undisturbed(const Disk& disk) {
  if (disk.driver->recoveries() == 0) return {};
  return Error(EIO, "the driver had to reset the device");
}

}  // namespace outboard::vhost
