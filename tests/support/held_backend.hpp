#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <outboard/storage/backend.hpp>

namespace outboard::testing {

/// A storage back end in the test's hands: keeps its bytes in memory, notes what it is asked, fails what it is told to
/// fail, and, while `hold` is set, completes nothing before release(). What share() gives is this one again, which outlives
/// it: for loops of one thread.
class HeldBackend final : public storage::Backend {
 public:
  struct Call {
    char kind = 0;  ///< r, w, f, d, z, or u for z with may_unmap
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    friend bool operator==(const Call&, const Call&) = default;
  };

  explicit HeldBackend(std::uint64_t size) : bytes(size) {
    shape.capacity = size;
    shape.can_discard = shape.can_write_zeroes = shape.can_unmap_zeroes = true;
  }

  ~HeldBackend() override { at_end(); }
  HeldBackend(const HeldBackend&) = delete;
  HeldBackend& operator=(const HeldBackend&) = delete;

  storage::Geometry shape{};
  std::vector<std::byte> bytes;
  std::vector<Call> calls;
  unsigned submits = 0;
  bool hold = false;
  /// With `hold`: bytes move at release() and not when the operation begins, as when a medium that hangs answers late.
  bool moves_late = false;
  bool completes_on_poll = false;
  /// 0, or what an operation ends with. A read that fails has filled half of its pieces.
  std::function<int(const Call&)> fails = [](const Call&) { return 0; };
  /// Storage that carries out what does not fail, and completes it on its own loop; it has the same bytes at the beginning, and
  /// what is written goes to both. Null: there are `bytes` only.
  std::unique_ptr<storage::Backend> below;

  /// Called by its destructor, and by that of each that share() gave: where other storage waits for what the kernel carries out.
  std::function<void()> at_end = [] {};

  /// What measure() tells.
  std::function<Result<std::uint64_t>()> on_measure = [this] { return shape.capacity; };

  /// Completes what is held, oldest first; returns how many.
  std::size_t release() {
    auto now = std::exchange(held_, {});
    for (auto& operation : now) complete(operation);
    if (below) below->submit();
    return now.size();
  }
  std::size_t held() const { return held_.size(); }
  /// How many of what share() gave are still there.
  std::size_t shared() const { return static_cast<std::size_t>(shares_.use_count() - 1); }

  storage::Geometry geometry() const override { return shape; }
  std::string description() const override { return "held"; }
  StorageIdentity identity() const override {
    return {.contents = StorageIdentity::Contents::memory, .size = shape.capacity};
  }
  void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override {
    const Call call{'r', offset, length_of(pieces)};
    const int error = note(call);
    if (error != 0 || !below) move(offset, pieces, error == 0 ? call.length : call.length / 2, false);
    end(error, std::move(done),
        [this, offset, pieces](Completion end) { below->read(offset, pieces, std::move(end)); });
  }
  void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override {
    const Call call{'w', offset, length_of(pieces)};
    const int error = note(call);
    if (error == 0) move(offset, pieces, call.length, true);
    end(error, std::move(done),
        [this, offset, pieces](Completion end) { below->write(offset, pieces, std::move(end)); });
  }
  void flush(Completion done) override {
    end(note({'f', 0, 0}), std::move(done), [this](Completion end) { below->flush(std::move(end)); });
  }
  void discard(std::uint64_t offset, std::uint64_t length, Completion done) override {
    end(note({'d', offset, length}), std::move(done),
        [this, offset, length](Completion end) { below->discard(offset, length, std::move(end)); });
  }
  void write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) override {
    const int error = note({may_unmap ? 'u' : 'z', offset, length});
    if (error == 0) std::memset(bytes.data() + offset, 0, length);
    end(error, std::move(done), [this, offset, length, may_unmap](Completion end) {
      below->write_zeroes(offset, length, may_unmap, std::move(end));
    });
  }
  void measure(Measured done) override { done(on_measure()); }
  void set_capacity(std::uint64_t capacity) override { shape.capacity = capacity; }
  Result<std::unique_ptr<storage::Backend>> share(Loop&) const override {
    return std::make_unique<Shared>(const_cast<HeldBackend&>(*this));
  }
  void submit() override {
    ++submits;
    if (below) below->submit();
  }
  /// Whoever polls lets the oldest of what is held complete, if `completes_on_poll` is set.
  bool poll() override {
    if (!completes_on_poll || held_.empty()) return false;
    Held first = std::move(held_.front());
    held_.erase(held_.begin());
    complete(first);
    if (below) below->submit();
    return true;
  }

 private:
  class Shared final : public storage::Backend {
   public:
    explicit Shared(HeldBackend& held) : held_(held), share_(held.shares_) {}
    ~Shared() override { held_.at_end(); }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    storage::Geometry geometry() const override { return held_.geometry(); }
    std::string description() const override { return held_.description(); }
    void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override {
      held_.read(offset, pieces, std::move(done));
    }
    void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override {
      held_.write(offset, pieces, std::move(done));
    }
    void flush(Completion done) override { held_.flush(std::move(done)); }
    void discard(std::uint64_t offset, std::uint64_t length, Completion done) override {
      held_.discard(offset, length, std::move(done));
    }
    void write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) override {
      held_.write_zeroes(offset, length, may_unmap, std::move(done));
    }
    Result<std::unique_ptr<storage::Backend>> share(Loop& loop) const override { return held_.share(loop); }
    void submit() override { held_.submit(); }

   private:
    HeldBackend& held_;
    std::shared_ptr<char> share_;
  };

  static std::uint64_t length_of(std::span<const iovec> pieces) {
    std::uint64_t length = 0;
    for (const auto& piece : pieces) length += piece.iov_len;
    return length;
  }
  void copy(std::uint64_t offset, std::span<const iovec> pieces, std::uint64_t length, bool to_disk) {
    for (const auto& piece : pieces) {
      const std::uint64_t size = std::min<std::uint64_t>(piece.iov_len, length);
      if (size != 0) {
        void* disk = bytes.data() + offset;
        to_disk ? std::memcpy(disk, piece.iov_base, size) : std::memcpy(piece.iov_base, disk, size);
      }
      offset += size;
      length -= size;
    }
  }
  void move(std::uint64_t offset, std::span<const iovec> pieces, std::uint64_t length, bool to_disk) {
    if (!hold || !moves_late) return copy(offset, pieces, length, to_disk);
    late_ = [this, offset, kept = std::vector<iovec>(pieces.begin(), pieces.end()), length, to_disk] {
      copy(offset, kept, length, to_disk);
    };
  }
  int note(const Call& call) {
    calls.push_back(call);
    return fails(call);
  }
  using Start = std::function<void(Completion)>;
  /// `below_starts`: has the storage below do it.
  void end(int error, Completion done, Start below_starts) {
    Held operation{std::move(done), error, std::exchange(late_, nullptr), nullptr};
    if (error == 0 && below) operation.start = std::move(below_starts);
    if (hold) return held_.push_back(std::move(operation));
    complete(operation);
  }

  struct Held {
    Completion done;
    int error = 0;
    std::function<void()> move;  ///< the bytes; null: they have been moved
    Start start;  ///< null: nothing is left to do
  };
  static void complete(Held& operation) {
    if (operation.move) operation.move();
    if (operation.start) return operation.start(std::move(operation.done));
    operation.done(operation.error);
  }

  std::vector<Held> held_;
  std::function<void()> late_;  ///< of the operation that is being begun
  std::shared_ptr<char> shares_ = std::make_shared<char>();
};

}  // namespace outboard::testing
