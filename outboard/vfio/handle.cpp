#include <outboard/vfio/handle.hpp>

#include <algorithm>

#include <fmt/format.h>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/internal/mmap_areas.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/vfio/internal/handle_state.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;

// One numbering: what pci counts is what the kernel counts.
static_assert(pci::region::count == abi::pci_num_regions && pci::interrupt_kind_count == abi::pci_num_irqs);

bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

}  // namespace

// Opening and closing.

Handle::Handle(std::unique_ptr<State> state) : state_(std::move(state)) {}

Handle::~Handle() {
  if (!state_->gone) state_->close();
}

Result<std::unique_ptr<Handle>> Handle::open(pci::Address address, const Options& options) {
  Kernel& kernel = options.kernel != nullptr ? *options.kernel : Kernel::system();
  const std::string name = "vfio:" + address.text();
  auto facts = options.sysfs.function(address);
  if (!facts) return Error(facts.error()).on(name);
  auto opened = open_device(kernel, options.sysfs, *facts, options.interface, options.log.named(name));
  if (!opened) return Error(opened.error()).on(name);
  auto state = std::make_unique<State>(kernel, std::move(*opened), std::move(*facts), options);
  std::unique_ptr<Handle> handle(new Handle(std::move(state)));
  if (auto ready = handle->discover(options); !ready) return Error(ready.error()).on(name);
  options.log.info("{}: opened by {}", name, handle->node());
  return handle;
}

Status Handle::discover(const Options& options) {
  State& state = *state_;
  OUTBOARD_TRY(state.lost, EventFd::create());
  OUTBOARD_TRY(const DeviceFacts device, device_facts(state.kernel, state.device));
  state.resettable = device.resettable;
  for (unsigned i = 0; i < std::min<std::uint32_t>(device.regions, pci::region::count); ++i) {
    OUTBOARD_TRY(state.regions[i], region_facts(state.kernel, state.device, i, state.log));
  }
  if (state.regions[pci::region::config].size < 64) return Error(EPROTO, "the configuration space is too short");
  OUTBOARD_CHECK(state.interrupts.discover(device.irqs));
  OUTBOARD_CHECK(identity());
  OUTBOARD_CHECK(find_registers());
  state.migration.emplace(state.kernel, state.device, state.name, [&state] { return state.usable(); });
  if (const auto support = state.migration->support(); !support) {
    if (support.error().code() != ENOTSUP) return support.error();
    state.migration.reset();
  }
  // Only now: a device that has been attached may have narrowed them.
  OUTBOARD_CHECK(state.mapper.refresh());
  state.pool.emplace(state.mapper, memory::DmaPool::Config{.huge_pages = options.huge_pages});
  return arm_events();
}

/// Finds the registers that this handle itself looks after.
Status Handle::find_registers() {
  State& state = *state_;
  OUTBOARD_TRY(const auto power, find_capability(pci::capability_id::power_management));
  if (power) state.power_control = raw(power->offset + pci::PowerManagementControl::in_capability);
  OUTBOARD_TRY(const auto msix, find_capability(pci::capability_id::msix));
  if (!msix) return {};
  OUTBOARD_TRY(const auto control, config().read_at<pci::MsixControl>(msix->offset + pci::MsixControl::in_capability));
  OUTBOARD_TRY(const auto table, config().read_at<pci::MsixTable>(msix->offset + pci::MsixTable::in_capability));
  const unsigned bar = table.get(pci::MsixTable::bar);
  if (bar > pci::region::bar5) return {};  // a device that lies: the kernel knows where the table is
  state.msix_table =
      State::MsixTable{.bar = bar,
                       .offset = table.value() & pci::MsixTable::offset_mask,
                       .size = (control.get(pci::MsixControl::table_size) + UINT64_C(1)) * pci::msix_entry::size};
  RegionFacts& region = state.regions[bar];
  if (!region.msix_mappable)
    region.areas = pci::areas_without(region.areas, state.msix_table->offset, state.msix_table->size);
  return {};
}

