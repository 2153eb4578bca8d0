#include <outboard/pci/passthrough.hpp>

#include <algorithm>

#include <outboard/base/internal/thread.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/internal/mmap_areas.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

// Making it.

Passthrough::Passthrough(std::unique_ptr<Handle> handle, Loop& loop, Log log, Options options)
    : loop_(loop), log_(std::move(log)), options_(std::move(options)), handle_(std::move(handle)) {}

Result<std::unique_ptr<Passthrough>> Passthrough::create(std::unique_ptr<Handle> handle, Loop& loop, Log log,
                                                         Options options) {
  std::unique_ptr<Passthrough> function(new Passthrough(std::move(handle), loop, std::move(log), std::move(options)));
  OUTBOARD_CHECK(function->begin());
  return function;
}

FunctionFactory Passthrough::factory(std::unique_ptr<Handle> handle, Options options) {
  return [handle = std::move(handle), options = std::move(options)](
             Loop& loop, Log log) mutable -> Result<std::unique_ptr<Function>> {
    return create(std::move(handle), loop, std::move(log), std::move(options));
  };
}

Status Passthrough::begin() {
  OUTBOARD_TRY(sink_, EventFd::create());
  OUTBOARD_TRY(config_, ExporterConfig::create(*handle_));
  config_->on_restart([this] { restarted(); });
  memory_.emplace(handle_->dma_mapper());
  OUTBOARD_CHECK(find_regions());
  OUTBOARD_CHECK(find_msix_table());
  if (config_->map().broken_list()) log_.warning("{}: a list of capabilities loops; it is cut there", handle_->name());
  if (!handle_->resettable())
    log_.warning("{} has no reset: the next client finds the state that the last one left", handle_->name());
  handle_->on_event([this](Event event) { on_event(event); });
  return handle_->attach(loop_);
}

Status Passthrough::find_regions() {
  for (unsigned index = 0; index <= region::config; ++index) {
    OUTBOARD_TRY(RegionInfo region, handle_->region(index));
    if (!options_.trust_client || region.fd == nullptr || index > region::bar5) {
      region.areas.clear();
      region.fd = nullptr;
      region.fd_offset = 0;
    }
    if (index <= region::bar5 && region.size != 0) {
      const auto flags = config_->get(raw(BaseAddress::offset_of(index)), 4);
      is_io_[index] = BaseAddress(flags).get(BaseAddress::io_space) != 0;
    }
    regions_[index] = std::move(region);
  }
  regions_[region::config].size = config_->size();
  return {};
}

/// Accesses to the table are kept from the device, and so it is from being mapped: what is written there is where the
/// device sends its interrupts.
Status Passthrough::find_msix_table() {
  const auto* capability = config_->map().find({ConfigPart::capability, capability_id::msix});
  if (capability == nullptr) return {};
  const ConfigOffset at{capability->at};
  OUTBOARD_TRY(const auto control, handle_->config().read_at<MsixControl>(at + MsixControl::in_capability));
  OUTBOARD_TRY(const auto place, handle_->config().read_at<MsixTable>(at + MsixTable::in_capability));
  table_ = Table{};
  table_->bar = place.get(MsixTable::bar);
  table_->start = place.value() & MsixTable::offset_mask;
  table_->bytes.resize(control.get(MsixControl::table_size) + 1u);
  if (table_->bar > region::bar5 || !range_within(table_->start, table_->bytes.size(), regions_[table_->bar].size))
    return Error(EPROTO, "the MSI-X table lies outside the function's BARs").on(handle_->name());
  keep_table_unmapped(regions_[table_->bar], table_->bar);
  return {};
}

void Passthrough::keep_table_unmapped(RegionInfo& region, unsigned index) const {
  if (table_->bar != index) return;
  region.areas = areas_without(region.areas, table_->start, table_->bytes.size());
  if (region.areas.empty()) region.fd = nullptr;
}

