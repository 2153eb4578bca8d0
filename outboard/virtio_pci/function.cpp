#include <outboard/virtio_pci/function.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include <outboard/base/internal/run_on.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/virtio/device_ids.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::virtio_pci {

namespace {

constexpr std::uint32_t page = 0x1000;
constexpr unsigned default_vector_cap = 128;
constexpr std::uint16_t subsystem_base = 0x40;

/// PCI Code and ID Assignment; the specification leaves the class open, drivers do not look at it.
std::uint32_t class_code(std::uint32_t device_id) {
  namespace id = virtio::device_id;
  switch (device_id) {
    case id::net:
      return 0x020000;  // Ethernet controller
    case id::blk:
      return 0x018000;  // other mass storage controller
    case id::console:
      return 0x078000;  // other communication controller
    case id::scsi:
      return 0x010000;  // SCSI storage controller
    case id::gpu:
      return 0x038000;  // other display controller
    case id::input:
      return 0x098000;  // other input controller
    default:
      return 0x00ff00;  // before class codes were defined, other than VGA
  }
}

pci::FunctionIdentity pci_identity(std::uint32_t device_id, const Function::Options& options) {
  return {.vendor = spec::vendor_id,
          .device = static_cast<std::uint16_t>(spec::first_modern_device + device_id),
          .subsystem_vendor = options.subsystem_vendor,
          .subsystem = options.subsystem.value_or(static_cast<std::uint16_t>(subsystem_base + device_id)),
          .class_code = class_code(device_id),
          // VIRTIO 1.4, 4.1.2.1: "Non-transitional devices SHOULD have a PCI Revision ID of 1 or higher."
          .revision = 1};
}

Status check(const virtio::Identity& identity, const Function::Options& options) {
  constexpr unsigned highest = spec::last_modern_device - spec::first_modern_device;
  if (identity.device_id == 0 || identity.device_id > highest)
    return Error(EINVAL, fmt::format("virtio device ID {} cannot be expressed on PCI, 1 to {} can", identity.device_id,
                                     highest));
  if (identity.config_size > page)
    return Error(EINVAL, fmt::format("{} bytes of device configuration; {} is what there is room for",
                                     identity.config_size, page));
  // VIRTIO 1.4, 4.1.5.1.2.1: "A device that has an MSI-X capability SHOULD support at least 2 and at most 0x800 MSI-X
  // vectors."
  if (options.vectors != 0 && (options.vectors < 2 || options.vectors > spec::max_vectors))
    return Error(EINVAL, fmt::format("{} MSI-X vectors; a device has 2 to {}", options.vectors, spec::max_vectors));
  if (options.shared_doorbells && !options.core.poll)
    return Error(EINVAL, "doorbells in shared memory do not wake the device: it has to poll");
  if (options.subsystem && *options.subsystem < subsystem_base)
    return Error(EINVAL, fmt::format("subsystem ID {:#x}; a modern device has 0x40 or more", *options.subsystem));
  return {};
}

}  // namespace

/// The eventfd behind one queue's doorbell, watched on that queue's loop.
struct Function::Doorbell {
  EventFd event;
  Registration watch;
};

Result<std::unique_ptr<Function>> Function::create(std::unique_ptr<virtio::Device> device, Loop& loop, Log log,
                                                   Options options) {
  const virtio::Identity identity = device->identity();
  OUTBOARD_CHECK(check(identity, options));
  std::unique_ptr<Function> function(
      new Function(std::move(device), identity, loop, std::move(log), std::move(options)));
  OUTBOARD_CHECK(function->build());
  return function;
}

pci::FunctionFactory Function::factory(DeviceFactory make_device, Options options) {
  return [make_device = std::move(make_device), options = std::move(options)](
             Loop& loop, Log log) mutable -> Result<std::unique_ptr<pci::Function>> {
    OUTBOARD_TRY(auto device, make_device(loop, log));
    OUTBOARD_TRY(auto function, create(std::move(device), loop, std::move(log), options));
    return function;
  };
}

Function::Function(std::unique_ptr<virtio::Device> device, const virtio::Identity& identity, Loop& loop, Log log,
                   Options options)
    : EmulatedFunction(loop, std::move(log), pci_identity(identity.device_id, options)),
      device_(std::move(device)),
      identity_(identity),
      options_(std::move(options)),
      self_(std::make_shared<Function*>(this)) {}

Function::~Function() {
  self_.reset();
  for (unsigned queue = 0; queue < doorbells_.size(); ++queue)
    run_on(queue_loop(queue), [&doorbell = *doorbells_[queue]] { doorbell.watch.reset(); });
  core_.reset();
}

