#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "cases.hpp"

/// A driver of a virtio-blk device behind vhost-vdpa, for the tests of VDUSE, which this way meets a driver that the kernel
/// knows nothing of: memory that comes and goes while it is used, rings and features that no kernel driver would have.
///
///   vhost_vdpa_client NODE split|packed QUEUES CASE [SECONDS]
///   vhost_vdpa_client --list
namespace {

using namespace outboard;

constexpr unsigned patience = 30;  // seconds; a case that hangs is ended by a signal

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

int list() {
  for (const auto& entry : vhost::cases()) fmt::print("{}\n", entry.name);
  return 0;
}

int usage() {
  fmt::print(stderr, "usage: vhost_vdpa_client NODE split|packed QUEUES CASE [SECONDS] | --list\n");
  return 2;
}

int run(const std::vector<std::string_view>& words) {
  if (words.size() == 1 && words[0] == "--list") return list();
  if (words.size() < 4 || words.size() > 5) return usage();
  const auto queues = number(words[2]), seconds = words.size() > 4 ? number(words[4]) : 5U;
  const auto found = std::ranges::find(vhost::cases(), words[3], &vhost::Case::name);
  if (!queues || !seconds || found == vhost::cases().end()) return usage();
  ::alarm(patience + *seconds);
  const auto done = found->run(
      {.node = std::string(words[0]), .packed = words[1] == "packed", .queues = *queues, .seconds = *seconds});
  if (done) return 0;
  fmt::print(stderr, "{}: {}\n", found->name, done.error().message());
  return 1;
}

}  // namespace

int main(int argc, char** argv) { return run({argv + 1, argv + argc}); }
