#include <outboard/journal/file.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/internal/process.hpp>
#include <outboard/journal/internal/file_state.hpp>
#include <outboard/virtio/spec.hpp>

/// The file itself: made, opened, compared with what is expected; and the parts that all queues have in common.
namespace outboard::journal {

using namespace layout;  // NOLINT(google-build-using-namespace): the layout of this very file
namespace spec = virtio::spec;

namespace {

constexpr std::uint64_t life_place = 0x6c696665;  ///< of Control::life, for its check

Error failed(const std::string& path, std::string what) {
  Error error = Error::from_errno(std::move(what)).on(path);
  if (error.code() != EACCES && error.code() != EPERM) return error;
  return std::move(error).cure("keep the journal where this user may write: --journal FILE");
}

/// What a small file has, up to `limit` bytes.
std::string read_text(const char* path, std::size_t limit) {
  const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  std::string text(limit, '\0');
  const ssize_t length = fd ? ::read(fd.get(), text.data(), text.size()) : 0;
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
  return text;
}

/// The number of the kernel's run: 32 hexadecimal digits with dashes.
Result<std::array<std::uint8_t, 16>> boot_id() {
  constexpr const char* path = "/proc/sys/kernel/random/boot_id";
  std::string digits = read_text(path, 64);
  std::erase_if(digits, [](char c) { return c == '-' || c == '\n'; });
  std::array<std::uint8_t, 16> id{};
  bool well = digits.size() == 2 * id.size();
  for (std::size_t i = 0; well && i < id.size(); ++i) {
    const char* from = digits.data() + 2 * i;
    well = std::from_chars(from, from + 2, id[i], 16).ptr == from + 2;
  }
  if (!well) return Error(EIO, "the boot ID of the kernel cannot be read").on(path);
  return id;
}

File::Process this_process() { return {.pid = ::getpid(), .start_time = start_time_of(::getpid())}; }

Status check_shape(const File::Shape& shape) {
  if (shape.instance.size() > File::max_instance)
    return Error(EINVAL, "the bytes that identify the device are too long for a journal");
  if (shape.config_size > File::max_config) return Error(EINVAL, "the configuration space is too large for a journal");
  if (shape.queue_sizes.size() > 65535) return Error(EINVAL, "too many queues for a journal");
  for (const std::uint16_t size : shape.queue_sizes) {
    if (size == 0 || size > spec::max_queue_size) return Error(EINVAL, "the size of a queue");
  }
  return {};
}

Places places_of(const File::Shape& shape, std::uint32_t of_version = version) {
  return places(shape.queue_sizes, shape.config_size, shape.offered.has(virtio::Feature::ring_packed), of_version);
}

/// The immutable part of the file, as it is when the file is whole.
std::vector<std::byte> header_of(const File::Shape& shape, const std::array<std::uint8_t, 16>& boot,
                                 std::uint32_t of_version = version) {
  const std::vector<le16> sizes(shape.queue_sizes.begin(), shape.queue_sizes.end());
  Header header{};
  header.magic = magic;
  header.version = of_version;
  header.size = static_cast<std::uint32_t>(sizeof(Header) + sizes.size() * sizeof(le16));
  header.file_size = places_of(shape, of_version).file_size;
  header.boot_id = boot;
  header.device_id = shape.device_id;
  header.queue_count = static_cast<std::uint32_t>(sizes.size());
  for (std::uint32_t i = 0; i < header.offered.size(); ++i) header.offered[i] = shape.offered.word(i);
  header.config_size = shape.config_size;
  header.instance_length = static_cast<std::uint32_t>(shape.instance.size());
  copy_bytes(shape.instance, header.instance);
  const Bytes table = std::as_bytes(std::span(sizes));
  header.checksum = crc32c(table, crc32c(as_bytes_of(header)));
  std::vector<std::byte> bytes(header.size);
  copy_bytes(as_bytes_of(header), bytes);
  copy_bytes(table, MutableBytes(bytes).subspan(sizeof header));
  return bytes;
}

// What a file is refused for.

Error other(int code, std::string_view what) {
  return Error(code, fmt::format("the journal is of another {}", what))
      .cure(
          "use the journal that this device was created with; without it, it is unknown which requests are in flight");
}

/// The immutable part of the file as it is, found to be whole.
Result<std::vector<std::byte>> read_header(int fd, std::uint64_t file_size) {
  std::vector<std::byte> bytes(sizeof(Header));
  Header header{};
  if (file_size < sizeof header || ::pread(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return damaged(fmt::format("it has {} bytes, too few for a journal", file_size));
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != magic) {
    const bool empty = std::ranges::all_of(header.magic, [](std::uint8_t byte) { return byte == 0; });
    return damaged(empty ? "it was never finished" : "it is not a journal");
  }
  if (header.version < first_version || header.version > version)
    return Error(ENOTSUP, fmt::format("the journal has format version {}, and this program knows versions {} to {}",
                                      std::uint32_t{header.version}, first_version, version));
  // Before anything is allocated: so many queues a journal can have.
  const std::uint64_t size = sizeof header + std::uint64_t{header.queue_count} * sizeof(le16);
  if (header.queue_count > 65535 || header.size != size || size > file_size) return damaged("the size of its header");
  bytes.resize(size);
  const std::size_t rest = bytes.size() - sizeof header;
  if (::pread(fd, bytes.data() + sizeof header, rest, sizeof header) != static_cast<ssize_t>(rest))
    return damaged("it ends in its header");
  const std::uint32_t checksum = std::exchange(header.checksum, 0);
  if (crc32c(Bytes(bytes).subspan(sizeof header), crc32c(as_bytes_of(header))) != checksum)
    return damaged("the checksum of its header");
  if (header.file_size != file_size)
    return damaged(fmt::format("it has {} bytes instead of {}", file_size, std::uint64_t{header.file_size}));
  return bytes;
}

std::uint32_t version_of(Bytes header_bytes) {
  Header header{};
  std::memcpy(&header, header_bytes.data(), sizeof header);
  return header.version;
}

/// "bit 12 (offered), bit 34 (not offered)", of `found`.
std::string differing_bits(const Header& found, const Header& wanted) {
  std::string text;
  for (std::uint32_t bit = 0; bit < 32 * found.offered.size(); ++bit) {
    const auto offers = [bit](const Header& header) {
      return (std::uint32_t{header.offered[bit / 32]} >> (bit % 32) & 1) != 0;
    };
    if (offers(found) == offers(wanted)) continue;
    text +=
        fmt::format("{}bit {} ({} before)", text.empty() ? "" : ", ", bit, offers(found) ? "offered" : "not offered");
  }
  return text;
}

/// Compares the headers of two journals: the one in the file, and the one that this device needs.
Status compare(Bytes found_bytes, Bytes wanted_bytes) {
  Header found{}, wanted{};
  std::memcpy(&found, found_bytes.data(), sizeof found);
  std::memcpy(&wanted, wanted_bytes.data(), sizeof wanted);
  if (found.boot_id != wanted.boot_id)
    return Error(ESTALE, "the journal was written before the last boot: its device does not exist any more")
        .cure("remove it");
  if (found.instance_length != wanted.instance_length || found.instance != wanted.instance)
    return other(ESTALE, "device, perhaps of the same name");
  if (found.device_id != wanted.device_id)
    return other(EINVAL, fmt::format("type of device: ID {}, not {}", std::uint32_t{found.device_id},
                                     std::uint32_t{wanted.device_id}));
  if (const std::string bits = differing_bits(found, wanted); !bits.empty())
    return other(EINVAL, "set of features: they differ in " + bits);
  if (found.queue_count != wanted.queue_count)
    return other(EINVAL, fmt::format("number of queues: {}, not {}", std::uint32_t{found.queue_count},
                                     std::uint32_t{wanted.queue_count}));
  if (!std::ranges::equal(found_bytes.subspan(sizeof found), wanted_bytes.subspan(sizeof wanted)))
    return other(EINVAL, "size of a queue");
  if (found.config_size != wanted.config_size)
    return other(EINVAL, fmt::format("size of the configuration space: {}, not {} bytes",
                                     std::uint32_t{found.config_size}, std::uint32_t{wanted.config_size}));
  return {};
}

/// A process that is killed gives the lock up.
Status lock(const UniqueFd& fd, std::size_t control) {
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return {};
  if (errno != EWOULDBLOCK) return Error::from_errno("locking the journal");
  le32 pid{};
  const bool has_pid =
      ::pread(fd.get(), &pid, sizeof pid, static_cast<off_t>(control + offsetof(Control, owner_pid))) == sizeof pid &&
      pid != 0;
  return Error(EBUSY, has_pid ? fmt::format("the journal is in use by process {}", std::uint32_t{pid})
                              : std::string("the journal is in use"));
}

Result<std::shared_ptr<memory::HostMemory>> map(const UniqueFd& fd, std::size_t size) {
  OUTBOARD_TRY(auto memory, memory::HostMemory::map_own_file(fd, 0, size, memory::Access::read_write));
  // What a queue touches first should not wait for the kernel.
  ::madvise(memory->data(), size, MADV_POPULATE_WRITE);
  return memory;
}

/// Everything but the magic, and that last.
void write_header(std::byte* to, Bytes header) {
  std::memcpy(to + sizeof magic, header.data() + sizeof magic, header.size() - sizeof magic);
  std::uint64_t stored = 0;
  std::memcpy(&stored, header.data(), sizeof stored);
  memory::Shared<le64>(to).store(le64::from_stored(stored), std::memory_order_release);
}

}  // namespace

Error damaged(std::string_view what) { return Error(EBADMSG, fmt::format("the journal is damaged: {}", what)); }

// State.

File::State::State(UniqueFd locked, std::shared_ptr<memory::HostMemory> mapping, const Shape& shape,
                   std::uint32_t of_version)
    : fd(std::move(locked)),
      memory(std::move(mapping)),
      control(memory->data() + places_of(shape).control),
      device_id(shape.device_id),
      transport(memory->data() + places_of(shape).transport, transport_size),
      config(memory->data() + places_of(shape).config, shape.config_size) {
  const Places at = places_of(shape, of_version);
  if (at.storage != 0) storage.emplace(memory->data() + at.storage, storage_size);
  for (std::size_t i = 0; i < at.queues.size(); ++i)
    queues.emplace_back(memory->data() + at.queues[i], shape.queue_sizes[i]);
}

Result<File::State::Life> File::State::life() const {
  const std::uint64_t stored = word(offsetof(Control, life)).load(std::memory_order_acquire);
  const std::uint64_t value = unseal(stored);
  const Life life{.epoch = static_cast<std::uint32_t>(value >> 8), .status = static_cast<std::uint8_t>(value)};
  if (!sealed(stored, life_place) || value >> 40 != 0 || life.epoch == 0) return damaged("the device status");
  return life;
}

/// J6: one store; with another epoch all queues are void.
void File::State::store_life(Life life) {
  now = life;
  epoch.store(life.epoch, std::memory_order_relaxed);
  const std::uint64_t value = std::uint64_t{life.epoch} << 8 | life.status;
  word(offsetof(Control, life)).store(seal(value, life_place), std::memory_order_release);
}

Result<virtio::Features> File::State::accepted() const {
  Control found{};
  for (std::size_t i = 0; i < found.accepted.size(); ++i)
    found.accepted[i] = word(offsetof(Control, accepted) + i * sizeof(le64)).load(std::memory_order_relaxed);
  const std::uint32_t sum = word32(offsetof(Control, accepted_checksum)).load(std::memory_order_relaxed);
  if (crc32c(std::as_bytes(std::span(found.accepted))) != sum) return damaged("the features that were accepted");
  virtio::Features features;
  for (std::uint32_t i = 0; i < virtio::Features::words; ++i)
    features.set_word(i, static_cast<std::uint32_t>(found.accepted[i / 2] >> (32 * (i % 2))));
  return features;
}

void File::State::store_accepted(const virtio::Features& features) {
  std::array<le64, 2> words{};
  for (std::uint32_t i = 0; i < words.size(); ++i) {
    words[i] = std::uint64_t{features.word(2 * i)} | std::uint64_t{features.word(2 * i + 1)} << 32;
    word(offsetof(Control, accepted) + i * sizeof(le64)).store(words[i], std::memory_order_relaxed);
  }
  word32(offsetof(Control, accepted_checksum))
      .store(crc32c(std::as_bytes(std::span(words))), std::memory_order_relaxed);
}

File::Process File::State::owner() const {
  return {.pid = static_cast<std::int32_t>(word32(offsetof(Control, owner_pid)).load(std::memory_order_relaxed)),
          .start_time = word(offsetof(Control, owner_start_time)).load(std::memory_order_relaxed)};
}

void File::State::store_owner(const Process& process) {
  word32(offsetof(Control, owner_pid)).store(static_cast<std::uint32_t>(process.pid), std::memory_order_relaxed);
  word(offsetof(Control, owner_start_time)).store(process.start_time, std::memory_order_relaxed);
}

// The file.

File::File(std::string path, std::unique_ptr<State> state) : path_(std::move(path)), state_(std::move(state)) {}
File::~File() = default;

Result<std::unique_ptr<File>> File::create(const std::string& path, const Shape& shape) {
  OUTBOARD_CHECK(check_shape(shape));
  OUTBOARD_TRY(const auto boot, boot_id());
  const Places at = places_of(shape);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd && errno == EEXIST)
    return Error(EEXIST, "the journal exists already")
        .on(path)
        .cure(
            "if its device does not exist any more, remove the journal; otherwise let the server take the device over");
  if (!fd) return failed(path, "creating the journal");
  const auto give_up = [&](const Error& error) {
    ::unlink(path.c_str());
    return Error(error).on(path);
  };
  if (const Status locked = lock(fd, at.control); !locked) return give_up(locked.error());
  // posix_fallocate also where the file system has no such operation: it writes then.
  if (const int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(at.file_size)); error != 0) {
    errno = error;
    return give_up(Error::from_errno(fmt::format("reserving {} bytes for the journal", at.file_size)));
  }
  const auto mapping = map(fd, at.file_size);
  if (!mapping) return give_up(mapping.error());
  auto state = std::make_unique<State>(std::move(fd), *mapping, shape, version);
  state->store_life({.epoch = 1, .status = 0});
  state->store_accepted({});
  state->store_owner(this_process());
  write_header((*mapping)->data(), header_of(shape, boot));
  return std::unique_ptr<File>(new File(path, std::move(state)));
}

