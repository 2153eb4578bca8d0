#include <tools/outboard/blk/histogram.hpp>

#include <cmath>

namespace outboard::command {

std::uint64_t Histogram::quantile(double fraction) const {
  if (total_ == 0) return 0;
  const auto wanted = static_cast<std::uint64_t>(std::ceil(fraction * static_cast<double>(total_)));
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    seen += counts_[bucket];
    if (counts_[bucket] != 0 && seen >= wanted) return std::min(highest_in(bucket), highest_);
  }
  return highest_;
}

}  // namespace outboard::command
