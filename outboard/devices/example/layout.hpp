#pragma once

#include <cstddef>
#include <cstdint>

#include <outboard/base/endian.hpp>
#include <outboard/virtio/features.hpp>

/// The example device: the layout on the wire, for device and driver. specification.md beside this file
/// is its chapter; section numbers (5.x...) are those of the chapter.
namespace outboard::example {

/// 5.x.1. Not assigned: VIRTIO 1.4 lists 1 to 49, and PCI can express 1 to 63.
constexpr std::uint32_t device_id = 63;

/// 5.x.2.
constexpr unsigned request_queue = 0;
constexpr unsigned event_queue = 1;  ///< only with LIMIT

/// 5.x.3.
namespace feature {
constexpr virtio::Feature limit{0};
}

namespace spec {

/// 5.x.4 Device configuration layout. Present only when LIMIT is offered.
struct Config {
  le32 limit;  ///< largest value that is not refused
  le32 reserved;  ///< 0
  le64 epoch;  ///< how often limit has changed since the device was made
};
static_assert(offsetof(Config, limit) == 0 && offsetof(Config, reserved) == 4 && offsetof(Config, epoch) == 8);
static_assert(sizeof(Config) == 16);

/// 5.x.6 Device Operation: the device-readable part of a request.
struct Request {
  le32 value;
};
static_assert(sizeof(Request) == 4);

/// The device-writable part: the first four bytes without LIMIT, all eight with it.
struct Reply {
  le32 result;
  std::uint8_t status = 0;
  std::uint8_t reserved[3] = {};
};
static_assert(offsetof(Reply, result) == 0 && offsetof(Reply, status) == 4 && offsetof(Reply, reserved) == 5);
static_assert(sizeof(Reply) == 8);

constexpr std::uint32_t plain_reply_size = sizeof(le32);
constexpr std::uint32_t reply_size(bool limit) { return limit ? std::uint32_t{sizeof(Reply)} : plain_reply_size; }

namespace status {
constexpr std::uint8_t ok = 0, range = 1;
}

/// 5.x.6.3: what the device puts into a buffer of the event queue.
struct Event {
  le32 type;
  le32 missed;  ///< events lost before this one
  le32 value;  ///< LIMIT_HIT: the value that was refused
  le32 reserved;
};
static_assert(offsetof(Event, type) == 0 && offsetof(Event, missed) == 4 && offsetof(Event, value) == 8);
static_assert(sizeof(Event) == 16);

namespace event {
constexpr std::uint32_t limit_hit = 1;
}

/// 5.x.7: the device's own part of its state, as it is captured.
struct State {
  static constexpr std::uint32_t version_1 = 1;

  le32 version;
  le32 limit;
  le64 epoch;
  le32 missed;
  le32 reserved;
};
static_assert(offsetof(State, epoch) == 8 && offsetof(State, missed) == 16 && sizeof(State) == 24);

}  // namespace spec
}  // namespace outboard::example
