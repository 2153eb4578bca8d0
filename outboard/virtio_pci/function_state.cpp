#include <outboard/virtio_pci/function.hpp>

#include <memory>
#include <utility>

#include <outboard/virtio/saved_device.hpp>

/// The state of a virtio function, for another process.
namespace outboard::virtio_pci {

/// Section "VFUN". Its bytes are those of the reader.
struct Function::Saved {
  SavedFunction function;
  CommonConfig::Saved common;
  IsrState isr;
  virtio::DeviceState device;
};

void Function::stop_device(Completion done) {
  core_->capture([this, done = std::move(done)](Result<virtio::DeviceState> captured) mutable {
    if (!captured) return done(std::unexpected(captured.error()));
    stopped_ = std::move(*captured);
    done({});
  });
}

void Function::save_state(StateWriter& writer) const {
  const auto section = writer.section(state_tag("VFUN"), 1);
  EmulatedFunction::save_state(writer);
  common_->save(writer);
  writer.put(isr_.load(std::memory_order_relaxed));
  writer.put_flag(told_error_);
  virtio::save(stopped_, writer);
}

Result<std::unique_ptr<Function::Saved>> Function::check_saved(StateReader from) const {
  auto saved = std::make_unique<Saved>();
  OUTBOARD_TRY(auto section, from.section(state_tag("VFUN"), 1));
  OUTBOARD_CHECK(from.end());
  OUTBOARD_TRY(saved->function, EmulatedFunction::check_saved(section));
  OUTBOARD_TRY(saved->common, common_->check_saved(section));
  OUTBOARD_TRY(saved->isr.bits, section.get<std::uint8_t>());
  OUTBOARD_TRY(saved->isr.told_error, section.get_flag());
  OUTBOARD_TRY(saved->device, virtio::load_device_state(section));
  OUTBOARD_CHECK(section.end());
  if ((saved->isr.bits & ~(spec::isr::queue | spec::isr::config)) != 0)
    return Error(EINVAL, "the saved ISR status has a bit that is not known");
  return saved;
}

/// The device can only tell by taking it whether it can have that state, and takes one after a reset only. What was there before
/// is put back where it cannot.
void Function::load_state(StateReader from, Completion done) {
  auto checked = check_saved(from);
  if (!checked) return done(std::unexpected(checked.error()));
  const IsrState before{.bits = isr_.load(std::memory_order_relaxed), .told_error = told_error_};
  core_->reset([this, saved = std::move(*checked), before, done = std::move(done)](const Status& reset) mutable {
    if (!reset) return done(reset);
    const Status taken = core_->restore(saved->device, virtio::Restart::on_resume);
    if (!taken) {
      put_back(before);
      return done(taken);
    }
    stopped_ = std::move(saved->device);
    EmulatedFunction::restore(saved->function);
    common_->restore(saved->common);
    restore_isr(saved->isr);
    done({});
  });
}

void Function::restore_isr(const IsrState& isr) {
  isr_.store(isr.bits, std::memory_order_release);
  told_error_ = isr.told_error;
}

void Function::put_back(const IsrState& isr) {
  restore_isr(isr);
  interrupts().set_intx(isr.bits != 0);
  if (const auto back = core_->restore(stopped_, virtio::Restart::on_resume); !back)
    core_->break_device(fmt::format("the state before could not be put back: {}", back.error().message()));
}

}  // namespace outboard::virtio_pci
