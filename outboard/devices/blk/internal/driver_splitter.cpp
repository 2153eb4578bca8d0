#include <outboard/devices/blk/internal/driver_splitter.hpp>

namespace outboard::blk {
namespace {

constexpr std::uint64_t max_bytes = UINT64_C(16) << 20;  // of one request

}  // namespace

void RequestSplitter::set_limits(const Limits& limits, std::uint32_t max_segments) {
  limits_ = limits;
  max_segments_ = max_segments;
}

std::optional<RequestSplitter::Place> RequestSplitter::end_of_request(const Io& io, const Place& from) const {
  if (has_data(io.kind)) return end_of_data(io, from);
  if (!has_range(io.kind)) return from;
  const std::uint64_t sectors = std::min<std::uint64_t>(io.progress.total_ - from.sectors, max_sectors(io.kind));
  if (sectors == 0) return std::nullopt;
  Place end = from;
  end.sectors += sectors;
  return end;
}

std::optional<RequestSplitter::Place> RequestSplitter::end_of_data(const Io& io, const Place& from) const {
  std::uint64_t bytes = 0;
  std::uint64_t whole_bytes = 0;  // up to `end`
  Place at = from;
  Place end = from;
  for (std::uint32_t count = 0; count < max_segments_ && at.element < io.data.size() && bytes < max_bytes; ++count) {
    const std::uint32_t length = io.data[at.element].length;
    const std::uint32_t left = length - at.offset;
    const auto take = static_cast<std::uint32_t>(std::min<std::uint64_t>({left, limits_.size_max, max_bytes - bytes}));
    // The last place inside this segment at which whole sectors end.
    const std::uint64_t whole = (bytes + take) / sector_size * sector_size;
    if (whole > bytes) {
      whole_bytes = whole;
      end = at;
      end.offset += static_cast<std::uint32_t>(whole - bytes);
      if (end.offset == length) end = {0, at.element + 1, 0};
    }
    bytes += take;
    at.offset += take;
    if (take == left) at = {0, at.element + 1, 0};
  }
  if (whole_bytes == 0) return std::nullopt;
  end.sectors = from.sectors + whole_bytes / sector_size;
  return end;
}

/// What one request for a range may cover.
std::uint32_t RequestSplitter::max_sectors(Io::Kind kind) const {
  return kind == Io::Kind::discard ? limits_.max_discard_sectors : limits_.max_write_zeroes_sectors;
}

bool RequestSplitter::fits(const Io& io, const Place& from, std::uint64_t sectors) const {
  if (has_range(io.kind)) return sectors <= max_sectors(io.kind);
  if (!has_data(io.kind)) return true;
  std::uint32_t count = 0;
  each_segment(io, from, sectors, [&](const virtio::Element&) { return ++count <= max_segments_; });
  return count <= max_segments_;
}

}  // namespace outboard::blk