unsigned Function::vector_count() const {
  return options_.vectors != 0 ? options_.vectors : std::clamp(queue_count() + 1, 2U, default_vector_cap);
}

Loop& Function::queue_loop(unsigned queue) { return options_.core.loop_of(queue, loop()); }

Status Function::build() {
  OUTBOARD_CHECK(build_bars(vector_count()));
  OUTBOARD_CHECK(add_intx());
  OUTBOARD_CHECK(build_capabilities());
  options_.core.log = log();
  OUTBOARD_TRY(core_, virtio::DeviceCore::create(*device_, memory(), loop(), *this, options_.core));
  common_.emplace(*core_, vector_count());
  core_->set_paused(!bus_master());
  return options_.shared_doorbells ? Status{} : watch_doorbells();
}

Status Function::build_bars(unsigned vectors) {
  const std::uint32_t notify_size = (notify_area().length + page - 1) / page * page;
  BarSpec registers{.size = std::bit_ceil(std::uint64_t{notify_at} + notify_size), .is_64bit = true};
  if (options_.shared_doorbells) registers.areas.push_back({.offset = notify_at, .size = notify_size});
  OUTBOARD_CHECK(add_bar(registers_bar, registers));

  // Table and pending bits side by side, the latter where the former of any smaller device would end, too.
  const std::uint32_t table_size = std::max(0x800U, std::bit_ceil(vectors * pci::msix_entry::size));
  OUTBOARD_CHECK(add_bar(msix_bar, {.size = std::max(page, 2 * table_size)}));
  return add_msix(vectors, msix_bar, 0, table_size);
}

Status Function::build_capabilities() {
  OUTBOARD_CHECK(
      add_structure(spec::Structure::common, {common_at, sizeof(spec::CommonConfig)}, sizeof(spec::Capability)));
  OUTBOARD_CHECK(add_structure(spec::Structure::notify, notify_area(), spec::notify_capability_size));
  OUTBOARD_CHECK(add_structure(spec::Structure::isr, {isr_at, 1}, sizeof(spec::Capability)));
  // VIRTIO 1.4, 4.1.4.6: "The device MUST present at least one VIRTIO_PCI_CAP_DEVICE_CFG capability for any device type
  // which has a device-specific configuration."
  if (identity_.config_size != 0)
    OUTBOARD_CHECK(
        add_structure(spec::Structure::device, {device_at, identity_.config_size}, sizeof(spec::Capability)));
  return add_access_window();
}

Status Function::add_structure(spec::Structure type, Area area, std::uint8_t length) {
  using C = spec::Capability;
  std::vector<pci::ConfigSpace::Row> rows{
      {.offset = offsetof(C, cap_len), .width = 1, .value = length},
      {.offset = offsetof(C, cfg_type), .width = 1, .value = static_cast<std::uint8_t>(type)},
      {.offset = offsetof(C, bar), .width = 1, .value = registers_bar},
      {.offset = offsetof(C, offset), .width = 4, .value = area.offset},
      {.offset = offsetof(C, length), .width = 4, .value = area.length}};
  if (type == spec::Structure::notify)
    rows.push_back({.offset = spec::notify_off_multiplier, .width = 4, .value = notify_multiplier});
  OUTBOARD_CHECK(config().add_capability(pci::capability_id::vendor_specific, length, rows));
  return {};
}

Status Function::add_access_window() {
  using C = spec::Capability;
  const std::array<pci::ConfigSpace::Row, 6> rows{{
      {.offset = offsetof(C, cap_len), .width = 1, .value = spec::pci_cfg_capability_size},
      {.offset = offsetof(C, cfg_type), .width = 1, .value = static_cast<std::uint8_t>(spec::Structure::pci_cfg)},
      {.offset = offsetof(C, bar), .width = 1, .writable = 0xff},
      {.offset = offsetof(C, offset), .width = 4, .writable = 0xffffffff},
      {.offset = offsetof(C, length), .width = 4, .writable = 0xffffffff},
      {.offset = spec::pci_cfg_data, .width = 4, .writable = 0xffffffff},
  }};
  OUTBOARD_TRY(window_,
               config().add_capability(pci::capability_id::vendor_specific, spec::pci_cfg_capability_size, rows));
  config().on_read(window_ + spec::pci_cfg_data, 4, [this] { read_through_window(); });
  config().on_write(window_ + spec::pci_cfg_data, 4, [this](std::uint32_t, std::uint32_t) { write_through_window(); });
  return {};
}

Status Function::watch_doorbells() {
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    OUTBOARD_TRY(auto event, EventFd::create());
    doorbells_.push_back(std::make_unique<Doorbell>(std::move(event)));
  }
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    Status watched;
    run_on(queue_loop(queue), [&] { watched = watch_doorbell(queue, *doorbells_[queue]); });
    OUTBOARD_CHECK(watched);
  }
  return {};
}

