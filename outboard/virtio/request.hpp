#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include <sys/uio.h>

#include <outboard/base/bytes.hpp>
#include <outboard/virtio/internal/request_progress.hpp>

namespace outboard::virtio {

class DeviceQueue;
struct RequestSlot;

/// One buffer that the driver made available: device-readable elements, then device-writable ones. It is a token: move-only,
/// and answered exactly once, by complete() or violation(). The used length is the number of bytes written, from the first
/// writable byte on, without a gap.
///
/// Both parts are streams of bytes; descriptor boundaries have no meaning (VIRTIO 1.4, 2.7.4.1). Readable bytes are copied out,
/// or handed out as pieces for a back end.
///
/// All calls are made on the queue's loop, except complete() and the destructor: these may be called on any thread, and the
/// queue's loop publishes the answer. A stop, a reset or an unmap never completes inside a call of this class, since its
/// completion may destroy the device.
///
/// A token that is destroyed unanswered, outside of a stop, is a fault of the device: it is logged, the device gets
/// NEEDS_RESET, and no used entry is written. A device may keep a token (event and receive buffers); a kept token pins no
/// memory.
class Request {
 public:
  Request() = default;
  ~Request() {
    if (progress_ != nullptr) drop();
  }
  /// The other token is empty afterwards.
  Request(Request&& other) noexcept : progress_(std::exchange(other.progress_, nullptr)) {}
  /// As above. If this token had a buffer, that is destroyed unanswered.
  Request& operator=(Request&& other) noexcept {
    if (this != &other) {
      if (progress_ != nullptr) drop();
      progress_ = std::exchange(other.progress_, nullptr);
    }
    return *this;
  }

  /// Whether this token has a buffer. All calls but assignment and the destructor require one.
  explicit operator bool() const { return progress_ != nullptr; }
  /// The queue that the buffer came from.
  unsigned queue_index() const { return progress_->queue_index; }
  /// Whether the buffer was popped before a stop or a crash and is delivered again. The request may have been carried out
  /// already.
  bool replayed() const { return progress_->replayed; }

  /// Bytes of the whole readable part.
  std::uint64_t readable_size() const { return progress_->readable_bytes; }
  /// Bytes of the whole writable part.
  std::uint64_t writable_size() const { return progress_->writable_bytes; }
  /// Bytes that have not been read yet.
  std::uint64_t readable_left() const { return progress_->readable_bytes - progress_->read.done; }
  /// Bytes that have not been written yet.
  std::uint64_t writable_left() const { return progress_->writable_bytes - progress_->write.done; }
  /// The used length that complete() would give now.
  std::uint64_t written() const { return progress_->write.done; }

  /// Reads the next sizeof(T) readable bytes. EINVAL: fewer are left. EFAULT: they are not (or not any more) in memory that the
  /// device may read.
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Result<T> read() {
    T value;
    if (auto copied = read_bytes(as_writable_bytes_of(value)); !copied) return copied.error();
    return value;
  }
  /// Reads the next `into.size()` readable bytes. Errors as above; EINVAL does not move the cursor.
  Status read_bytes(MutableBytes into);
  /// Skips `length` readable bytes. EINVAL: fewer are left.
  Status skip_readable(std::uint64_t length);

  /// Writes the next sizeof(T) writable bytes. EINVAL: fewer are left. EFAULT as for read().
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Status write(const T& value) {
    return write_bytes(as_bytes_of(value));
  }
  /// Writes the next `bytes.size()` writable bytes. Errors as above; EINVAL writes nothing.
  Status write_bytes(Bytes bytes);
  /// Writes `length` zero bytes. Errors as above.
  Status write_zeros(std::uint64_t length);
  /// Writes the last sizeof(T) bytes of the writable part, wherever the cursor is: for a status that must reach the driver
  /// although the data could not be written. The used length includes them only if all writable bytes before them were written.
  /// Errors as for write().
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Status write_last(const T& value) {
    return write_last_bytes(as_bytes_of(value));
  }

  /// The next `length` readable bytes as pieces of memory for a back end. Pins their memory until the request is answered or
  /// unpin() is called: an unmap waits until then. The span is valid until then, and until the next call of this function.
  /// Errors as for read(); an error does not move the cursor.
  Result<std::span<const iovec>> readable_pieces(std::uint64_t length);
  /// The next `length` writable bytes, likewise. They count as written only after pieces_written() or release_pieces().
  Result<std::span<const iovec>> writable_pieces(std::uint64_t length);
  /// The back end has filled the first `length` bytes of the pieces of writable_pieces(). The rest can be written by the calls
  /// above, for example write_zeros().
  void pieces_written(std::uint64_t length);
  /// Unpins the memory of readable_pieces() and writable_pieces(); their spans become invalid.
  /// EFAULT: the file behind some of that memory has shrunk, so the back end did not read the driver's data, or what it wrote
  /// does not reach the driver. If the request is completed without a call of unpin(), its used length is 0 in that case.
  Status unpin();
  /// Unpins the memory, and counts the first `length` bytes of writable_pieces() as written: call it when the back end has
  /// ended. EFAULT as for unpin(); no byte counts as written then.
  Status release_pieces(std::uint64_t length);

  /// Publishes the buffer as used, with used length written(). Any thread; the token is empty afterwards.
  void complete();
  /// The driver broke a rule, and the request cannot be answered: the device gets NEEDS_RESET, and no used entry is written.
  /// `clause` names the rule in the log: the number of a section of VIRTIO 1.4 ("2.7.4.2"), the identifier of a requirement of
  /// the device type's specification ("D-EX-3"), or "outboard" for a rule of this library. `what` says what the driver did.
  void violation(std::string_view clause, std::string_view what);
  /// The same for an error of read(), write() or the device's own code. If the error is EFAULT and fails_alone() is true, the
  /// buffer is completed with what was written instead, and the device continues.
  void violation(const Error& error);
  /// Whether memory that cannot be accessed (EFAULT) makes only this request fail. If true, the device answers with an error of
  /// its device type (a status byte), or calls violation(). If false, it must call violation(), and the device needs a reset.
  bool fails_alone() const;

 private:
  friend class DeviceQueue;
  explicit Request(RequestProgress& progress) : progress_(&progress) {}
  RequestSlot& slot() const;
  RequestSlot& take_slot();
  Status write_last_bytes(Bytes bytes);
  void drop();

  RequestProgress* progress_ = nullptr;  ///< of a RequestSlot
};

}  // namespace outboard::virtio
