#include <tests/handshake/machine.hpp>

#include <algorithm>
#include <cstring>

namespace outboard::handshake {

namespace {

bool acquires(std::memory_order order) {
  return order == std::memory_order_acquire || order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}
bool releases(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}

}  // namespace

// Threads.

void Machine::enter(unsigned high, unsigned low) {
  auto& machine = *reinterpret_cast<Machine*>((std::uintptr_t{high} << 32) | low);
  Thread& thread = machine.running();
  thread.body();
  thread.finished = true;
  ::swapcontext(&thread.context, &machine.scheduler_);
}

void Machine::run(std::function<void()> first, std::function<void()> second) {
  threads_[0].body = std::move(first);
  threads_[1].body = std::move(second);
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  for (Thread& thread : threads_) {
    ::getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = nullptr;
    ::makecontext(&thread.context, reinterpret_cast<void (*)()>(&Machine::enter), 2, static_cast<unsigned>(self >> 32),
                  static_cast<unsigned>(self));
  }
  memory::shared_memory = this;
  schedule();
  memory::shared_memory = nullptr;
  for (Thread& thread : threads_) flush_all(thread);
}

/// Picks whose step is next.
void Machine::schedule() {
  while (!threads_[0].finished || !threads_[1].finished) {
    const bool both = !threads_[0].finished && !threads_[1].finished;
    current_ = both ? choices_.choose(2) : threads_[0].finished ? 1 : 0;
    ::swapcontext(&scheduler_, &running().context);
  }
}

// Accesses.

std::uint64_t Machine::load(const void* at, std::size_t size, std::memory_order order) {
  const bool signal = is_signal_(at, size);
  if (signal) ::swapcontext(&running().context, &scheduler_);
  if (model_ == MemoryModel::tso) {
    if (signal) let_other_be_seen(at, size);
    return load_tso(at, size);
  }
  std::uint64_t value = 0;
  for (std::size_t offset = 0; offset < size; offset += unit)
    value |= std::uint64_t{load_weak(reinterpret_cast<std::uintptr_t>(at) + offset, order)} << (8 * offset);
  return value;
}

void Machine::store(void* at, std::size_t size, std::uint64_t value, std::memory_order order) {
  if (model_ == MemoryModel::tso) return running().stores.push_back({at, size, value});
  for (std::size_t offset = 0; offset < size; offset += unit)
    store_weak(reinterpret_cast<std::uintptr_t>(at) + offset, static_cast<std::uint16_t>(value >> (8 * offset)), order);
}

void Machine::full_fence(const char* function) {
  fences_.insert(function);
  if (!removed_.empty() && std::string_view(function).find(removed_) != std::string_view::npos) return;
  Thread& thread = running();
  if (model_ == MemoryModel::tso) return flush_all(thread);
  join(thread.view, thread.to_acquire);
  join(thread.view, fence_view_);
  fence_view_ = thread.view;
  thread.fenced = thread.view;
}

// x86-TSO.

/// The oldest store is seen by all.
void Machine::flush_one(Thread& thread) {
  const Pending& store = thread.stores.front();
  std::memcpy(store.at, &store.value, store.size);
  thread.stores.pop_front();
}

void Machine::flush_all(Thread& thread) {
  while (!thread.stores.empty()) flush_one(thread);
}

/// Decides how many of the other thread's stores to what is about to be loaded have been seen by now: with each of them, all
/// that it stored before.
void Machine::let_other_be_seen(const void* at, std::size_t size) {
  Thread& other = threads_[1 - current_];
  const auto* from = static_cast<const std::byte*>(at);
  const auto overlaps = [&](const Pending& store) {
    const auto* stored = static_cast<const std::byte*>(store.at);
    return stored < from + size && from < stored + store.size;
  };
  const auto count = static_cast<unsigned>(std::ranges::count_if(other.stores, overlaps));
  for (unsigned seen = choices_.choose(count + 1); seen != 0;) {
    if (overlaps(other.stores.front())) --seen;
    flush_one(other);
  }
}

std::uint64_t Machine::load_tso(const void* at, std::size_t size) {
  const auto* from = static_cast<const std::byte*>(at);
  std::array<std::byte, sizeof(std::uint64_t)> bytes{};
  std::memcpy(bytes.data(), from, size);
  for (const Pending& store : running().stores) {
    const auto* stored = static_cast<const std::byte*>(store.at);
    for (std::size_t i = 0; i < size; ++i) {
      if (from + i < stored || from + i >= stored + store.size) continue;
      bytes[i] = static_cast<std::byte>(store.value >> (8 * static_cast<std::size_t>(from + i - stored)));
    }
  }
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// The weak model.

void Machine::join(View& into, const View& from) {
  for (const auto& [at, number] : from) {
    std::size_t& known = into[at];
    known = std::max(known, number);
  }
}

std::vector<Machine::Message>& Machine::history(std::uintptr_t at) {
  auto& stores = histories_[at];
  if (stores.empty()) {
    std::uint16_t value = 0;
    std::memcpy(&value, reinterpret_cast<const void*>(at), sizeof value);
    stores.push_back({value, {}});
  }
  return stores;
}

std::uint16_t Machine::load_weak(std::uintptr_t at, std::memory_order order) {
  Thread& thread = running();
  const auto& stores = history(at);
  const std::size_t oldest = thread.view[at];
  const std::size_t age = choices_.choose(static_cast<unsigned>(stores.size() - oldest));
  const std::size_t number = stores.size() - 1 - age;
  thread.view[at] = number;
  join(acquires(order) ? thread.view : thread.to_acquire, stores[number].released);
  return stores[number].value;
}

void Machine::store_weak(std::uintptr_t at, std::uint16_t value, std::memory_order order) {
  Thread& thread = running();
  auto& stores = history(at);
  thread.view[at] = stores.size();
  View released = releases(order) ? thread.view : thread.fenced;
  released[at] = stores.size();
  stores.push_back({value, std::move(released)});
  std::memcpy(reinterpret_cast<void*>(at), &value, sizeof value);
}

}  // namespace outboard::handshake
