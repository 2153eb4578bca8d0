#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include <sys/uio.h>

#include <outboard/base/bytes.hpp>

namespace outboard::virtio {

class DeviceQueue;
struct RequestSlot;

/// One buffer that the driver made available: device-readable elements, then device-writable ones. A token: move-only
/// and answered exactly once, by complete() or violation(). Used length: the bytes that were written, from the first
/// writable byte on, without a gap.
///
/// Readable bytes are copied out (or handed out as pieces for a back end); there is no way to get bytes that were not
/// there. Descriptor boundaries mean nothing (VIRTIO 1.4, 2.7.4.1): both parts are streams of bytes.
///
/// All calls come on the queue's loop, but for complete() and destruction: an answer that comes on another thread is
/// carried to the queue's loop by the same call. Nobody who waits for a stop, a reset or an unmap is told inside a call: they
/// may destroy the device.
///
/// A token that is destroyed unanswered, outside a stop, is a fault of the device: NEEDS_RESET, logged, no used entry.
/// A device may keep a token (event and receive buffers); a kept token pins no memory.
class Request {
 public:
  Request() = default;
  ~Request() {
    if (slot_ != nullptr) drop();
  }
  /// The other token is empty afterwards.
  Request(Request&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
  /// As above. A buffer that this token had is dropped unanswered.
  Request& operator=(Request&& other) noexcept {
    if (this != &other) {
      if (slot_ != nullptr) drop();
      slot_ = std::exchange(other.slot_, nullptr);
    }
    return *this;
  }

  /// Whether there is a buffer to answer. All other calls but destruction and assignment need one.
  explicit operator bool() const { return slot_ != nullptr; }
  /// The queue that the buffer came from.
  unsigned queue_index() const;
  /// The buffer was popped before a stop or a crash and comes again; what it asks for may have been done already.
  bool replayed() const;

  std::uint64_t readable_size() const;  ///< bytes of the readable part, whole
  std::uint64_t writable_size() const;  ///< bytes of the writable part, whole
  std::uint64_t readable_left() const;  ///< not read yet
  std::uint64_t writable_left() const;  ///< not written yet
  std::uint64_t written() const;  ///< the used length, if it were completed now

  /// The next sizeof(T) readable bytes. EINVAL: fewer are left. EFAULT: not (or no longer) in memory the device may
  /// read.
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Result<T> read() {
    T value;
    if (auto copied = read_bytes(as_writable_bytes_of(value)); !copied) return copied.error();
    return value;
  }
  /// The next bytes, as many as `into` holds. Errors as above; the cursor has not moved on EINVAL.
  Status read_bytes(MutableBytes into);
  /// Passes over `length` readable bytes. EINVAL: fewer are left.
  Status skip_readable(std::uint64_t length);

  /// The next sizeof(T) writable bytes. EINVAL: fewer are left. EFAULT as for read.
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Status write(const T& value) {
    return write_bytes(as_bytes_of(value));
  }
  /// The next writable bytes. Errors as above; nothing is written on EINVAL.
  Status write_bytes(Bytes bytes);
  /// `length` zero bytes. Errors as above.
  Status write_zeros(std::uint64_t length);
  /// The very last sizeof(T) writable bytes, where those before them cannot be written: a status that has to arrive. They
  /// count as written only if nothing is missing before them. Errors as for write.
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Status write_last(const T& value) {
    return write_last_bytes(as_bytes_of(value));
  }

  /// The next `length` readable bytes as pieces of memory for a back end. Pins them (and only them) until the request
  /// is answered or unpin() is called: an unmap waits for it. The span is valid as long, and until the next call. Errors as
  /// for read; the cursor has not moved then.
  Result<std::span<const iovec>> readable_pieces(std::uint64_t length);
  /// The next `length` writable bytes, likewise. They do not count as written until pieces_written() says so.
  Result<std::span<const iovec>> writable_pieces(std::uint64_t length);
  /// The back end has filled the first `length` bytes of what writable_pieces gave; the rest can be written by the
  /// calls above (write_zeros, say).
  void pieces_written(std::uint64_t length);
  /// Lets go of the memory that readable_pieces() and writable_pieces() gave: their spans are not to be used any more.
  /// EFAULT: some of it has been lost meanwhile (its file has shrunk), so what the back end read there was not the
  /// driver's, or what it wrote does not reach it. A device that answers without asking is not believed: used length 0.
  Status unpin();

  /// Gives the buffer back with used length written(). Any thread; the token is empty afterwards.
  void complete();
  /// The driver broke a rule that leaves no way to answer: the device needs a reset; no used entry is written.
  /// `clause` is an id as in docs/spec-map.md.
  void violation(std::string_view clause, std::string_view what);
  /// The same with what read(), write() or a piece of the device's own code said. EFAULT where fails_alone(): the buffer
  /// goes back with what was written, and the device lives.
  void violation(const Error& error);
  /// Whether memory that cannot be accessed (EFAULT) is to fail this request only, by what means the device type has for
  /// that (a status byte), or by violation(). Else it is the end of the device until it is reset: violation().
  bool fails_alone() const;

 private:
  friend class DeviceQueue;
  explicit Request(RequestSlot& slot) : slot_(&slot) {}
  Status write_last_bytes(Bytes bytes);
  void drop();

  RequestSlot* slot_ = nullptr;
};

}  // namespace outboard::virtio
