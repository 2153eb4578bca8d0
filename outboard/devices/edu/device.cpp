#include <outboard/devices/edu/device.hpp>

#include <algorithm>
#include <utility>

#include <outboard/base/endian.hpp>
#include <outboard/memory/transfer.hpp>

namespace outboard::edu {

namespace {

constexpr pci::FunctionIdentity identity{.vendor = spec::vendor_id,
                                         .device = spec::device_id,
                                         .subsystem_vendor = spec::subsystem_vendor_id,
                                         .subsystem = spec::subsystem_id,
                                         .class_code = spec::class_code,
                                         .revision = spec::revision,
                                         .express = false};

/// edu.rst: "Only size == 4 accesses are allowed for addresses < 0x80. size == 4 or size == 8 for the rest."
constexpr bool width_allowed(std::uint64_t offset, std::size_t width) {
  return width == 4 || (width == 8 && offset >= spec::wide_from);
}

/// Modulo 2^32, and in a bounded time: 34! is divisible by 2^32, and so is all that follows.
constexpr std::uint32_t factorial_of(std::uint32_t number) {
  constexpr std::uint32_t first_zero = 34;
  if (number >= first_zero) return 0;
  std::uint32_t product = 1;
  for (; number > 1; --number) product *= number;
  return product;
}
static_assert(factorial_of(0) == 1 && factorial_of(12) == 479001600 && factorial_of(33) == 0x80000000);

}  // namespace

Device::Device(Loop& loop, Log log, const Options& options)
    : EmulatedFunction(loop, std::move(log), identity), options_(options) {}

Result<std::unique_ptr<Device>> Device::create(Loop& loop, Log log, const Options& options) {
  std::unique_ptr<Device> device(new Device(loop, std::move(log), options));
  OUTBOARD_CHECK(device->set_up());
  return device;
}

pci::FunctionFactory Device::factory(const Options& options) {
  return [options](Loop& loop, Log log) -> Result<std::unique_ptr<pci::Function>> {
    return create(loop, std::move(log), options);
  };
}

Status Device::set_up() {
  OUTBOARD_CHECK(add_bar(spec::bar, {.size = spec::bar_size, .areas = {}}));
  OUTBOARD_CHECK(add_intx());
  return add_msi(1);
}

// Register accesses.

void Device::read_bar(unsigned /*bar*/, std::uint64_t offset, MutableBytes into) {
  // What nobody answers reads as all-ones.
  std::ranges::fill(into, std::byte{0xFF});
  if (!width_allowed(offset, into.size())) return;
  const auto value = read_register(offset);
  if (!value) return;
  const le64 stored(*value);
  copy_bytes(as_bytes_of(stored).first(into.size()), into);
}

void Device::write_bar(unsigned /*bar*/, std::uint64_t offset, Bytes from) {
  if (!width_allowed(offset, from.size())) return;
  le64 value(0);
  copy_bytes(from, as_writable_bytes_of(value));
  write_register(offset, value);
}

std::optional<std::uint64_t> Device::read_register(std::uint64_t offset) const {
  switch (offset) {
    case Identification::offset:
      return Identification::version_1_0;
    case Liveness::offset:
      return liveness_;
    case Factorial::offset:
      return factorial_;
    case ComputationStatus::offset:
      return status_.value();
    case InterruptStatus::offset:
      return causes_;
    case DmaSource::offset:
      return source_.value();
    case DmaDestination::offset:
      return destination_.value();
    case DmaCount::offset:
      return count_.value();
    case DmaCommand::offset:
      return command_.value();
    default:
      return std::nullopt;
  }
}

void Device::write_register(std::uint64_t offset, std::uint64_t value) {
  const auto low = static_cast<std::uint32_t>(value);
  switch (offset) {
    case Liveness::offset:
      liveness_ = ~low;
      break;
    case Factorial::offset:
      start_factorial(low);
      break;
    case ComputationStatus::offset: {
      constexpr auto when_done = ComputationStatus::interrupt_when_done;
      status_ = with(status_, when_done, ComputationStatus(low).get(when_done));
      break;
    }
    case InterruptRaise::offset:
      raise_interrupt(low);
      break;
    case InterruptAcknowledge::offset:
      acknowledge_interrupt(low);
      break;
    default:
      write_dma_register(offset, value);
  }
}

void Device::write_dma_register(std::uint64_t offset, std::uint64_t value) {
  if (command_.get(DmaCommand::start) != 0) return;
  switch (offset) {
    case DmaSource::offset:
      source_ = DmaSource(value);
      break;
    case DmaDestination::offset:
      destination_ = DmaDestination(value);
      break;
    case DmaCount::offset:
      count_ = DmaCount(value);
      break;
    case DmaCommand::offset:
      if (DmaCommand(value).get(DmaCommand::start) == 0) break;
      command_ = DmaCommand(value);
      start_transfer();
      break;
    default:
      break;
  }
}

// The factorial.

void Device::start_factorial(std::uint32_t number) {
  if (status_.get(ComputationStatus::computing) != 0) return;
  factorial_ = number;
  status_ = with(status_, ComputationStatus::computing, 1);
  run_factorial();
}

void Device::run_factorial() {
  if (is_stopped()) return;  // run_device() comes back to it
  factorial_timer_ = loop().after(options_.factorial_time, [this] { end_factorial(); });
}

void Device::end_factorial() {
  factorial_timer_.reset();
  factorial_ = factorial_of(factorial_);
  status_ = with(status_, ComputationStatus::computing, 0);
  if (status_.get(ComputationStatus::interrupt_when_done) != 0) raise_interrupt(spec::cause::factorial);
}

// The DMA engine.

void Device::start_transfer() {
  if (is_stopped()) return;
  dma_timer_ = loop().after(options_.dma_time, [this] { run_transfer(); });
}

void Device::run_transfer() {
  dma_timer_.reset();
  const bool to_memory = command_.get(DmaCommand::to_memory) != 0;
  const std::uint64_t inside = to_memory ? source_.value() : destination_.value();
  const std::uint64_t outside = to_memory ? destination_.value() : source_.value();
  const std::uint64_t count = count_.value();
  if (inside < spec::buffer_address || !range_within(inside - spec::buffer_address, count, spec::buffer_size))
    return end_transfer(Error(EINVAL, "the transfer lies outside the buffer"));
  if (!bus_master()) return end_transfer(Error(EPERM, "bus mastering is off"));
  if (count == 0) return end_transfer({});

  const memory::IovaRange range{memory::Iova{outside & options_.dma_mask}, count};
  const MutableBytes part = MutableBytes(*buffer_).subspan(inside - spec::buffer_address, count);
  moving_ = true;
  // The memory may be reached by messages, whose answers may come when this function has gone.
  auto done = [this, weak = std::weak_ptr(buffer_), kept = buffer_](const Status& status) mutable {
    kept.reset();
    if (!weak.expired()) end_transfer(status);
  };
  if (to_memory) {
    memory::write_memory(memory().current(), range, part, std::move(done));
  } else {
    memory::read_memory(memory().current(), range, part, std::move(done));
  }
}

/// A transfer that failed ends like any other: the device cannot say more.
void Device::end_transfer(const Status& status) {
  moving_ = false;
  if (!status) {
    ++failed_transfers_;
    log().debug("DMA: {}", status.error().message());
  }
  if (reset_done_) return return_to_power_on();
  command_ = with(command_, DmaCommand::start, 0);
  if (command_.get(DmaCommand::interrupt_when_done) != 0) raise_interrupt(spec::cause::dma);
  if (stop_done_) std::exchange(stop_done_, nullptr)({});
}

// Interrupts.

void Device::raise_interrupt(std::uint32_t causes) {
  causes_ |= causes;
  if (causes_ == 0) return;
  if (interrupts().msi_enabled()) {
    interrupts().signal_msi(0);
  } else {
    interrupts().set_intx(true);
  }
}

void Device::acknowledge_interrupt(std::uint32_t causes) {
  causes_ &= ~causes;
  if (causes_ == 0) interrupts().set_intx(false);
}

// Reset.

void Device::reset_device(Loop::Task done) {
  reset_done_ = std::move(done);
  factorial_timer_.reset();
  dma_timer_.reset();
  // The answer to a message that is under way still goes into the buffer.
  if (!moving_) return_to_power_on();
}

void Device::return_to_power_on() {
  liveness_ = factorial_ = causes_ = 0;
  status_ = {};
  source_ = {};
  destination_ = {};
  count_ = {};
  command_ = {};
  buffer_->fill(std::byte{0});
  std::exchange(reset_done_, nullptr)();
}

}  // namespace outboard::edu
