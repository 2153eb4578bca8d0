#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/internal/storage_identity.hpp>
#include <outboard/vduse/internal/server_state.hpp>
#include <outboard/virtio/spec.hpp>

/// What stands behind a server's device, and what the kernel needs of whoever writes to it.
namespace outboard::vduse {

namespace {

using Contents = StorageIdentity::Contents;

bool keeps_nothing(const StorageIdentity& storage) { return storage.contents != Contents::kept; }

/// What nobody can accept: the driver's file systems know of blocks that would not be there.
Status check_not_smaller(const StorageIdentity& before, const StorageIdentity& now) {
  if (now.size >= before.size) return {};
  return Error(ESTALE, fmt::format("the driver was told of a disk of {} bytes, and {} has {}", before.size,
                                   now.name.empty() ? "the storage" : now.name, now.size))
      .cure("start the server with the storage that the device had, or with a copy that is not smaller");
}

}  // namespace

/// Writing back the pages of our disk is what memory is waiting for, and our own writes make dirty pages again: the kernel
/// would have us wait for them to be written, that is, for ourselves.
void Server::State::become_io_flusher() {
  if ((flusher && flusher->is_of_this_thread()) || options.driver == BusDriver::vhost) return;
  auto begun = IoFlusher::begin();
  if (begun) {
    flusher.emplace(std::move(*begun));
  } else if (exported && exported->device().storage().page_cache) {
    log.warning(
        "this server may not call prctl(PR_SET_IO_FLUSHER) ({}), so the disk can hang when memory is short: the kernel "
        "can make the server wait for its own writes. Give it CAP_SYS_RESOURCE, or serve the image with --direct",
        begun.error().message());
  }
}

/// Its own disk cannot answer while this server waits for it.
Status Server::State::check_not_on_itself() const {
  const auto child = bus.child(options.name);
  if (!child || child->driver != BusDriver::virtio || child->made.empty()) return {};
  const StorageIdentity storage = exported->device().storage();
  if (storage.device != 0 && bus.is_on(storage.device, child->made))
    return Error(EDEADLK, fmt::format("{} is on {}, the very disk that is to be served", storage.name, child->made))
        .cure("name the image that stood behind the disk");
  const std::string path = std::filesystem::absolute(options.journal).string();
  if (!options.no_journal && bus.path_is_on(path, child->made))
    return Error(EDEADLK, fmt::format("the journal is on {}, the very disk that is to be served", child->made))
        .on(path)
        .cure("keep it on a tmpfs: /run");
  return {};
}

/// A driver that runs has file systems in its caches that it goes on to write.
Status Server::State::check_storage() const {
  if (!journal) return {};
  OUTBOARD_TRY(const auto status, journal->status());
  if ((status & virtio::spec::status::driver_ok) == 0) return {};
  const StorageIdentity now = exported->device().storage();
  OUTBOARD_TRY(const auto noted, journal->storage());
  if (noted.empty()) {
    if (now.contents != Contents::none)
      log.warning(
          "the journal is of a version that does not identify the storage: it is unknown whether it is the same");
    return {};
  }
  const auto before = StorageIdentity::decode(noted);
  // What is taken over is about to be removed, and its contents ended with the server that is dead.
  if (options.replace && before && keeps_nothing(*before) && keeps_nothing(now)) return {};
  const Status same = before ? check_same_storage(*before, now) : Status(std::unexpected(before.error()));
  if (same) return {};
  if (options.accept_other_storage) {
    if (before) OUTBOARD_CHECK(check_not_smaller(*before, now));
    log.warning("{}; accepted, because of --accept-other-storage", same.error().message());
    return wait_for_old_requests(before);
  }
  return Error(ESTALE, same.error().message())
      .cure(
          "start the server with the storage that the device had; --accept-other-storage if its contents are the same (an "
          "image that was moved); --replace removes the device when it is not in use");
}

/// The lock on this server's own storage tells nothing of requests on the storage before it. A read of these would end in memory
/// that the driver uses for something else by then; a write would take its data from there.
Status Server::State::wait_for_old_requests(const Result<StorageIdentity>& before) const {
  if (options.old_requests_have_ended || (before && keeps_nothing(*before))) return {};
  const auto wait = [&]() -> Status {
    if (!before) return before.error();
    if (options.wait_for_requests_on) return options.wait_for_requests_on(*before);
    return Error(ESTALE,
                 fmt::format("whether the kernel still carries out requests on {} cannot be known", before->name));
  };
  const Status ended = wait();
  if (ended || ended.error().code() == EBUSY || ended.error().code() == ECANCELED) return ended;
  return Error(ESTALE, ended.error().message())
      .cure(
          "put the image back where it was; or, if it is certain that the requests have ended (its file system could be "
          "unmounted, its disk detached), --old-requests-ended");
}

Status Server::State::note_storage() {
  if (!journal) return {};
  return journal->set_storage(exported->device().storage().encode());
}

}  // namespace outboard::vduse
