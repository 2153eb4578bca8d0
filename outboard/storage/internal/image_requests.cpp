#include <outboard/storage/internal/image_requests.hpp>

#include <optional>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include <outboard/storage/internal/image_claim.hpp>
#include <outboard/storage/internal/image_identity.hpp>
#include <outboard/storage/internal/lock_holders.hpp>

namespace outboard::storage {

namespace {

Error unknown(const StorageIdentity& image, std::string_view why) {
  return Error(ESTALE,
               fmt::format("whether the kernel still carries out disk requests of a dead server on {} cannot be "
                           "known: {}",
                           image.name, why));
}

/// The image, if it is still at its path. Without O_NONBLOCK a FIFO that lies there by now would have us wait.
Result<UniqueFd> open_again(const StorageIdentity& image) {
  UniqueFd fd(::open(image.name.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (!fd) return unknown(image, Error::from_errno("opening it").message());
  const auto id = id_of_image(fd.get());
  if (!id) return unknown(image, id.error().message());
  if (*id != image.id) return unknown(image, "another file lies at this path by now");
  return fd;
}

}  // namespace

Status wait_for_requests_on(const StorageIdentity& before, const LockTimeouts& timeouts, const Log& log) {
  if (before.contents != StorageIdentity::Contents::kept) return {};
  OUTBOARD_TRY(const UniqueFd fd, open_again(before));
  OUTBOARD_CHECK(wait_for_image(before.name, timeouts, log, [&]() -> Result<std::optional<Obstacle>> {
    OUTBOARD_TRY(const LockHolders holders, holders_of(fd.get()));
    if (holders.unknown) return unknown(before, "its file system has no locks on bytes as far up");
    if (!holders.any_serves_no_more() && !holders.too_many) return std::nullopt;
    return requests_of_ended(holders, before.name, timeouts);
  }));
  return wait_for_orphaned_claim(before.name, fd.get(), timeouts, log);
}

}  // namespace outboard::storage