/// On the queue's loop.
Status Function::watch_doorbell(unsigned queue, Doorbell& doorbell) {
  OUTBOARD_TRY(doorbell.watch,
               queue_loop(queue).watch_eventfd(doorbell.event, [this, queue] { core_->kick_now(queue); }));
  return {};
}

/// A client keeps what it was given, and may saturate it: the next one gets other eventfds.
void Function::renew_doorbells() {
  for (unsigned queue = 0; queue < doorbells_.size(); ++queue) {
    auto event = EventFd::create();
    if (!event) return log().warning("queue {} keeps its doorbell: {}", queue, event.error().message());
    auto old = std::exchange(doorbells_[queue], std::make_unique<Doorbell>(std::move(*event)));
    auto replace = [this, queue, &fresh = *doorbells_[queue], old = std::move(old)]() mutable {
      old.reset();
      if (const auto watched = watch_doorbell(queue, fresh); !watched) log().error("{}", watched.error().message());
    };
    Loop& loop = queue_loop(queue);
    if (loop.in_loop_thread()) {
      replace();
    } else {
      loop.post(std::move(replace));
    }
  }
}

void Function::release_client(Completion done) {
  renew_doorbells();
  EmulatedFunction::release_client([this, alive = alive(), done = std::move(done)](const Status& released) mutable {
    if (!released || alive.expired()) return done(released);
    core_->client_left(std::move(done));
  });
}

std::vector<pci::IoEventFd> Function::io_eventfds(unsigned region) {
  std::vector<pci::IoEventFd> all;
  if (region != registers_bar) return all;
  // VIRTIO 1.4, 4.1.4.4: the address says which queue is meant, so a write of any width and value will do.
  for (unsigned queue = 0; queue < doorbells_.size(); ++queue)
    all.push_back({.offset = notify_at + std::uint64_t{queue} * notify_multiplier, .fd = &doorbells_[queue]->event});
  return all;
}

void Function::read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) {
  std::ranges::fill(into, std::byte{0});
  if (bar != registers_bar) return;
  const std::uint64_t end = offset + into.size();
  const auto part = [&](std::uint64_t start, std::uint64_t size, auto&& read) {
    const std::uint64_t first = std::max(offset, start), last = std::min(end, start + size);
    if (first < last) read(first - start, into.subspan(first - offset, last - first));
  };
  part(common_at, sizeof(spec::CommonConfig), [&](std::uint64_t at, MutableBytes to) { common_->read(at, to); });
  part(isr_at, 1, [&](std::uint64_t, MutableBytes to) { to[0] = take_isr(); });
  part(device_at, page,
       [&](std::uint64_t at, MutableBytes to) { core_->read_config(static_cast<std::uint32_t>(at), to); });
}

void Function::write_bar(unsigned bar, std::uint64_t offset, Bytes from) {
  if (bar != registers_bar || from.empty()) return;
  if (range_within(offset, from.size(), sizeof(spec::CommonConfig))) return common_->write(offset, from);
  if (offset >= notify_at) return write_notify(offset - notify_at, from);
  if (offset >= device_at && range_within(offset - device_at, from.size(), page))
    core_->write_config(static_cast<std::uint32_t>(offset - device_at), from);
}

void Function::area_written(unsigned bar, std::uint64_t offset, Bytes from) {
  // A client that has not mapped the doorbells.
  if (bar == registers_bar && offset >= notify_at) write_notify(offset - notify_at, from);
}

void Function::write_notify(std::uint64_t offset, Bytes from) {
  // What is written is a hint that is not needed: the address selects the queue (multiplier != 0).
  if (offset % notify_multiplier != 0 || (from.size() != 2 && from.size() != 4)) return;
  const std::uint64_t queue = offset / notify_multiplier;
  if (queue < queue_count()) core_->kick(static_cast<unsigned>(queue));
}

bool Function::window_range(std::uint32_t& offset, std::uint32_t& length) {
  using C = spec::Capability;
  const pci::ConfigSpace& space = config();
  offset = space.get(window_ + offsetof(C, offset), 4);
  length = space.get(window_ + offsetof(C, length), 4);
  // VIRTIO 1.4, 4.1.4.9.2: "The driver MUST NOT write a cap.offset which is not a multiple of cap.length"; cap.length is
  // 1, 2 or 4, and what is reached is one of the structures.
  if (length != 1 && length != 2 && length != 4) return false;
  if (offset % length != 0 || space.get(window_ + offsetof(C, bar), 1) != registers_bar) return false;
  const auto inside = [&](Area area) {
    return offset >= area.offset && range_within(offset - area.offset, length, area.length);
  };
  return inside({common_at, sizeof(spec::CommonConfig)}) || inside({isr_at, 1}) ||
         inside({device_at, identity_.config_size}) || inside(notify_area());
}

