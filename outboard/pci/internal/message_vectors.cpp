#include <outboard/pci/internal/message_vectors.hpp>

#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <outboard/base/internal/eventfds.hpp>

namespace outboard::pci {

namespace {

/// A descriptor that nothing can be done with: a signal fails with EBADF.
UniqueFd open_nowhere() { return UniqueFd(::open("/", O_PATH | O_CLOEXEC)); }

}  // namespace

void MessageVectors::resize(unsigned count) {
  vectors_ = count != 0 ? std::make_unique<Vector[]>(count) : nullptr;
  count_ = count;
}

std::uint64_t MessageVectors::held() const {
  std::uint64_t count = nowhere_ ? 1 : 0;
  for (unsigned i = 0; i < count_; ++i) count += vectors_[i].fd ? 1U : 0U;
  return count;
}

void MessageVectors::bind(unsigned index, EventFd eventfd) {
  Vector& vector = vectors_[index];
  if (!may_be_eventfd(eventfd.get())) return unbind(vector);
  if (eventfd.owner() == EventFd::Owner::peer) vector.owner.store(EventFd::Owner::peer, std::memory_order_release);
  if (!vector.fd) {
    vector.fd = std::move(eventfd).release();
  } else if (::dup3(eventfd.get(), vector.fd.get(), O_CLOEXEC) < 0) {
    return unbind(vector);  // not known to happen: both are open
  }
  vector.bound = true;
}

void MessageVectors::unbind(Vector& vector) {
  // Nobody starts a write any more. One that has loaded the number already fails, and the signal stays pending.
  vector.target.store(-1, std::memory_order_seq_cst);
  if (!vector.bound) return;
  vector.bound = false;
  if (!nowhere_) nowhere_ = open_nowhere();
  // Without it (out of descriptors) the eventfd stays open, and unused, until the vector is bound again.
  if (nowhere_) ::dup3(nowhere_.get(), vector.fd.get(), O_CLOEXEC);
}

void MessageVectors::unbind_all() {
  for (unsigned i = 0; i < count_; ++i) unbind(vectors_[i]);
}

bool MessageVectors::ring(const Vector& vector, int fd) {
  return signal_eventfd(fd, vector.owner.load(std::memory_order_acquire));
}

void MessageVectors::trigger(unsigned index) const {
  const Vector& vector = vectors_[index];
  if (vector.bound) ring(vector, vector.fd.get());
}

void MessageVectors::set_active(bool active) {
  if (active == this->active()) return;
  drop_pending();
  active_.store(active, std::memory_order_release);  // row M11
}

void MessageVectors::drop_pending() {
  for (unsigned i = 0; i < count_; ++i) vectors_[i].pending.store(false, std::memory_order_release);
}

void MessageVectors::set_pending(unsigned vector, bool pending) {
  vectors_[vector].pending.store(pending, std::memory_order_release);
}

void MessageVectors::refresh(const Unmasked& unmasked) {
  for (unsigned i = 0; i < count_; ++i) refresh(i, unmasked);
}

void MessageVectors::refresh(unsigned index, const Unmasked& unmasked) {
  Vector& vector = vectors_[index];
  const bool deliverable = vector.bound && unmasked(index);
  // Row M10. Pairs with signal(): either we see its pending bit, or it sees our target; both may, and one exchange wins.
  vector.target.store(deliverable ? vector.fd.get() : -1, std::memory_order_seq_cst);
  if (deliverable && vector.pending.exchange(false, std::memory_order_seq_cst)) ring(vector, vector.fd.get());
}

void MessageVectors::signal(unsigned index) {
  if (index >= count_) return;
  Vector& vector = vectors_[index];
  int target = vector.target.load(std::memory_order_acquire);
  // Goes round again only when the control thread has bound or unbound the vector in between.
  while (true) {
    if (target >= 0 && ring(vector, target)) return;
    if (!active()) return;
    // Row M9. Pairs with refresh().
    vector.pending.store(true, std::memory_order_seq_cst);
    target = vector.target.load(std::memory_order_seq_cst);
    if (target < 0 || !vector.pending.exchange(false, std::memory_order_seq_cst)) return;
  }
}

}  // namespace outboard::pci