/// Without the unplug request armed, whoever wants the device back would wait until we end.
Status Handle::arm_events() {
  State& state = *state_;
  for (const auto& [kind, event] : {std::pair{pci::InterruptKind::error, pci::Event::error},
                                    std::pair{pci::InterruptKind::request, pci::Event::unplug_requested}}) {
    if (state.interrupts.info(kind).count == 0) continue;
    OUTBOARD_TRY(const EventFd* eventfd, state.events.add(event));
    OUTBOARD_CHECK(state.interrupts.arm(kind, *eventfd));
  }
  OUTBOARD_TRY(const EventFd* eventfd, state.events.add(pci::Event::gone));
  OUTBOARD_TRY(state.lost, eventfd->duplicate());
  return {};
}

// What it is.

std::string Handle::name() const { return state_->name; }
std::optional<int> Handle::numa_node() const { return state_->facts.numa_node; }
Interface Handle::interface() const { return state_->interface; }
const std::string& Handle::node() const { return state_->node; }
bool Handle::gone() const { return state_->gone; }
bool Handle::resettable() const { return state_->resettable; }

Result<pci::RegionInfo> Handle::region(unsigned index) {
  OUTBOARD_CHECK(state_->check(index, 0, 0));
  const RegionFacts& facts = state_->regions[index];
  return pci::RegionInfo{.size = facts.size,
                         .readable = facts.readable,
                         .writable = facts.writable,
                         .areas = facts.areas,
                         .fd = facts.areas.empty() ? nullptr : &state_->device.fd,
                         .fd_offset = facts.offset};
}

Result<pci::InterruptInfo> Handle::interrupts(pci::InterruptKind kind) {
  OUTBOARD_CHECK(state_->usable());
  if (static_cast<unsigned>(kind) >= pci::interrupt_kind_count) {
    return state_->named(Error(EINVAL, "there is no such kind of interrupt"));
  }
  return state_->interrupts.info(kind);
}

// Registers.

Status Handle::read_region(unsigned region, std::uint64_t offset, MutableBytes into) {
  OUTBOARD_CHECK(state_->check(region, offset, into.size()));
  return state_->read(region, offset, into);
}

Status Handle::write_region(unsigned region, std::uint64_t offset, Bytes from) {
  OUTBOARD_CHECK(state_->check(region, offset, from.size()));
  if (region != pci::region::config) return state_->write(region, offset, from);
  if (state_->frees_quarantined(offset, from)) {
    return Error(EIO, "the function stays without DMA: it may still reach memory that was taken back")
        .on(name())
        .cure("close it and open it again");
  }
  // The registers go away: whoever looks at them through a window finds ones, not a bus error.
  if (state_->hides_registers(offset, from)) state_->windows.cover();
  OUTBOARD_CHECK(state_->write(region, offset, from));
  if (!state_->windows.covered() || state_->asleep || !state_->decodes()) return {};
  return state_->windows.uncover();
}

Result<pci::Window> Handle::map_window(unsigned region, std::uint64_t offset, std::uint64_t length) {
  OUTBOARD_CHECK(state_->check(region, offset, length));
  const RegionFacts& facts = state_->regions[region];
  const auto& table = state_->msix_table;
  if (table && table->bar == region && overlap(offset, length, table->offset, table->size)) {
    return state_->named(Error(ENOTSUP, "the MSI-X table is the kernel's"));
  }
  for (const pci::MmapArea& area : facts.areas) {
    if (length == 0 || offset < area.offset || !range_within(offset - area.offset, length, area.size)) continue;
    auto window = state_->windows.window(region, facts.offset, area, facts.writable, offset, length);
    if (window) return window;
    state_->log.warning("{}: {}; it is accessed by calls", state_->name, window.error().message());
    return Error(ENOTSUP, window.error().what()).on(state_->name);
  }
  return state_->named(Error(ENOTSUP, fmt::format("this part of region {} cannot be mapped", region)));
}

Status Handle::ring_by_eventfd(unsigned region, std::uint64_t offset, unsigned width, std::uint64_t value,
                               const EventFd& eventfd) {
  OUTBOARD_CHECK(state_->check(region, offset, width));
  abi::DeviceIoEventFd call{.argsz = sizeof(abi::DeviceIoEventFd),
                            .flags = width,
                            .offset = state_->regions[region].offset + offset,
                            .data = value,
                            .fd = eventfd.get(),
                            .reserved = 0};
  const int done = state_->kernel.call(state_->device, abi::DeviceRequest::ioeventfd, &call);
  if (done >= 0) return {};
  return state_->named(Error(-done, "making an eventfd ring a doorbell: " + Error(-done).what()));
}

