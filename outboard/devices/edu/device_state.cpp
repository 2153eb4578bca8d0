#include <outboard/devices/edu/device.hpp>

#include <utility>

/// Stopping the device, its state, and going on.
namespace outboard::edu {

struct Device::Saved {
  SavedFunction function;
  std::uint32_t liveness = 0, factorial = 0, status = 0, causes = 0;
  std::uint64_t source = 0, destination = 0, count = 0, command = 0;
  Bytes buffer;
};

void Device::stop_device(Completion done) {
  factorial_timer_.reset();
  dma_timer_.reset();
  if (!moving_) return done({});
  stop_done_ = std::move(done);
}

Status Device::run_device() {
  if (status_.get(ComputationStatus::computing) != 0) run_factorial();
  if (command_.get(DmaCommand::start) != 0) start_transfer();
  return {};
}

void Device::save_state(StateWriter& writer) const {
  const auto section = writer.section(state_tag("EDU "), 1);
  EmulatedFunction::save_state(writer);
  for (const std::uint32_t value : {liveness_, factorial_, status_.value(), causes_}) writer.put(value);
  for (const std::uint64_t value : {source_.value(), destination_.value(), count_.value(), command_.value()})
    writer.put(value);
  writer.put_bytes(*buffer_);
}

Result<std::unique_ptr<Device::Saved>> Device::check_saved(StateReader from) const {
  auto saved = std::make_unique<Saved>();
  OUTBOARD_TRY(auto section, from.section(state_tag("EDU "), 1));
  OUTBOARD_CHECK(from.end());
  OUTBOARD_TRY(saved->function, EmulatedFunction::check_saved(section));
  for (std::uint32_t* const value : {&saved->liveness, &saved->factorial, &saved->status, &saved->causes}) {
    OUTBOARD_TRY(*value, section.get<std::uint32_t>());
  }
  for (std::uint64_t* const value : {&saved->source, &saved->destination, &saved->count, &saved->command}) {
    OUTBOARD_TRY(*value, section.get<std::uint64_t>());
  }
  OUTBOARD_TRY(saved->buffer, section.get_bytes(spec::buffer_size));
  OUTBOARD_CHECK(section.end());
  if (saved->buffer.size() != spec::buffer_size) return Error(EINVAL, "the saved buffer has another size");
  return saved;
}

void Device::load_state(StateReader from, Completion done) {
  const auto checked = check_saved(from);
  if (!checked) return done(std::unexpected(checked.error()));
  const Saved& saved = **checked;
  restore(saved.function);
  liveness_ = saved.liveness;
  factorial_ = saved.factorial;
  status_ = ComputationStatus(saved.status);
  causes_ = saved.causes;
  source_ = DmaSource(saved.source);
  destination_ = DmaDestination(saved.destination);
  count_ = DmaCount(saved.count);
  command_ = DmaCommand(saved.command);
  copy_bytes(saved.buffer, *buffer_);
  done({});
}

}  // namespace outboard::edu
