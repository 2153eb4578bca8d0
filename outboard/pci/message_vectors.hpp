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
  /// Descriptors that are open: those of vectors that are bound, or have been.
  std::uint64_t held() const;

  /// Binds or, with an invalid EventFd or one that is no eventfd, unbinds. Call refresh() afterwards.
  void bind(unsigned vector, EventFd eventfd);
  void unbind_all();
  /// Signals the bound eventfd, masked or not.
  void trigger(unsigned vector) const;

  /// Whether signals count at all. Becoming active starts with nothing pending.
  void set_active(bool active);
  bool active() const { return active_.load(std::memory_order_acquire); }  // row M12

  /// Takes over what may be delivered and delivers what was pending and now may be.
  void refresh(const Unmasked& unmasked);
  void refresh(unsigned vector, const Unmasked& unmasked);

  bool pending(unsigned vector) const { return vectors_[vector].pending.load(std::memory_order_acquire); }
  void drop_pending();

  /// Any thread.
  void signal(unsigned vector);

 private:
  struct Vector {
    /// Once a vector has been bound it keeps its descriptor number for good: a later binding, or none, is put behind it
    /// with dup3, which is atomic. So a thread that is about to write to the number can never hit a descriptor of
    /// someone else's, without a lock and without waiting for it.
    UniqueFd fd;
    bool bound = false;
    /// A vector that has been a peer's stays one: whoever still signals the peer's eventfd must not block. Written before
    /// `target`, which publishes it.
    std::atomic<EventFd::Owner> owner{EventFd::Owner::us};
    std::atomic<int> target{-1};  ///< fd while the vector may be delivered, else -1
    std::atomic<bool> pending{false};
  };

  void unbind(Vector& vector);
  /// False where an unbound vector's descriptor leads.
  static bool ring(const Vector& vector, int fd);

  std::unique_ptr<Vector[]> vectors_;
  unsigned count_ = 0;
  std::atomic<bool> active_{false};
  UniqueFd nowhere_;  ///< what an unbound vector's descriptor leads to: signalling it fails with EBADF
};

/// An eventfd, or another descriptor without a file behind it.
bool is_eventfd(const EventFd& eventfd);

}  // namespace outboard::pci