void Function::read_through_window() {
  std::uint32_t offset = 0, length = 0;
  // VIRTIO 1.4, 4.1.4.9.1: "Upon detecting driver read access to pci_cfg_data, the device MUST execute a read access of
  // length cap.length at offset cap.offset at BAR selected by cap.bar and store the first cap.length bytes in
  // pci_cfg_data."
  if (!window_range(offset, length)) return config().set(window_ + spec::pci_cfg_data, 4, 0);
  le32 data = config().get(window_ + spec::pci_cfg_data, 4);
  read_bar(registers_bar, offset, as_writable_bytes_of(data).first(length));
  config().set(window_ + spec::pci_cfg_data, 4, data);
}

void Function::write_through_window() {
  std::uint32_t offset = 0, length = 0;
  // 4.1.4.9.1: "Upon detecting driver write access to pci_cfg_data, the device MUST execute a write access at offset
  // cap.offset at BAR selected by cap.bar using the first cap.length bytes from pci_cfg_data."
  if (!window_range(offset, length)) return;
  const le32 data = config().get(window_ + spec::pci_cfg_data, 4);
  write_bar(registers_bar, offset, as_bytes_of(data).first(length));
}

/// A reset that is late has not ended: until it has, the function is in reset, and says so.
void Function::reset_device(Loop::Task done) {
  common_->reset();
  core_->reset([this, done = std::move(done)](const Status& status) mutable {
    if (status) return reset_ended(std::move(done));
    log().error("reset: {}; the function stays in reset until they have", status.error().message());
    core_->after_reset([this, done = std::move(done)]() mutable {
      log().warning("reset: the requests that were late have ended");
      reset_ended(std::move(done));
    });
  });
}

void Function::reset_ended(Loop::Task done) {
  take_isr();
  core_->set_paused(!bus_master());
  done();
}

void Function::bus_master_changed(bool on) {
  if (core_) core_->set_paused(!on);
}

// VIRTIO 1.4, 4.1.4.5.1: "The device MUST reset ISR status to 0 on driver read." That also takes the line down. V6.
std::byte Function::take_isr() {
  const std::uint8_t bits = isr_.exchange(0, std::memory_order_acq_rel);
  interrupts().set_intx(false);
  return std::byte{bits};
}

void Function::raise_isr(std::uint8_t bits) {
  isr_.fetch_or(bits, std::memory_order_acq_rel);  // V5
  if (loop().in_loop_thread()) return interrupts().set_intx(true);
  loop().post([weak = std::weak_ptr(self_)] {
    const auto self = weak.lock();
    if (self && (*self)->isr_.load(std::memory_order_acquire) != 0) (*self)->interrupts().set_intx(true);
  });
}

void Function::notify_queue(unsigned queue) {
  // VIRTIO 1.4, 4.1.4.5.1: "If MSI-X capability is disabled, the device MUST set the Queue Interrupt bit in ISR status
  // before sending a virtqueue notification to the driver."
  if (!interrupts().msix_enabled()) return raise_isr(spec::isr::queue);
  // 4.1.5.3.1: "If MSI-X capability is enabled and queue_msix_vector is NO_VECTOR for a virtqueue, the device MUST NOT
  // deliver an interrupt for that virtqueue."
  const std::uint16_t vector = common_->queue_vector(queue);
  if (vector != spec::no_vector) interrupts().signal_msix(vector);
}

void Function::notify_config() {
  // VIRTIO 1.4, 4.1.4.5.1: "The device MUST set the Device Configuration Interrupt bit in ISR status before sending a
  // device configuration change notification to the driver", with MSI-X as without.
  raise_isr(spec::isr::config);
  const std::uint16_t vector = common_->config_vector();
  if (interrupts().msix_enabled() && vector != spec::no_vector) interrupts().signal_msix(vector);
  tell_error();
}

/// The ERR interrupt, once, for a device that needs a reset.
void Function::tell_error() {
  const bool broken = (core_->status() & virtio::spec::status::needs_reset) != 0;
  if (!options_.error_interrupt || !broken || std::exchange(told_error_, true)) return;
  if (const auto told = interrupts().trigger(pci::InterruptKind::error, 0, 1); !told)
    log().error("{}", told.error().message());
}

/// A line that stays up with nobody left who would read the ISR status keeps all others that share it from being heard.
void Function::was_reset() {
  take_isr();
  told_error_ = false;
}

}  // namespace outboard::virtio_pci