Result<std::unique_ptr<File>> File::open(const std::string& path, const Shape& expected) {
  OUTBOARD_CHECK(check_shape(expected));
  OUTBOARD_TRY(const auto boot, boot_id());
  const Places at = places_of(expected);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd && errno == ENOENT)
    return Error(ENOENT, "there is no journal").on(path).cure("without it, it is unknown which requests are in flight");
  if (!fd) return failed(path, "opening the journal");
  struct stat info{};
  if (::fstat(fd.get(), &info) < 0) return failed(path, "opening the journal");
  if (!S_ISREG(info.st_mode)) return damaged("it is no regular file").on(path);
  if (const Status locked = lock(fd, at.control); !locked) return Error(locked.error()).on(path);
  // Again: the process that has just unlocked the file may have changed it.
  if (::fstat(fd.get(), &info) < 0) return failed(path, "opening the journal");
  const auto header = read_header(fd.get(), static_cast<std::uint64_t>(info.st_size));
  if (!header) return Error(header.error()).on(path);
  const std::uint32_t its_version = version_of(*header);
  if (const Status same = compare(*header, header_of(expected, boot, its_version)); !same)
    return Error(same.error()).on(path);
  const auto mapping = map(fd, places_of(expected, its_version).file_size);
  if (!mapping) return Error(mapping.error()).on(path);
  auto state = std::make_unique<State>(std::move(fd), *mapping, expected, its_version);
  const auto life = state->life();
  if (!life) return Error(life.error()).on(path);
  state->now = *life;
  state->epoch.store(life->epoch, std::memory_order_relaxed);
  const Process predecessor = state->owner(), self = this_process();
  state->store_owner(self);
  std::unique_ptr<File> file(new File(path, std::move(state)));
  if (predecessor != self) file->predecessor_ = predecessor;
  return file;
}

