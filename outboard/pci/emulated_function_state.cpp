#include <outboard/pci/emulated_function.hpp>

#include <utility>

#include <fmt/format.h>

/// Stopping an emulated function, its state, and going on.
namespace outboard::pci {

void EmulatedFunction::stop(Completion done) {
  if (motion_ != Motion::running) return done(Error(EINVAL, "the function is stopped already"));
  if (resetting_) return done(Error(EBUSY, "a reset of the function is still in progress"));
  motion_ = Motion::stopping;
  stop_device([this, alive = std::weak_ptr(alive_), done = std::move(done)](const Status& stopped) mutable {
    if (alive.expired()) return done(Error(ECANCELED, "the function has gone"));
    motion_ = stopped ? Motion::stopped : Motion::running;
    apply_config();
    done(stopped);
  });
}

Status EmulatedFunction::run() {
  if (motion_ != Motion::stopped) return Error(EINVAL, "the function is not stopped");
  motion_ = Motion::running;
  apply_config();
  const Status runs = run_device();
  if (runs) return {};
  motion_ = Motion::stopped;
  apply_config();
  return runs;
}

Result<std::vector<std::byte>> EmulatedFunction::save() {
  if (motion_ != Motion::stopped) return Error(EINVAL, "the function is not stopped");
  StateWriter writer;
  {
    const auto whole = writer.section(state_tag("STAT"), 1);
    save_state(writer);
  }
  auto state = std::move(writer).finish();
  if (state) state_taken();
  return state;
}

void EmulatedFunction::load(std::vector<std::byte> state, Completion done) {
  if (motion_ != Motion::stopped) return done(Error(EINVAL, "the function is not stopped"));
  loading_ = std::move(state);
  auto whole = StateReader::open(loading_, state_tag("STAT"), 1);
  if (!whole) return done(whole.error());
  load_state(*whole, [this, alive = std::weak_ptr(alive_), done = std::move(done)](const Status& loaded) mutable {
    if (!alive.expired()) loading_.clear();
    done(loaded);
  });
}

void EmulatedFunction::save_state(StateWriter& writer) const {
  const auto section = writer.section(state_tag("FUNC"), 1);
  config_.save(writer);
  interrupts_.save(writer);
  std::uint32_t areas = 0;
  for (const auto& bar : bars_) areas += bar ? static_cast<std::uint32_t>(bar->spec.areas.size()) : 0;
  writer.put(areas);
  for (unsigned bar = 0; bar < bars_.size(); ++bar) {
    if (bars_[bar]) save_areas(bar, writer);
  }
}

void EmulatedFunction::save_areas(unsigned bar, StateWriter& writer) const {
  for (std::size_t i = 0; i < bars_[bar]->spec.areas.size(); ++i) {
    const auto section = writer.section(state_tag("AREA"), 1);
    writer.put(static_cast<std::uint8_t>(bar));
    writer.put(bars_[bar]->spec.areas[i].offset);
    writer.put_bytes(area(bar, i));
  }
}

void EmulatedFunction::load_state(StateReader from, Completion done) {
  const auto saved = check_saved(from);
  if (!saved) return done(saved.error());
  if (const auto end = from.end(); !end) return done(end);
  restore(*saved);
  done({});
}

Result<EmulatedFunction::SavedFunction> EmulatedFunction::check_saved(StateReader& from) const {
  SavedFunction saved;
  OUTBOARD_TRY(auto section, from.section(state_tag("FUNC"), 1));
  OUTBOARD_TRY(saved.config, config_.check_saved(section));
  OUTBOARD_TRY(saved.interrupts, interrupts_.check_saved(section));
  OUTBOARD_TRY(const auto areas, section.get<std::uint32_t>());
  for (unsigned bar = 0; bar < bars_.size(); ++bar) {
    for (std::size_t index = 0; bars_[bar] && index < bars_[bar]->spec.areas.size(); ++index) {
      OUTBOARD_TRY(const auto area, check_saved_area(section, bar, index));
      saved.areas.push_back(area);
    }
  }
  if (areas != saved.areas.size()) return Error(EINVAL, "the saved function has other mapped areas");
  OUTBOARD_CHECK(section.end());
  return saved;
}

Result<EmulatedFunction::SavedFunction::Area> EmulatedFunction::check_saved_area(StateReader& from, unsigned bar,
                                                                                 std::size_t index) const {
  const MmapArea& area = bars_[bar]->spec.areas[index];
  OUTBOARD_TRY(auto section, from.section(state_tag("AREA"), 1));
  OUTBOARD_TRY(const auto saved_bar, section.get<std::uint8_t>());
  OUTBOARD_TRY(const auto offset, section.get<std::uint64_t>());
  OUTBOARD_TRY(const Bytes bytes, section.get_bytes(area.size));
  OUTBOARD_CHECK(section.end());
  if (saved_bar != bar || offset != area.offset || bytes.size() != area.size)
    return Error(EINVAL, "the saved function has another mapped area");
  return SavedFunction::Area{.bar = bar, .index = index, .bytes = bytes};
}

void EmulatedFunction::restore(const SavedFunction& saved) {
  config_.restore(saved.config);
  apply_config();
  interrupts_.restore(saved.interrupts);
  for (const SavedFunction::Area& each : saved.areas) copy_bytes(each.bytes, area(each.bar, each.index));
}

// The log of what it has written.

Result<std::uint64_t> EmulatedFunction::start_dirty_log(std::uint64_t page_size,
                                                        std::span<const memory::IovaRange> ranges) {
  if (is_logging_) return Error(EEXIST, "what the function writes is noted already");
  if (memory::DirtyLog::bitmap_size(1, page_size) == 0)
    return Error(EINVAL, fmt::format("pages of {} bytes; a power of two from {} on can be noted", page_size,
                                     memory::DirtyLog::page_size));
  if (!dirty_log_) dirty_log_ = std::make_unique<memory::DirtyLog>();
  OUTBOARD_CHECK(dirty_log_->restart(ranges));
  memory_.set_write_log(dirty_log_.get());
  is_logging_ = true;
  return memory::DirtyLog::page_size;
}

Status EmulatedFunction::report_dirty(memory::IovaRange range, std::uint64_t page_size, MutableBytes bitmap) {
  if (!is_logging_) return Error(EINVAL, "what the function writes is not noted");
  return dirty_log_->report(range, page_size, bitmap);
}

/// A queue's thread may still be about to note something: the log stays.
void EmulatedFunction::stop_dirty_log() {
  memory_.set_write_log(nullptr);
  is_logging_ = false;
}

}  // namespace outboard::pci
