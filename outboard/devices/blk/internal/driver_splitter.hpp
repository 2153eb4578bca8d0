#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include <outboard/devices/blk/driver_io.hpp>
#include <outboard/devices/blk/driver_limits.hpp>

namespace outboard::blk {

inline bool has_data(Io::Kind kind) { return kind == Io::Kind::read || kind == Io::Kind::write; }
inline bool has_range(Io::Kind kind) { return kind == Io::Kind::discard || kind == Io::Kind::write_zeroes; }

/// Splits operations into the requests that carry them, by the limits of device and ring. Used by the Queue's thread only.
class RequestSplitter {
 public:
  using Place = IoProgress::Place;

  /// `max_segments`: data elements of one request, at least 1.
  void set_limits(const Limits& limits, std::uint32_t max_segments);

  /// Where the request ends that begins at `from`. Nothing: the limits do not allow a request of even one sector.
  std::optional<Place> end_of_request(const Io& io, const Place& from) const;
  /// Whether the device takes a request that was made under earlier limits.
  bool fits(const Io& io, const Place& from, std::uint64_t sectors) const;
  /// Calls `each(element) -> bool` for the elements of a request's data, none longer than the device takes, for as long as it
  /// returns true.
  template <typename Each>
  void each_segment(const Io& io, const Place& from, std::uint64_t sectors, Each each) const;

 private:
  std::optional<Place> end_of_data(const Io& io, const Place& from) const;
  std::uint32_t max_sectors(Io::Kind kind) const;

  Limits limits_;
  std::uint32_t max_segments_ = 1;
};

template <typename Each>
void RequestSplitter::each_segment(const Io& io, const Place& from, std::uint64_t sectors, Each each) const {
  std::uint64_t left = sectors * sector_size;
  std::size_t element = from.element;
  std::uint32_t offset = from.offset;
  while (left != 0) {
    const virtio::Element& whole = io.data[element];
    const auto size =
        static_cast<std::uint32_t>(std::min<std::uint64_t>({left, whole.length - offset, limits_.size_max}));
    if (!each(virtio::Element{whole.address + offset, size})) return;
    left -= size;
    offset += size;
    if (offset == whole.length) {
      ++element;
      offset = 0;
    }
  }
}

}  // namespace outboard::blk