Passthrough::~Passthrough() {
  if (worker_.joinable()) worker_.join();
  if (!handle_->gone()) {
    [[maybe_unused]] const Status stopped = config_ ? config_->allow_bus_master(false) : Status();
    end_interrupts();
  }
  if (memory_) kept_ = memory_->give_up();
  handle_->on_event({});
}

// What it is.

RegionInfo Passthrough::region(unsigned index) const {
  return index < regions_.size() ? regions_[index] : RegionInfo();
}

bool Passthrough::resettable() const { return handle_->resettable(); }

InterruptInfo Passthrough::interrupts(InterruptKind kind) const {
  if (kind == InterruptKind::error || kind == InterruptKind::request) return {.count = 1};
  return handle_->interrupts(kind).value_or(InterruptInfo());
}

std::vector<IoEventFd> Passthrough::io_eventfds(unsigned region) {
  // They are the device's, and stay with whoever had them: one that is saturated by the last client rings no more.
  if (!options_.trust_client || region > region::bar5 || !ready()) return {};
  return handle_->io_eventfds(region).value_or(std::vector<IoEventFd>());
}

// Registers.

bool Passthrough::answers(unsigned region) const {
  if (state_ != State::working) return false;
  if (region == region::config) return true;
  return region <= region::bar5 && is_io_[region] ? config_->decodes_io() : config_->decodes_memory();
}

bool Passthrough::in_table(unsigned region, std::uint64_t offset) const {
  return table_ && region == table_->bar && offset >= table_->start && offset - table_->start < table_->bytes.size();
}

/// How many bytes from `offset` on are all of the table, or all of the device.
std::size_t Passthrough::piece_of(unsigned region, std::uint64_t offset, std::size_t length) const {
  if (!table_ || region != table_->bar) return length;
  const std::uint64_t end = table_->start + table_->bytes.size();
  const std::uint64_t border = offset < table_->start ? table_->start : offset < end ? end : UINT64_MAX;
  return static_cast<std::size_t>(std::min<std::uint64_t>(length, border - offset));
}

Status Passthrough::read_checked(unsigned region, std::uint64_t offset, MutableBytes into) {
  while (!into.empty()) {
    const std::size_t length = piece_of(region, offset, into.size());
    const MutableBytes piece = into.first(length);
    if (!answers(region)) {
      std::ranges::fill(piece, std::byte{0xFF});
    } else if (region == region::config) {
      OUTBOARD_CHECK(config_->read(offset, piece));
    } else if (in_table(region, offset)) {
      for (std::size_t i = 0; i < length; ++i) piece[i] = table_->bytes.read(offset - table_->start + i);
    } else {
      OUTBOARD_CHECK(handle_->read_region(region, offset, piece));
    }
    into = into.subspan(length);
    offset += length;
  }
  return {};
}

Status Passthrough::write_checked(unsigned region, std::uint64_t offset, Bytes from) {
  while (!from.empty()) {
    const std::size_t length = piece_of(region, offset, from.size());
    const Bytes piece = from.first(length);
    if (!answers(region)) {
      // dropped
    } else if (region == region::config) {
      OUTBOARD_CHECK(config_->write(offset, piece));
    } else if (in_table(region, offset)) {
      for (std::size_t i = 0; i < length; ++i) table_->bytes.write(offset - table_->start + i, piece[i]);
    } else {
      OUTBOARD_CHECK(handle_->write_region(region, offset, piece));
    }
    from = from.subspan(length);
    offset += length;
  }
  return {};
}

// Memory.

Status Passthrough::ready() const {
  switch (state_) {
    case State::working:
      return {};
    case State::resetting:
      return Error(EBUSY, "the device is being reset").on(handle_->name());
    case State::failed:
      return Error(EIO, "the device did not release memory that was unmapped").on(handle_->name());
    case State::gone:
      break;
  }
  return Error(ENODEV, "the device has gone").on(handle_->name());
}

