#include <outboard/storage/ending.hpp>

namespace outboard::storage {
namespace {

// Nothing else depends on them: no order is needed.
std::atomic<unsigned> waiting{0}, closing{0};

}  // namespace

Ending ending() {
  if (waiting.load(std::memory_order_relaxed) != 0) return Ending::requests;
  return closing.load(std::memory_order_relaxed) != 0 ? Ending::closing : Ending::none;
}

EndingScope::EndingScope(Ending what) : count_(what == Ending::closing ? closing : waiting) {
  count_.fetch_add(1, std::memory_order_relaxed);
}

EndingScope::~EndingScope() { count_.fetch_sub(1, std::memory_order_relaxed); }

}  // namespace outboard::storage