Result<File::Shape> File::shape_of(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info{};
  if (!fd || ::fstat(fd.get(), &info) < 0) return failed(path, "opening the journal");
  if (!S_ISREG(info.st_mode)) return damaged("it is no regular file").on(path);
  const auto bytes = read_header(fd.get(), static_cast<std::uint64_t>(info.st_size));
  if (!bytes) return Error(bytes.error()).on(path);
  Header header{};
  std::memcpy(&header, bytes->data(), sizeof header);
  const Bytes instance = std::as_bytes(std::span(header.instance))
                             .first(std::min<std::size_t>(header.instance_length, header.instance.size()));
  Shape shape{.instance = {instance.begin(), instance.end()},
              .device_id = header.device_id,
              .queue_sizes = std::vector<std::uint16_t>(header.queue_count),
              .config_size = header.config_size};
  for (std::uint32_t i = 0; i < virtio::Features::words; ++i) shape.offered.set_word(i, header.offered[i]);
  for (std::size_t i = 0; i < shape.queue_sizes.size(); ++i) {
    le16 size{};
    std::memcpy(&size, bytes->data() + sizeof header + i * sizeof size, sizeof size);
    shape.queue_sizes[i] = size;
  }
  return shape;
}

namespace {

/// What create() leaves when it is killed, whose magic comes last.
bool never_finished(const struct stat& info, Bytes start) {
  static constexpr off_t longest = 64 << 20;
  if (info.st_size == 0) return true;
  if ((info.st_mode & 07777) != 0600 || info.st_nlink != 1 || info.st_size > longest) return false;
  const auto zero = [](std::byte byte) { return byte == std::byte{0}; };
  le32 begun{};
  if (start.size() >= sizeof(Header)) std::memcpy(&begun, start.data() + offsetof(Header, version), sizeof begun);
  return std::ranges::all_of(start, zero) ||
         (begun >= first_version && begun <= version && std::ranges::all_of(start.first(sizeof magic), zero));
}

}  // namespace

