#include <outboard/memory/transfer.hpp>

#include <algorithm>
#include <cstring>
#include <optional>

namespace outboard::memory {
namespace {

/// What differs between the two directions.
struct Reading {
  using Side = MutableBytes;
  static constexpr Access access = Access::read;
  static void copy(const Snapshot& /*snapshot*/, Iova /*at*/, Side ours, std::byte* memory) {
    std::memcpy(ours.data(), memory, ours.size());
  }
  static void arrived(const Snapshot& /*snapshot*/, IovaRange /*range*/) {}
  static void start(MemoryPort& port, Iova address, Side ours, MemoryPort::Completion done) {
    port.read(address, ours, std::move(done));
  }
};
struct Writing {
  using Side = Bytes;
  static constexpr Access access = Access::write;
  static void copy(const Snapshot& snapshot, Iova at, Side ours, std::byte* memory) {
    snapshot.writes().copy(memory, at, ours);
  }
  static void arrived(const Snapshot& snapshot, IovaRange range) { snapshot.writes().note(range); }
  static void start(MemoryPort& port, Iova address, Side ours, MemoryPort::Completion done) {
    port.write(address, ours, std::move(done));
  }
};

Error refusal(Lookup lookup) {
  if (lookup == Lookup::denied) return Error(EPERM, "the device may not access this memory in that way");
  return Error(EFAULT, "no memory is mapped at the I/O address");
}

/// The part of a transfer that goes through ports: one message after the other. Lives in the completions it hands out.
template <typename Direction>
class PortTransfer : public std::enable_shared_from_this<PortTransfer<Direction>> {
 public:
  PortTransfer(std::shared_ptr<const Snapshot> snapshot, IovaRange range, typename Direction::Side ours,
               TransferCompletion done)
      : snapshot_(std::move(snapshot)), range_(range), ours_(ours), done_(std::move(done)) {}

  /// Goes on until a port makes it wait. A port that answers at once is no recursion, however many messages it takes.
  void run() {
    while (moved_ < range_.size) {
      const Mapping& mapping = *snapshot_->find(range_.start + moved_);  // checked before: there is one
      const std::uint64_t rest = raw(mapping.range.last()) - raw(range_.start + moved_);
      const std::uint64_t here = std::min(range_.size - moved_ - 1, rest) + 1;
      if (mapping.memory) {
        moved_ += here;  // copied already
        continue;
      }
      if (!transfer(*mapping.port, here)) return;
    }
    finish({});
  }

 private:
  /// Returns whether it has ended well already. When not, its completion goes on, or the transfer is over.
  bool transfer(MemoryPort& port, std::uint64_t size) {
    const std::uint64_t piece = std::min({size, port.max_transfer(), max_port_transfer});
    if (piece == 0) {
      finish(Error(EIO, "this memory can be accessed neither directly nor by messages"));
      return false;
    }
    calling_ = true;
    answer_.reset();
    Direction::start(
        port, range_.start + moved_, ours_.subspan(moved_, piece),
        [self = this->shared_from_this(), piece](Status status) { self->answered(piece, std::move(status)); });
    calling_ = false;
    if (!answer_) return false;
    if (answer_->has_value()) return true;
    finish(std::move(*answer_));
    return false;
  }

  void answered(std::uint64_t piece, Status status) {
    Direction::arrived(*snapshot_, {range_.start + moved_, piece});  // some of it, where it failed
    moved_ += piece;
    if (calling_) {
      answer_ = std::move(status);
    } else if (!status) {
      finish(std::move(status));
    } else {
      run();
    }
  }

  void finish(Status status) { std::exchange(done_, nullptr)(std::move(status)); }

  std::shared_ptr<const Snapshot> snapshot_;
  IovaRange range_;
  typename Direction::Side ours_;
  TransferCompletion done_;
  std::uint64_t moved_ = 0;
  bool calling_ = false;  ///< inside the port's read() or write()
  std::optional<Status> answer_;
};

/// Copies what is mapped, from one end to the other. EFAULT when the memory turned out to be gone.
template <typename Direction>
Status copy_mapped(const Snapshot& snapshot, IovaRange range, typename Direction::Side ours) {
  Iova at = range.start;
  std::uint64_t moved = 0;
  while (moved < range.size) {
    const Mapping& mapping = *snapshot.find(at);
    const std::uint64_t size = std::min(range.size - moved - 1, raw(mapping.range.last()) - raw(at)) + 1;
    if (mapping.memory) {
      Direction::copy(snapshot, at, ours.subspan(moved, size), mapping.host(at));
      if (mapping.memory->poisoned(mapping.host(at), size))
        return Error(EFAULT, "the file behind this memory was truncated");
    }
    moved += size;
    at = at + size;
  }
  return {};
}

template <typename Direction>
void transfer_memory(std::shared_ptr<const Snapshot> snapshot, IovaRange range, typename Direction::Side ours,
                     TransferCompletion done) {
  if (range.size != ours.size()) return done(Error(EINVAL, "the buffer and the I/O address range differ in size"));
  const Lookup lookup = snapshot->check(range, Direction::access);
  if (lookup != Lookup::ok && lookup != Lookup::remote) return done(refusal(lookup));
  if (auto copied = copy_mapped<Direction>(*snapshot, range, ours); !copied || lookup == Lookup::ok) {
    return done(std::move(copied));
  }
  std::make_shared<PortTransfer<Direction>>(std::move(snapshot), range, ours, std::move(done))->run();
}

}  // namespace

void read_memory(std::shared_ptr<const Snapshot> snapshot, IovaRange range, MutableBytes into,
                 TransferCompletion done) {
  transfer_memory<Reading>(std::move(snapshot), range, into, std::move(done));
}

void write_memory(std::shared_ptr<const Snapshot> snapshot, IovaRange range, Bytes from, TransferCompletion done) {
  transfer_memory<Writing>(std::move(snapshot), range, from, std::move(done));
}

}  // namespace outboard::memory
