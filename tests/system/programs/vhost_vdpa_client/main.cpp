#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "cases.hpp"
#include "node.hpp"

/// A driver of a virtio-blk device behind vhost-vdpa, for the tests of VDUSE, which this way meets a driver that the kernel
/// knows nothing of: memory that comes and goes while it is used, rings and features that no kernel driver would have.
///
///   vhost_vdpa_client NODE split|packed QUEUES CASE [SECONDS]
///   vhost_vdpa_client --list
///   vhost_vdpa_client --list-pauses    those that need a kernel which can suspend a device
///   vhost_vdpa_client --can-suspend NODE
namespace {

using namespace outboard;

constexpr unsigned timeout = 30;  // seconds; a case that hangs is ended by a signal

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

int list(std::span<const vhost::Case> cases) {
  for (const auto& entry : cases) fmt::print("{}\n", entry.name);
  return 0;
}

const vhost::Case* find(std::string_view name) {
  for (const auto cases : {vhost::cases(), vhost::pause_cases()}) {
    if (const auto found = std::ranges::find(cases, name, &vhost::Case::name); found != cases.end()) return &*found;
  }
  return nullptr;
}

int can_suspend(const std::string& path) {
  const auto node = vhost::Node::open(path);
  if (!node) fmt::print(stderr, "{}\n", node.error().message());
  return node && node->can_suspend() ? 0 : 1;
}

int usage() {
  fmt::print(
      stderr,
      "usage: vhost_vdpa_client NODE split|packed QUEUES CASE [SECONDS] | --list | --list-pauses | --can-suspend NODE\n");
  return 2;
}

int run(const std::vector<std::string_view>& words) {
  if (words.size() == 1 && words[0] == "--list") return list(vhost::cases());
  if (words.size() == 1 && words[0] == "--list-pauses") return list(vhost::pause_cases());
  if (words.size() == 2 && words[0] == "--can-suspend") return can_suspend(std::string(words[1]));
  if (words.size() < 4 || words.size() > 5) return usage();
  const auto queues = number(words[2]), seconds = words.size() > 4 ? number(words[4]) : 5U;
  const auto* const found = find(words[3]);
  if (!queues || !seconds || found == nullptr) return usage();
  ::alarm(timeout + *seconds);
  const auto done = found->run(
      {.node = std::string(words[0]), .packed = words[1] == "packed", .queues = *queues, .seconds = *seconds});
  if (done) return 0;
  fmt::print(stderr, "{}: {}\n", found->name, done.error().message());
  return 1;
}

}  // namespace

int main(int argc, char** argv) { return run({argv + 1, argv + argc}); }