// Memory.

memory::DmaSpace& Handle::dma() { return *state_->pool; }
memory::DmaMapper& Handle::dma_mapper() { return state_->mapper; }

// Reset and sleep.

Status Handle::reset() {
  OUTBOARD_CHECK(state_->usable());
  if (!state_->resettable) {
    return Error(ENOTSUP, "the function has no method of being reset")
        .on(name())
        .cure("reset it by a register of its own, if it has one");
  }
  return keep_config_across([this] { return state_->reset_device(); });
}

Status Handle::enter_low_power() {
  namespace id = abi::device_feature;
  namespace flag = abi::device_feature_flag;
  OUTBOARD_CHECK(state_->usable());
  if (state_->asleep) return state_->named(Error(EALREADY, "the function is in low power already"));
  if (!state_->feature(id::low_power_entry, flag::probe | flag::set)) return pci::Handle::enter_low_power();
  state_->windows.cover();
  if (auto entered = state_->feature(id::low_power_entry, flag::set); !entered) {
    [[maybe_unused]] const Status back = state_->decodes() ? state_->windows.uncover() : Status();
    return entered;
  }
  state_->asleep = true;
  raise(pci::Event::low_power_entry);
  return {};
}

Status Handle::exit_low_power() {
  OUTBOARD_CHECK(state_->usable());
  if (!state_->asleep) return pci::Handle::exit_low_power();
  OUTBOARD_CHECK(state_->feature(abi::device_feature::low_power_exit, abi::device_feature_flag::set));
  state_->asleep = false;
  // Where it does not decode memory, a look through a window would be a bus error: enable_memory() gives them back.
  if (state_->decodes()) OUTBOARD_CHECK(state_->windows.uncover());
  raise(pci::Event::low_power_exit);
  return {};
}

pci::Migration* Handle::migration() { return state_->migration ? &*state_->migration : nullptr; }

// Events.

Status Handle::attach(Loop& loop) {
  OUTBOARD_CHECK(state_->usable());
  OUTBOARD_TRY(state_->watch, loop.watch(state_->events.fd(), Ready::readable,
                                         [this](Ready) { [[maybe_unused]] const Status done = process(); }));
  return {};
}

void Handle::detach() { state_->watch.reset(); }

int Handle::fd() const { return state_->events.fd(); }

Status Handle::process() {
  for (const pci::Event event : state_->events.take()) {
    if (state_->gone) return {};
    const bool again = event == pci::Event::unplug_requested && std::exchange(state_->asked_to_go, true);
    if (event == pci::Event::gone || again) {
      if (again) state_->log.warning("{}: asked for a second time to let the device go", state_->name);
      revoke();
      return {};
    }
    if (!raise(event)) return {};
  }
  return {};
}

void Handle::revoke() {
  if (state_->gone) return;
  state_->close();
  raise(pci::Event::gone);
}

// Interrupts.

namespace {

Status with_name(Status status, const std::string& name) {
  if (status) return status;
  return Error(status.error()).on(name);
}

}  // namespace

Status Handle::bind_interrupts(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  OUTBOARD_CHECK(state_->usable());
  return with_name(state_->interrupts.bind(kind, start, eventfds), state_->name);
}

Status Handle::bind_unmask(const EventFd& eventfd) {
  OUTBOARD_CHECK(state_->usable());
  return with_name(state_->interrupts.bind_unmask(eventfd), state_->name);
}

Status Handle::disable_interrupts(pci::InterruptKind kind) {
  OUTBOARD_CHECK(state_->usable());
  return with_name(state_->interrupts.disable(kind), state_->name);
}

Status Handle::mask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  OUTBOARD_CHECK(state_->usable());
  return with_name(state_->interrupts.mask(kind, start, count), state_->name);
}

Status Handle::unmask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  OUTBOARD_CHECK(state_->usable());
  return with_name(state_->interrupts.unmask(kind, start, count), state_->name);
}

Status Handle::trigger_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  OUTBOARD_CHECK(state_->usable());
  return with_name(state_->interrupts.trigger(kind, start, count), state_->name);
}

}  // namespace outboard::vfio
