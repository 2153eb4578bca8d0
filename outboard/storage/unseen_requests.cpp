#include <outboard/storage/unseen_requests.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <outboard/storage/shared_by_disk.hpp>

namespace outboard::storage {

namespace {

/// The places in the file.
constexpr std::size_t reads_ended = 0, writes_ended = 4, in_flight_now = 8;
constexpr std::size_t values_used = 9;

}  // namespace

UnseenRequests::UnseenRequests(UniqueFd stat) : stat_(std::move(stat)) {
  if (const auto now = figures()) ended_ = now->ended;
}

std::shared_ptr<UnseenRequests> UnseenRequests::on(const RequestQueue& queue) {
  return shared_by_disk<UnseenRequests>(queue.disk(), [&] {
    UniqueFd stat(::open(queue.path("stat").c_str(), O_RDONLY | O_CLOEXEC));
    return std::make_shared<UnseenRequests>(std::move(stat));
  });
}

std::optional<UnseenRequests::Figures> UnseenRequests::figures() const {
  std::array<char, 512> text;
  const ssize_t size = stat_ ? ::pread(stat_.get(), text.data(), text.size(), 0) : 0;
  if (size <= 0) return std::nullopt;
  std::array<std::uint64_t, values_used> values{};
  const char* at = text.data();
  const char* const end = at + size;
  for (std::uint64_t& value : values) {
    at = std::find_if(at, end, [](char letter) { return letter != ' '; });
    const auto [after, error] = std::from_chars(at, end, value);
    if (error != std::errc{}) return std::nullopt;
    at = after;
  }
  return Figures{.ended = values[reads_ended] + values[writes_ended], .in_flight = values[in_flight_now]};
}

void UnseenRequests::look(unsigned room) {
  const std::lock_guard lock(mutex_);
  const auto now = figures();
  unsigned left = 0;
  if (now && now->in_flight != 0) {
    const unsigned before = count();
    const std::uint64_t ended = now->ended - std::min(ended_, now->ended);  // the kernel's sum may run back a little
    left = before - static_cast<unsigned>(std::min<std::uint64_t>(before, ended));
    // With a scheduler the kernel may count only what the disk itself has, which can be half of the queue.
    if (now->in_flight < room / 2) left = static_cast<unsigned>(std::min<std::uint64_t>(left, now->in_flight));
  }
  if (now) ended_ = now->ended;
  count_.store(left, std::memory_order_relaxed);
}

}  // namespace outboard::storage