Status File::discard(const std::string& path, const std::function<bool(Bytes instance)>& lives) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd && errno == ENOENT) return {};
  struct stat info{};
  if (!fd || ::fstat(fd.get(), &info) < 0) return failed(path, "opening the journal");
  std::array<std::byte, page> start{};
  const ssize_t length = S_ISREG(info.st_mode) ? ::pread(fd.get(), start.data(), start.size(), 0) : -1;
  const Bytes begin = Bytes(start).first(static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
  Header header{};
  if (begin.size() >= sizeof header) std::memcpy(&header, begin.data(), sizeof header);
  const bool is_journal = header.magic == magic;
  // The path may be that of a file of another kind, which must not be removed.
  if (length < 0 || (!is_journal && !never_finished(info, begin)))
    return Error(EBADMSG, "it is not a journal").on(path).cure("name another file for the journal, or remove this one");
  if (const Status locked = lock(fd, round_up(header.size, page)); !locked) return Error(locked.error()).on(path);
  const Bytes instance = std::as_bytes(std::span(header.instance));
  if (is_journal && lives && lives(instance.first(std::min<std::size_t>(header.instance_length, instance.size()))))
    return Error(EEXIST, "the journal is of another device, which exists")
        .on(path)
        .cure("name another file for the journal of this device");
  if (::unlink(path.c_str()) < 0) return failed(path, "removing the journal");
  return {};
}