/// Bus mastering is held back until there is memory that it reaches: what the device knows before may be the last client's
/// addresses, and without a mapping nobody has shown that an IOMMU stands in front of it.
void Passthrough::follow_memory() {
  if (!memory_->reaches_any()) return;
  if (const Status allowed = config_->allow_bus_master(true); !allowed)
    log_.error("bus mastering cannot be enabled: {}", allowed.error().message());
}

Status Passthrough::map(memory::Mapping mapping) {
  OUTBOARD_CHECK(ready());
  if (const Status mapped = memory_->map(mapping); !mapped) {
    log_.warning("{}: {}", handle_->name(), mapped.error().message());
    return mapped;
  }
  follow_memory();
  return {};
}

/// Nobody can say what the device does to memory that it keeps: it is stopped, and stays so until its client has left.
Status Passthrough::memory_failed(const Status& why) {
  if (memory_->quarantined() == 0) return why;
  log_.error("{}: memory cannot be taken back from the device: {}", handle_->name(), why.error().message());
  [[maybe_unused]] const Status stopped = config_->allow_bus_master(false);
  [[maybe_unused]] const Status rest = memory_->unmap_all();
  state_ = State::failed;
  if (error_notice_.valid()) error_notice_.signal();
  return why;
}

void Passthrough::unmap(memory::IovaRange range, Completion done) {
  if (const Status now = ready(); !now) return done(now);
  done(memory_failed(memory_->unmap(range)));
}

void Passthrough::unmap_all(Completion done) {
  if (const Status now = ready(); !now) return done(now);
  done(memory_failed(memory_->unmap_all()));
}

// Reset, and the client that leaves. What takes its time runs beside the loop; nobody else uses the handle meanwhile.

void Passthrough::blocking(std::function<Status()> call, Completion then) {
  state_ = State::resetting;
  handle_->detach();
  auto task = [this, alive = std::weak_ptr(alive_), &loop = loop_, call = std::move(call),
               then = std::move(then)]() mutable {
    Status result = call();
    loop.post([this, alive = std::move(alive), result = std::move(result), then = std::move(then)]() mutable {
      if (!alive.expired()) came_back(result, std::move(then));
    });
  };
  if (options_.run_blocking) return options_.run_blocking(std::move(task));
  if (worker_.joinable()) worker_.join();
  // Without a thread the loop waits for as long as the device takes.
  auto shared = std::make_shared<Loop::Task>(std::move(task));
  auto worker = start_thread("a reset", [shared] { (*shared)(); });
  if (!worker) return (*shared)();
  worker_ = std::move(*worker);
}

void Passthrough::came_back(const Status& result, Completion then) {
  state_ = State::working;
  if (handle_->gone()) {
    has_gone("the device has gone");
  } else {
    const Status attached = handle_->attach(loop_);
    if (!attached) log_.error("events of the device can no longer be received: {}", attached.error().message());
  }
  const std::weak_ptr alive(alive_);
  then(result);
  if (alive.expired()) return;  // whoever waited for it has destroyed this
  for (const Event event : std::exchange(late_events_, {})) on_event(event);
  if (std::exchange(give_up_when_back_, false)) give_up("the client did not release the device in time");
}

void Passthrough::restarted() {
  if (table_) table_->bytes.reset();
}

void Passthrough::reset(Completion done) {
  if (const Status now = ready(); !now) return done(now);
  if (!handle_->resettable()) return done(Error(ENOTSUP, "the device cannot be reset").on(handle_->name()));
  // Before the device forgets what it does: nothing from before touches memory after it.
  if (const Status stopped = config_->allow_bus_master(false); !stopped) return done(stopped);
  blocking([this] { return handle_->reset(); },
           [this, done = std::move(done)](const Status& reset) mutable {
             Status on = reset;
             if (reset) {
               on = config_->power_on();
               restarted();
             }
             // After a reset that failed the client goes on with what it had.
             if (state_ == State::working) follow_memory();
             done(std::move(on));
           });
}

