#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <outboard/base/loop.hpp>

namespace outboard::command {

/// A number of bytes for people: "512 bytes", "64 MiB", "1.5 GiB".
std::string size_text(std::uint64_t bytes);
/// The same for a second's worth: "210.4 MiB/s".
std::string rate_text(double bytes_per_second);
/// "850 ns", "12.3 us", "4.56 ms", "1.20 s".
std::string time_text(Duration time);

}  // namespace outboard::command