Status File::remove() {
  if (::unlink(path_.c_str()) < 0) return failed(path_, "removing the journal");
  return {};
}

Result<std::uint8_t> File::status() const {
  OUTBOARD_TRY(const State::Life life, state_->life());
  return life.status;
}

Status File::set_transport(Bytes bytes) { return state_->transport.write(bytes); }
Result<std::vector<std::byte>> File::transport() const { return state_->transport.read(); }
Status File::set_storage(Bytes bytes) { return state_->storage ? state_->storage->write(bytes) : Status(); }
Result<std::vector<std::byte>> File::storage() const {
  return state_->storage ? state_->storage->read() : std::vector<std::byte>();
}
Status File::set_config(Bytes bytes) { return state_->config.write(bytes); }
Result<std::vector<std::byte>> File::config() const { return state_->config.read(); }

// Journal.

void File::look_after_storing() {
  if (state_->memory->poisoned() && lost_ && !is_lost_.exchange(true, std::memory_order_relaxed)) lost_();
}

void File::popped(unsigned queue, const virtio::InFlight& buffer) {
  if (queue >= state_->queues.size()) return;
  state_->queues[queue].popped(buffer);
  if (state_->memory->poisoned()) [[unlikely]]
    look_after_storing();
}
void File::publishing(unsigned queue, std::span<const virtio::UsedBuffer> batch, std::uint16_t next_used,
                      bool used_wrap) {
  if (queue < state_->queues.size()) state_->queues[queue].publishing(batch, next_used, used_wrap);
}
void File::published(unsigned queue, std::span<const virtio::UsedBuffer> batch, std::uint16_t next_used,
                     bool used_wrap) {
  if (queue < state_->queues.size()) state_->queues[queue].published(batch, next_used, used_wrap);
}

void File::status_changing(std::uint8_t status, const virtio::Features& accepted) {
  State::Life next{.epoch = state_->now.epoch, .status = status};
  if (status == 0 && ++next.epoch == 0) next.epoch = 1;
  // Features are final with FEATURES_OK: before, they are not read; afterwards, they are not written.
  const bool agreed = (status & spec::status::features_ok) != 0;
  if (agreed && (state_->now.status & spec::status::features_ok) == 0) state_->store_accepted(accepted);
  state_->store_life(next);
  look_after_storing();
}

void File::queue_starting(unsigned queue, const virtio::QueueState& state, bool packed) {
  if (queue < state_->queues.size())
    state_->queues[queue].start(state, packed, state_->epoch.load(std::memory_order_relaxed));
}
void File::queue_reset(unsigned queue) {
  if (queue < state_->queues.size()) state_->queues[queue].clear();
}

}  // namespace outboard::journal