void Passthrough::release_client(Completion done) {
  error_notice_ = EventFd();
  request_notice_ = EventFd();
  if (state_ == State::gone) return done({});
  if (state_ == State::failed) state_ = State::working;
  [[maybe_unused]] const Status stopped = config_->allow_bus_master(false);
  end_interrupts();
  const Status unmapped = memory_->unmap_all();
  if (!unmapped) log_.error("{}: memory of the client stays mapped: {}", handle_->name(), unmapped.error().message());
  const auto reset = [this]() -> Status { return handle_->resettable() ? handle_->reset() : Status(); };
  blocking(reset,
           [this, done = std::move(done)](const Status& result) mutable { client_released(result, std::move(done)); });
}

void Passthrough::client_released(const Status& reset, Completion done) {
  Status ready = reset;
  if (ready && memory_->quarantined() != 0) ready = memory_->unmap_all();
  if (ready) ready = config_->power_on();
  if (ready) ready = config_->allow_bus_master(false);  // where it could not be taken away before
  restarted();
  const std::weak_ptr alive(alive_);
  done({});
  if (alive.expired()) return;  // whoever waited for it has destroyed this
  // With the last client's memory, or in an unknown state, it is for nobody else.
  if (!ready && state_ == State::working) {
    give_up("the device could not be made ready for another client: " + ready.error().message());
  } else if (unplug_wanted_) {
    give_up("the device is to be unplugged or unbound");
  }
}

// Events of the device.

void Passthrough::on_event(Event event) {
  if (state_ == State::resetting) {
    // A call on another thread has come across it: it is heard when that call has ended.
    loop_.post([this, alive = std::weak_ptr(alive_), event] {
      if (!alive.expired()) late_event(event);
    });
    return;
  }
  switch (event) {
    case Event::unplug_requested:
      return unplug_requested();
    case Event::error:
      log_.error("{}: the device has reported an error", handle_->name());
      if (error_notice_.valid()) error_notice_.signal();
      return;
    case Event::gone:
      return has_gone("the device has gone");
    case Event::low_power_entry:
    case Event::low_power_exit:
      return;  // of our own making only
  }
}

void Passthrough::late_event(Event event) {
  if (state_ != State::resetting) return on_event(event);
  late_events_.push_back(event);
}

bool Passthrough::has_client() const {
  return memory_->count() != 0 || bound_ || error_notice_.valid() || request_notice_.valid();
}

void Passthrough::unplug_requested() {
  if (std::exchange(unplug_wanted_, true)) return;  // it is asked again and again
  log_.warning("{}: the device is to be unplugged or unbound", handle_->name());
  if (request_notice_.valid()) request_notice_.signal();
  // Not from inside the handle's event, where its calls may not wait.
  const bool served = has_client();
  const char* const why =
      served ? "the client did not release the device in time" : "the device is to be unplugged or unbound";
  unplug_timer_ = loop_.after(served ? options_.unplug_timeout : Duration(0), [this, why] { give_up(why); });
}

/// Lets the device go, whatever its client is doing.
void Passthrough::give_up(const std::string& why) {
  if (state_ == State::gone) return;
  if (state_ == State::resetting) {
    give_up_when_back_ = true;
    return;
  }
  log_.warning("{}: {}", handle_->name(), why);
  [[maybe_unused]] const Status stopped = config_->allow_bus_master(false);
  end_interrupts();
  if (const Status unmapped = memory_->unmap_all(); !unmapped) log_.error("{}", unmapped.error().message());
  has_gone(why);
  handle_->revoke();
}

void Passthrough::has_gone(const std::string& why) {
  if (std::exchange(state_, State::gone) == State::gone) return;
  unplug_timer_.reset();
  unmask_watch_.reset();
  bound_.reset();
  vectors_.clear();
  loop_.post([ended = options_.ended, alive = std::weak_ptr(alive_), why] {
    if (ended && !alive.expired()) ended(why);
  });
}

}  // namespace outboard::pci
