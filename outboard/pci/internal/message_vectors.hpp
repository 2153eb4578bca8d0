#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include <outboard/base/fd.hpp>

namespace outboard::pci {

/// The vectors of one kind of message interrupt (MSI or MSI-X): which eventfd each is bound to, whether it may be
/// delivered now, and whether it is pending. Control thread, except signal(). Part of Interrupts.
class MessageVectors {
 public:
  /// Whether `vector` is unmasked, apart from being bound.
  using Unmasked = std::function<bool(unsigned vector)>;

  /// Before any other call, and before another thread signals.
  void resize(unsigned count);
  unsigned count() const { return count_; }
  /// The number of open descriptors: those of vectors that are bound, or were bound before.
  std::uint64_t held() const;

  /// Binds `eventfd`, or unbinds the vector if it is invalid or not an eventfd. Call refresh() afterwards.
  void bind(unsigned vector, EventFd eventfd);
  void unbind_all();
  /// Signals the bound eventfd, masked or not.
  void trigger(unsigned vector) const;

  /// Whether signals have an effect. set_active(true) drops pending bits.
  void set_active(bool active);
  bool active() const { return active_.load(std::memory_order_acquire); }  // row M12

  /// Updates which vectors may be delivered, and delivers those that were pending and may be delivered now.
  void refresh(const Unmasked& unmasked);
  void refresh(unsigned vector, const Unmasked& unmasked);

  bool pending(unsigned vector) const { return vectors_[vector].pending.load(std::memory_order_acquire); }
  void drop_pending();
  /// Sets the pending bit of a vector; refresh() delivers it.
  void set_pending(unsigned vector, bool pending);

  /// Any thread.
  void signal(unsigned vector);

 private:
  struct Vector {
    /// Once a vector has been bound, it keeps its descriptor number for good: a later binding or unbinding replaces the open
    /// file with dup3(), atomically. So a thread that is about to write to the number never writes to an unrelated descriptor,
    /// without a lock.
    UniqueFd fd;
    bool bound = false;
    /// Once a peer's eventfd was bound, the owner stays `peer`: another thread may still be signalling that eventfd, and must
    /// not block. Written before `target`, which publishes it.
    std::atomic<EventFd::Owner> owner{EventFd::Owner::us};
    std::atomic<int> target{-1};  ///< fd while the vector may be delivered, else -1
    std::atomic<bool> pending{false};
  };

  void unbind(Vector& vector);
  /// Signals; false: the vector was unbound meanwhile.
  static bool ring(const Vector& vector, int fd);

  std::unique_ptr<Vector[]> vectors_;
  unsigned count_ = 0;
  std::atomic<bool> active_{false};
  UniqueFd nowhere_;  ///< replaces the open file of an unbound vector: signalling it fails with EBADF
};

}  // namespace outboard::pci
