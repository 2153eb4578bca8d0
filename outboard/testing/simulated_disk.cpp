#include <outboard/testing/simulated_disk.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace outboard::testing {
namespace {

constexpr std::size_t sector = 512;

/// How long an operation takes.
constexpr Duration times[] = {std::chrono::microseconds(20), std::chrono::microseconds(2), std::chrono::milliseconds(2),
                              std::chrono::milliseconds(200), std::chrono::seconds(3)};

}  // namespace

struct SimulatedDisk::State {
  State(Simulation& machine, Options chosen)
      : simulation(machine), options(chosen), current(chosen.capacity), durable(chosen.capacity) {}

  Simulation& simulation;
  Options options;
  std::vector<std::byte> current;  ///< what a read returns
  std::vector<std::byte> durable;  ///< what is there after a loss of power
  std::uint64_t power_cycles = 0;
  std::uint64_t flushes = 0;  ///< that have begun
  std::uint64_t last_flush = 0;  ///< the number of the last one among those that have succeeded
  std::size_t running = 0;  ///< operations

  /// What is written goes to the medium some time, in any order.
  void write(std::uint64_t offset, Bytes bytes) {
    std::ranges::copy(bytes, current.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  /// `covered`: what was there when the flush began. One that began later may have ended before.
  void flush(std::uint64_t number, const std::vector<std::byte>& covered) {
    if (number < last_flush) return;
    last_flush = number;
    durable = covered;
  }
};

/// The back end of one process.
class SimulatedDisk::Port final : public storage::Backend {
 public:
  Port(std::shared_ptr<State> state, Loop& loop) : state_(std::move(state)), loop_(loop) {}

  storage::Geometry geometry() const override {
    return {.capacity = state_->options.capacity, .can_discard = true, .can_write_zeroes = true};
  }
  std::string description() const override { return "a simulated disk"; }

  void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override {
    start(
        std::move(done),
        [this, offset, pieces](int error) {
          std::uint64_t at = offset;
          for (const iovec& piece : pieces) {
            if (error == 0) std::memcpy(piece.iov_base, state_->current.data() + at, piece.iov_len);
            at += piece.iov_len;
          }
        },
        [](int) {});
  }
  void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override {
    std::vector<std::byte> bytes;
    for (const iovec& piece : pieces) {
      const auto* const from = static_cast<const std::byte*>(piece.iov_base);
      bytes.insert(bytes.end(), from, from + piece.iov_len);
    }
    store(offset, std::move(bytes), std::move(done));
  }
  void flush(Completion done) override {
    // No more than what has been written when it begins: to cover what comes after would be kinder than disks are.
    start(
        std::move(done), [](int) {},
        [state = state_, number = ++state_->flushes, covered = state_->current](int error) {
          if (error == 0) state->flush(number, covered);
        });
  }
  void discard(std::uint64_t offset, std::uint64_t length, Completion done) override {
    store(offset, std::vector<std::byte>(length), std::move(done));
  }
  void write_zeroes(std::uint64_t offset, std::uint64_t length, bool /*may_unmap*/, Completion done) override {
    store(offset, std::vector<std::byte>(length), std::move(done));
  }
  Result<std::unique_ptr<Backend>> share(Loop& loop) const override { return std::make_unique<Port>(state_, loop); }

 private:
  void store(std::uint64_t offset, std::vector<std::byte> bytes, Completion done) {
    start(
        std::move(done), [](int) {},
        [state = state_, offset, bytes = std::move(bytes)](int error) {
          const std::size_t sectors = bytes.size() / sector;
          // One that fails may have written a part.
          const std::size_t written =
              error == 0 ? sectors : state->simulation.choose(Choice::storage, static_cast<std::uint32_t>(sectors + 1));
          state->write(offset, Bytes(bytes).first(written * sector));
        });
  }

  /// Carries an operation out later: `on_disk` whatever becomes of this object, `in_process` only while it lives.
  void start(Completion done, std::function<void(int)> in_process, std::function<void(int)> on_disk) {
    Simulation& simulation = state_->simulation;
    if (simulation.is_code_of_the_dead()) return;
    const bool fails = state_->options.fails && simulation.choose(Choice::storage, 16) == 15;
    const std::uint32_t time = simulation.choose(Choice::storage, std::size(times));
    const std::uint64_t number = next_++;
    operations_->emplace(number, Operation{.done = std::move(done), .in_process = std::move(in_process)});
    ++state_->running;
    simulation.at(simulation.clock().now() + times[time],
                  [state = state_, cycle = state_->power_cycles, this, weak = std::weak_ptr(operations_), number,
                   error = fails ? EIO : 0, on_disk = std::move(on_disk)] {
                    if (cycle != state->power_cycles) return;
                    --state->running;
                    on_disk(error);
                    if (const auto operations = weak.lock()) operations->at(number).in_process(error);
                    if (!weak.expired()) post(number, error);
                  });
  }

  void post(std::uint64_t number, int error) {
    loop_.post([weak = std::weak_ptr(operations_), number, error] {
      const auto operations = weak.lock();
      if (operations == nullptr) return;
      Completion done = std::move(operations->at(number).done);
      operations->erase(number);
      done(error);
    });
  }

  struct Operation {
    Completion done;
    std::function<void(int)> in_process;
  };

  std::shared_ptr<State> state_;
  Loop& loop_;
  std::uint64_t next_ = 0;
  /// Destroyed with this object, and then not called.
  std::shared_ptr<std::map<std::uint64_t, Operation>> operations_ =
      std::make_shared<std::map<std::uint64_t, Operation>>();
};

SimulatedDisk::SimulatedDisk(Simulation& simulation, Options options)
    : state_(std::make_shared<State>(simulation, options)) {}
SimulatedDisk::~SimulatedDisk() = default;

Result<std::unique_ptr<storage::Backend>> SimulatedDisk::open(Loop& loop) {
  if (!idle()) return Error(EBUSY, "another process still uses the disk");
  return std::make_unique<Port>(state_, loop);
}

bool SimulatedDisk::idle() const { return state_->running == 0; }

void SimulatedDisk::lose_power() {
  ++state_->power_cycles;
  state_->running = 0;
  for (std::size_t at = 0; at < state_->current.size(); at += sector) {
    const bool kept = std::memcmp(&state_->current[at], &state_->durable[at], sector) == 0 ||
                      state_->simulation.choose(Choice::storage, 2) == 0;
    if (!kept) std::memcpy(&state_->current[at], &state_->durable[at], sector);
  }
  state_->durable = state_->current;
}

Bytes SimulatedDisk::contents() const { return state_->current; }

}  // namespace outboard::testing
