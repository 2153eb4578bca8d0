#include <outboard/devices/edu/driver.hpp>

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include <fmt/format.h>

#include <outboard/pci/register_window.hpp>

namespace outboard::edu {

namespace {

constexpr Duration first_pause = std::chrono::microseconds(20), max_pause = std::chrono::milliseconds(5);
/// The other way round with an interrupt: it is what ends the wait, looking at the registers is for when it is lost.
constexpr Duration interrupt_pause = std::chrono::milliseconds(100);
/// A shared line may have another one's interrupts, but not without end.
constexpr unsigned max_causeless = 1000;

Status expect_identity(pci::Handle& handle) {
  OUTBOARD_TRY(const auto identity, handle.identity());
  if (identity.vendor == spec::vendor_id && identity.device == spec::device_id) return {};
  return Error(ENODEV, fmt::format("not an edu device: it is {:04x}:{:04x}", identity.vendor, identity.device))
      .on(handle.name());
}

std::byte pattern_at(std::uint32_t seed, std::size_t index) {
  // Numbers that differ in every byte lane: a shifted or repeated piece shows.
  const std::uint32_t mixed = (seed + static_cast<std::uint32_t>(index / 4)) * 2654435761U;
  return static_cast<std::byte>(mixed >> (8 * (index % 4)));
}

bool wait_with_poll(std::span<const int> fds, Duration time) {
  std::vector<pollfd> watched;
  for (const int fd : fds) watched.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  const auto whole = std::chrono::floor<std::chrono::seconds>(time);
  const timespec timeout{.tv_sec = whole.count(), .tv_nsec = (time - whole).count()};
  // A signal ends it early, which is allowed.
  static_cast<void>(::ppoll(watched.data(), watched.size(), &timeout, nullptr));
  return true;
}

}  // namespace

// Registers.

Error Driver::gone(std::uint64_t offset) const {
  return Error(ENODEV,
               fmt::format("the register at {:#x} reads as all-ones: the device has gone, or is in low power", offset))
      .on(handle_->name());
}

/// 4 bytes of a register, also of those that have 8: only an address needs more. Not every path to a device carries 8 bytes
/// at once (kernels of before 2025 make two accesses of them on x86), and the upper half is no register by itself: it reads
/// as all-ones.
template <typename R>
Result<R> Driver::load() const {
  OUTBOARD_TRY(const auto value, bar_.read<std::uint32_t>(R::offset));
  // No register of the device ever holds this, unless it is written (and no driver does).
  if (value == std::numeric_limits<std::uint32_t>::max()) return gone(R::offset);
  return R(value);
}

template <typename R>
Status Driver::store(R value) const {
  return pci::write_register(bar_, value);
}

/// A 64-bit register, by 4 bytes where they are enough.
template <typename R>
Status Driver::store_and_check(std::uint64_t value) const {
  std::uint64_t taken = 0;
  if (value < std::numeric_limits<std::uint32_t>::max()) {
    OUTBOARD_CHECK(bar_.write(R::offset, static_cast<std::uint32_t>(value)));
    OUTBOARD_TRY(const auto low, load<R>());
    taken = low.value();
  } else {
    OUTBOARD_CHECK(bar_.write(R::offset, value));
    OUTBOARD_TRY(const auto whole, pci::read_register<R>(bar_));
    taken = whole.value();
  }
  if (taken == value) return {};
  if (taken == std::numeric_limits<std::uint64_t>::max()) return gone(R::offset);
  return Error(EPROTO,
               fmt::format("the register at {:#x} holds {:#x} where {:#x} was written", R::offset, taken, value))
      .on(handle_->name());
}

// Start.

Result<Driver> Driver::start(pci::Handle& handle, const Options& options) {
  OUTBOARD_CHECK(expect_identity(handle));
  OUTBOARD_TRY(const auto bar, handle.bar(spec::bar));
  if (bar.size() < spec::registers_end)
    return Error(ENODEV, fmt::format("its BAR has {} bytes, too few for its registers", bar.size())).on(handle.name());
  Driver driver(handle, options, bar);
  if (!driver.options_.wait) driver.options_.wait = wait_with_poll;
  OUTBOARD_CHECK(handle.enable_memory());
  OUTBOARD_CHECK(driver.identify());
  OUTBOARD_CHECK(driver.check_alive());
  OUTBOARD_CHECK(driver.settle());
  OUTBOARD_CHECK(handle.enable_bus_master());
  if (auto ready = driver.take_memory_and_interrupts(); !ready) {
    [[maybe_unused]] const Status off = handle.disable_bus_master();
    return ready.error();
  }
  return driver;
}

Status Driver::take_memory_and_interrupts() {
  OUTBOARD_TRY(bounce_, allocate(spec::buffer_size));
  return enable_interrupts();
}

Status Driver::identify() {
  OUTBOARD_TRY(const auto identification, load<Identification>());
  if (identification.get(Identification::magic) != Identification::magic_value)
    return Error(EPROTO,
                 fmt::format("it identifies itself as {:#010x}, which does not end in ed", identification.value()))
        .on(handle_->name());
  version_ = {.major = identification.get(Identification::major), .minor = identification.get(Identification::minor)};
  return {};
}

/// What is written while it computes is dropped: whoever asked for that may have given up since.
Status Driver::wait_for_idle() {
  return wait_for_end<ComputationStatus>(
      "an earlier computation", [](auto status) { return status.get(ComputationStatus::computing) != 0; }, 0);
}

/// Whoever had it before may have left work under way, and interrupts.
Status Driver::settle() {
  OUTBOARD_CHECK(store(ComputationStatus(0)));
  OUTBOARD_CHECK(wait_for_idle());
  OUTBOARD_CHECK(wait_for_end<DmaCommand>(
      "an earlier transfer", [](auto command) { return command.get(DmaCommand::start) != 0; }, 0));
  return store(InterruptAcknowledge(std::numeric_limits<std::uint32_t>::max()));
}

Status Driver::enable_interrupts() {
  std::optional<pci::InterruptKind> kind;
  if (options_.interrupts == Interrupts::intx) kind = pci::InterruptKind::intx;
  if (options_.interrupts == Interrupts::msi) kind = pci::InterruptKind::msi;
  if (options_.interrupts == Interrupts::automatic) {
    for (const auto each : {pci::InterruptKind::intx, pci::InterruptKind::msi}) {
      OUTBOARD_TRY(const auto info, handle_->interrupts(each));
      if (info.count != 0) kind = each;
    }
  }
  if (!kind) return {};
  OUTBOARD_TRY(vectors_, handle_->enable_interrupts(*kind, 1));
  kind_ = kind;
  return {};
}

// Waiting.

bool Driver::wait(Duration time) {
  std::vector<int> fds;
  if (!polls()) fds.push_back(vectors_.vector(0).get());
  if (handle_->fd() >= 0) fds.push_back(handle_->fd());
  return options_.wait(fds, time);
}

template <typename Done>
Status Driver::wait_until(std::string_view what, Done done) {
  const TimePoint end = options_.clock->now() + options_.timeout;
  Duration pause = polls() ? first_pause : interrupt_pause;
  while (true) {
    OUTBOARD_TRY(const bool ended, done());
    if (ended) return {};
    const TimePoint now = options_.clock->now();
    if (now >= end) return Error(ETIMEDOUT, fmt::format("{} did not finish in time", what)).on(handle_->name());
    if (!wait(std::min<Duration>(pause, end - now)))
      return Error(ECANCELED, fmt::format("interrupted while waiting for {}", what)).on(handle_->name());
    // What the other side sends unasked: DMA that has no other way to our memory.
    OUTBOARD_CHECK(handle_->process());
    if (polls()) pause = std::min(2 * pause, max_pause);
  }
}

/// Takes an interrupt, if one came. The order (status, acknowledge, unmask) is the specification's: INTx stays asserted
/// until it is acknowledged.
Status Driver::serve_interrupt() {
  if (vectors_.vector(0).drain() == 0) return {};
  ++interrupts_;
  OUTBOARD_TRY(const auto status, load<InterruptStatus>());
  causes_ |= status.value();
  causeless_ = status.value() == 0 ? causeless_ + 1 : 0;
  if (causeless_ > max_causeless)
    return Error(EIO, "it raises its interrupt repeatedly without a cause").on(handle_->name());
  if (status.value() != 0) OUTBOARD_CHECK(store(InterruptAcknowledge(status.value())));
  return vectors_.unmask();
}

template <typename R, typename Busy>
Status Driver::wait_for_end(std::string_view what, Busy busy, std::uint32_t cause) {
  bool idle = false;
  auto ended = wait_until(what, [&]() -> Result<bool> {
    if (!polls()) OUTBOARD_CHECK(serve_interrupt());
    OUTBOARD_TRY(const auto now, load<R>());
    idle = !busy(now);
    return idle && (polls() || cause == 0 || (causes_ & cause) != 0);
  });
  causes_ &= ~cause;
  if (ended || ended.error().code() != ETIMEDOUT || !idle) return ended;
  return Error(EIO, fmt::format("{} finished, but its interrupt did not come", what)).on(handle_->name());
}

// What it does.

Status Driver::check_alive() {
  for (const std::uint32_t value : {0x5A0FF0A5U, 0x00000001U, 0x80000000U}) {
    OUTBOARD_CHECK(store(Liveness(value)));
    OUTBOARD_TRY(const auto answer, load<Liveness>());
    if (answer.value() != ~value)
      return Error(EPROTO, fmt::format("wrong liveness answer: {:#010x} for {:#010x}, not the complement",
                                       answer.value(), value))
          .on(handle_->name());
  }
  return {};
}

Result<std::uint32_t> Driver::factorial(std::uint32_t number) {
  const std::uint32_t cause = polls() ? 0 : spec::cause::factorial;
  OUTBOARD_CHECK(wait_for_idle());
  causes_ &= ~cause;
  OUTBOARD_CHECK(store(with(ComputationStatus(), ComputationStatus::interrupt_when_done, polls() ? 0 : 1)));
  OUTBOARD_CHECK(store(Factorial(number)));
  OUTBOARD_CHECK(wait_for_end<ComputationStatus>(
      "the factorial", [](auto status) { return status.get(ComputationStatus::computing) != 0; }, cause));
  OUTBOARD_TRY(const auto result, load<Factorial>());
  return result.value();
}

Status Driver::raise_interrupt(std::uint32_t causes) {
  if (causes == 0) return Error(EINVAL, "an interrupt needs a cause that is not 0");
  if (causes == std::numeric_limits<std::uint32_t>::max())
    return Error(EINVAL, "all 32 causes at once read as a device that has gone").cure("leave one out");
  if (polls()) return Error(ENOTSUP, "the driver was started without interrupts").on(handle_->name());
  causes_ &= ~causes;
  OUTBOARD_CHECK(store(InterruptRaise(causes)));
  auto came = wait_until("waiting for the interrupt", [&]() -> Result<bool> {
    OUTBOARD_CHECK(serve_interrupt());
    return (causes_ & causes) == causes;
  });
  causes_ &= ~causes;
  return came;
}

// DMA.

Result<memory::DmaBuffer> Driver::allocate(std::uint64_t size) {
  return handle_->dma().allocate(size, {.highest = memory::Iova{options_.dma_mask}});
}

Status Driver::transfer(Direction direction, std::uint64_t offset, memory::IovaRange memory) {
  if (!memory.well_formed() || !range_within(offset, memory.size, spec::buffer_size))
    return Error(EINVAL, fmt::format("{} bytes at {} do not lie in the device's buffer of {} bytes", memory.size,
                                     offset, spec::buffer_size));
  if (memory::raw(memory.last()) > options_.dma_mask)
    return Error(EINVAL, fmt::format("the device cannot address {:#x}", memory::raw(memory.last())))
        .on(handle_->name())
        .cure("use memory from allocate()");
  if (broken_)
    return Error(EIO, "an earlier transfer did not end")
        .on(handle_->name())
        .cure("reset the function, and start again");
  const bool to_memory = direction == Direction::from_device;
  const std::uint64_t inside = spec::buffer_address + offset, outside = memory::raw(memory.start);
  OUTBOARD_CHECK(store_and_check<DmaSource>(to_memory ? inside : outside));
  OUTBOARD_CHECK(store_and_check<DmaDestination>(to_memory ? outside : inside));
  OUTBOARD_CHECK(store_and_check<DmaCount>(memory.size));
  auto command = with(DmaCommand(), DmaCommand::start, 1);
  command = with(command, DmaCommand::to_memory, to_memory ? 1 : 0);
  command = with(command, DmaCommand::interrupt_when_done, polls() ? 0 : 1);
  OUTBOARD_CHECK(bar_.write(DmaCommand::offset, static_cast<std::uint32_t>(command.value())));
  auto ended = wait_for_end<DmaCommand>(
      "the transfer", [](auto now) { return now.get(DmaCommand::start) != 0; }, polls() ? 0 : spec::cause::dma);
  if (ended) return ended;
  // An interrupt that does not come, or comes again and again, says nothing of the transfer: only the engine does.
  if (ended.error().code() == EIO) {
    const auto engine = load<DmaCommand>();
    if (engine && engine->get(DmaCommand::start) == 0) return ended;
  }
  // It may still be writing, and the memory is the caller's again.
  broken_ = true;
  [[maybe_unused]] const Status off = handle_->disable_bus_master();
  return ended;
}

Status Driver::write(std::uint64_t offset, Bytes from) {
  if (!range_within(offset, from.size(), spec::buffer_size))
    return Error(EINVAL, fmt::format("{} bytes at {} do not lie in the device's buffer", from.size(), offset));
  if (from.empty()) return {};
  copy_bytes(from, bounce_.bytes());
  return transfer(Direction::to_device, offset, {bounce_.iova(), from.size()});
}

Status Driver::read(std::uint64_t offset, MutableBytes into) {
  if (!range_within(offset, into.size(), spec::buffer_size))
    return Error(EINVAL, fmt::format("{} bytes at {} do not lie in the device's buffer", into.size(), offset));
  if (into.empty()) return {};
  OUTBOARD_CHECK(transfer(Direction::from_device, offset, {bounce_.iova(), into.size()}));
  copy_bytes(bounce_.bytes().first(into.size()), into);
  return {};
}

Status Driver::verify(std::uint32_t seed) {
  std::array<std::byte, spec::buffer_size> sent, received;
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = pattern_at(seed, i);
  OUTBOARD_CHECK(write(0, sent));
  // A transfer that moves nothing must not find the answer in the memory it was given.
  std::ranges::transform(sent, bounce_.data(), [](std::byte each) { return ~each; });
  OUTBOARD_CHECK(read(0, received));
  const auto difference = std::ranges::mismatch(sent, received);
  if (difference.in1 == sent.end()) return {};
  return Error(EPROTO,
               fmt::format("byte {} of the buffer came back as {:#04x}, not as {:#04x}", difference.in1 - sent.begin(),
                           std::to_integer<unsigned>(*difference.in2), std::to_integer<unsigned>(*difference.in1)))
      .on(handle_->name());
}

}  // namespace outboard::edu
