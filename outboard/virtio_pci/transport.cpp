#include <outboard/virtio_pci/transport.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <thread>

#include <fmt/format.h>

#include <outboard/pci/registers.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::virtio_pci {

namespace {

using Common = spec::CommonConfig;

constexpr const char* any_function = "`outboard show` and `outboard lspci` take every PCI function";
constexpr unsigned max_config_reads = 100;
constexpr Duration shortest_wait = std::chrono::microseconds(50), longest_wait = std::chrono::milliseconds(10);

Result<std::uint32_t> virtio_device_id(pci::Handle& handle) {
  OUTBOARD_TRY(const auto vendor, handle.config().read<pci::VendorId>());
  OUTBOARD_TRY(const auto device, handle.config().read<pci::DeviceId>());
  const std::uint16_t id = device.value();
  if (vendor.value() != spec::vendor_id)
    return Error(ENODEV, fmt::format("not a virtio device: vendor {:04x}, device {:04x}", vendor.value(), id))
        .on(handle.name())
        .cure(any_function);
  if (id >= spec::first_transitional_device && id <= spec::last_transitional_device)
    return Error(ENOTSUP, fmt::format("a transitional virtio device ({:04x}); only modern ones are driven", id))
        .on(handle.name())
        .cure("make it modern (QEMU: disable-legacy=on)");
  if (id <= spec::first_modern_device || id > spec::last_modern_device)
    return Error(ENODEV, fmt::format("not a virtio device: device {:04x}", id)).on(handle.name()).cure(any_function);
  return static_cast<std::uint32_t>(id - spec::first_modern_device);
}

/// How much of [offset, offset + size) to access at once: a naturally aligned 1, 2 or 4 bytes.
std::size_t piece(std::uint32_t offset, std::size_t size) {
  if (offset % 4 == 0 && size >= 4) return 4;
  return offset % 2 == 0 && size >= 2 ? 2 : 1;
}

template <typename T>
Status read_piece(const Structure& from, std::uint32_t at, std::byte* into) {
  OUTBOARD_TRY(const T value, from.read<T>(at));
  const EndianInteger<T, std::endian::little> stored = value;
  std::memcpy(into, &stored, sizeof stored);
  return {};
}

template <typename T>
Status write_piece(const Structure& to, std::uint32_t at, const std::byte* from) {
  EndianInteger<T, std::endian::little> stored;
  std::memcpy(&stored, from, sizeof stored);
  return to.write<T>(at, stored);
}

}  // namespace

/// A doorbell that takes a call to ring.
struct Transport::CalledDoorbell {
  const Structure* notify;
  std::uint64_t offset;
  std::uint32_t width;

  static void ring(void* context, std::uint32_t value) {
    const auto& bell = *static_cast<CalledDoorbell*>(context);
    const le32 data = value;
    // It fails when the function is gone, and then every other call says so.
    [[maybe_unused]] const auto posted = bell.notify->post(bell.offset, as_bytes_of(data).first(bell.width));
  }
};

Result<std::unique_ptr<Transport>> Transport::open(pci::Handle& handle, Options options) {
  OUTBOARD_TRY(const std::uint32_t device_id, virtio_device_id(handle));
  OUTBOARD_CHECK(handle.enable_bus_master());
  OUTBOARD_TRY(const Structures structures, find_structures(handle));
  return std::unique_ptr<Transport>(new Transport(handle, device_id, structures, std::move(options)));
}

Transport::Transport(pci::Handle& handle, std::uint32_t device_id, const Structures& structures, Options options)
    : handle_(handle),
      device_id_(device_id),
      structures_(structures),
      options_(std::move(options)),
      clock_(options_.clock != nullptr ? *options_.clock : Clock::system()) {
  if (!options_.wait) options_.wait = [](Duration interval) { std::this_thread::sleep_for(interval); };
}

Transport::~Transport() = default;

// Status and features.

Error Transport::removed() {
  gone_ = true;
  return Error(ENODEV, "the device is gone: its registers read all-ones").on(name());
}

void Transport::on_gone(std::move_only_function<void()> told) { handle_.on_gone(std::move(told)); }

Result<virtio::Features> Transport::device_features() {
  // VIRTIO 1.4, 2.2.1; docs/spec-map.md, VR-9: one snapshot decides, whatever the device says later.
  if (offered_) return *offered_;
  virtio::Features offered;
  bool all_ones = true;
  for (std::uint32_t word = 0; word < virtio::Features::words; ++word) {
    OUTBOARD_CHECK(set_common<std::uint32_t>(offsetof(Common, device_feature_select), word));
    OUTBOARD_TRY(const auto bits, common<std::uint32_t>(offsetof(Common, device_feature)));
    offered.set_word(word, bits);
    all_ones = all_ones && bits == UINT32_MAX;
  }
  if (all_ones) return removed();
  return *(offered_ = offered);
}

Status Transport::write_driver_features(const virtio::Features& features) {
  for (std::uint32_t word = 0; word < virtio::Features::words; ++word) {
    // Words 2 and 3 are new in 1.4; a device that does not offer anything there need not know of them.
    if (word >= 2 && features.word(word) == 0 && (!offered_ || offered_->word(word) == 0)) continue;
    OUTBOARD_CHECK(set_common<std::uint32_t>(offsetof(Common, driver_feature_select), word));
    OUTBOARD_CHECK(set_common<std::uint32_t>(offsetof(Common, driver_feature), features.word(word)));
  }
  accepted_ = features;
  return {};
}

Result<std::uint8_t> Transport::status() {
  if (gone()) return removed();
  OUTBOARD_TRY(const auto status, common<std::uint8_t>(offsetof(Common, device_status)));
  if (status == UINT8_MAX) return removed();  // docs/spec-map.md, VR-22
  return status;
}

Status Transport::write_status(std::uint8_t status) {
  return set_common<std::uint8_t>(offsetof(Common, device_status), status);
}

Status Transport::reset() {
  OUTBOARD_CHECK(write_status(0));
  accepted_ = {};
  // VIRTIO 1.4, 4.1.4.3.2: "After writing 0 to device_status, the driver MUST wait for a read of device_status to return 0
  // before reinitializing the device."
  return wait_until(
      [this]() -> Result<bool> {
        OUTBOARD_TRY(const std::uint8_t now, status());
        return now == 0;
      },
      "a device reset");
}

Status Transport::wait_until(const std::function<Result<bool>()>& done, const char* what) {
  const TimePoint deadline = clock_.now() + options_.timeout;
  for (Duration interval = shortest_wait;; interval = std::min(2 * interval, longest_wait)) {
    OUTBOARD_TRY(const bool is_done, done());
    if (is_done) return {};
    if (clock_.now() >= deadline)
      return Error(ETIMEDOUT, fmt::format("{} has not ended in time", what))
          .on(name())
          .cure("its memory may still be written to: end the mapping before it is used for anything else");
    options_.wait(interval);
  }
}

// Device configuration space.

Status Transport::read_once(std::uint32_t offset, MutableBytes into) const {
  while (!into.empty()) {
    const std::size_t size = piece(offset, into.size());
    OUTBOARD_CHECK(size == 4   ? read_piece<std::uint32_t>(*structures_.device, offset, into.data())
                   : size == 2 ? read_piece<std::uint16_t>(*structures_.device, offset, into.data())
                               : read_piece<std::uint8_t>(*structures_.device, offset, into.data()));
    offset += static_cast<std::uint32_t>(size);
    into = into.subspan(size);
  }
  return {};
}

Status Transport::read_config(std::uint32_t offset, MutableBytes into) {
  if (!range_within(offset, into.size(), config_size()))
    return Error(EINVAL, fmt::format("the device configuration has {} bytes", config_size())).on(name());
  if (into.size() <= piece(offset, into.size())) return read_once(offset, into);
  // VIRTIO 1.4, 2.5.1: "Drivers MUST NOT assume reads from fields greater than 32 bits wide are atomic, nor are reads from
  // multiple fields", hence the generation.
  for (unsigned attempt = 0; attempt < max_config_reads; ++attempt) {
    OUTBOARD_TRY(const auto before, common<std::uint8_t>(offsetof(Common, config_generation)));
    OUTBOARD_CHECK(read_once(offset, into));
    OUTBOARD_TRY(const auto after, common<std::uint8_t>(offsetof(Common, config_generation)));
    if (before == after) return {};
  }
  return Error(EAGAIN, fmt::format("the configuration changed during each of {} reads", max_config_reads)).on(name());
}

Status Transport::write_config(std::uint32_t offset, Bytes from) {
  if (!range_within(offset, from.size(), config_size()))
    return Error(EINVAL, fmt::format("the device configuration has {} bytes", config_size())).on(name());
  while (!from.empty()) {
    const std::size_t size = piece(offset, from.size());
    OUTBOARD_CHECK(size == 4   ? write_piece<std::uint32_t>(*structures_.device, offset, from.data())
                   : size == 2 ? write_piece<std::uint16_t>(*structures_.device, offset, from.data())
                               : write_piece<std::uint8_t>(*structures_.device, offset, from.data()));
    offset += static_cast<std::uint32_t>(size);
    from = from.subspan(size);
  }
  return {};
}

// Queues.

Result<std::uint16_t> Transport::queue_count() { return common<std::uint16_t>(offsetof(Common, num_queues)); }

Status Transport::select(unsigned queue) {
  if (queue > UINT16_MAX) return Error(EINVAL, "a queue index has 16 bits").on(name());
  return set_common(offsetof(Common, queue_select), static_cast<std::uint16_t>(queue));
}

Result<std::uint16_t> Transport::queue_max_size(unsigned queue) {
  OUTBOARD_CHECK(select(queue));
  return common<std::uint16_t>(offsetof(Common, queue_size));
}

Status Transport::set_queue_size(unsigned queue, std::uint16_t size) {
  OUTBOARD_CHECK(set_common(offsetof(Common, queue_size), size));
  OUTBOARD_TRY(const auto now, common<std::uint16_t>(offsetof(Common, queue_size)));
  if (now != size)  // docs/spec-map.md, VR-15
    return Error(EPROTO, fmt::format("queue {} was given size {} and says {}", queue, size, now)).on(name());
  return {};
}

Status Transport::set_queue_vector(unsigned queue, std::optional<unsigned> vector) {
  if (!uses_msix()) return {};
  if (vector && *vector >= interrupts_.count())
    return Error(EINVAL, fmt::format("interrupt vector {} is not enabled", *vector)).on(name());
  const auto wanted = vector ? static_cast<std::uint16_t>(*vector) : spec::no_vector;
  OUTBOARD_CHECK(set_common(offsetof(Common, queue_msix_vector), wanted));
  // VIRTIO 1.4, 4.1.5.1.2.2: "After mapping an event to vector, the driver MUST verify success by reading the Vector field
  // value".
  OUTBOARD_TRY(const auto now, common<std::uint16_t>(offsetof(Common, queue_msix_vector)));
  if (now != wanted) return Error(ENOSPC, fmt::format("no interrupt vector {} for queue {}", wanted, queue)).on(name());
  return {};
}

Status Transport::set_address(std::size_t field, memory::Iova address) const {
  // VIRTIO 1.4, 4.1.3.1: 64-bit fields are accessed as two 32-bit halves.
  OUTBOARD_CHECK(set_common(field, static_cast<std::uint32_t>(memory::raw(address))));
  return set_common(field + 4, static_cast<std::uint32_t>(memory::raw(address) >> 32));
}

Result<virtio::Doorbell> Transport::setup_queue(unsigned queue, const virtio::QueueSetup& setup) {
  OUTBOARD_CHECK(select(queue));
  OUTBOARD_TRY(const auto enabled, common<std::uint16_t>(offsetof(Common, queue_enable)));
  if (enabled != 0) return Error(EBUSY, fmt::format("queue {} is enabled already", queue)).on(name());
  OUTBOARD_TRY(const auto notify_off, common<std::uint16_t>(offsetof(Common, queue_notify_off)));
  OUTBOARD_TRY(const auto doorbell, find_doorbell(queue, notify_off));
  OUTBOARD_CHECK(set_queue_size(queue, setup.size));
  OUTBOARD_CHECK(set_queue_vector(queue, setup.vector));
  OUTBOARD_CHECK(set_address(offsetof(Common, queue_desc), setup.descriptors));
  OUTBOARD_CHECK(set_address(offsetof(Common, queue_driver), setup.driver));
  OUTBOARD_CHECK(set_address(offsetof(Common, queue_device), setup.device));
  OUTBOARD_CHECK(set_common<std::uint16_t>(offsetof(Common, queue_enable), 1));
  OUTBOARD_TRY(const auto taken, common<std::uint16_t>(offsetof(Common, queue_enable)));
  if (taken != 1) return Error(EPROTO, fmt::format("the device does not enable queue {}", queue)).on(name());
  return doorbell;
}

Result<virtio::Doorbell> Transport::find_doorbell(unsigned queue, std::uint16_t notify_off) {
  const bool data = accepted_.has(virtio::Feature::notification_data);
  const std::uint32_t width = data ? 4 : 2;
  const Structure& notify = structures_.notify;
  const std::uint64_t at = std::uint64_t{notify_off} * structures_.notify_off_multiplier;
  // docs/spec-map.md, VR-14; VIRTIO 1.4, 4.1.4.4.1 (NOTIFICATION_DATA): offset and multiplier are multiples of 4 then.
  if (!range_within(at, width, notify.length()) || (notify.offset() + at) % width != 0)
    return Error(EPROTO, fmt::format("the doorbell of queue {} lies outside the notification structure", queue))
        .on(name());

  if (const pci::Window window = notify.window(at, width)) {
    return data ? virtio::Doorbell::memory32(reinterpret_cast<volatile std::uint32_t*>(window.data()))
                : virtio::Doorbell::memory(reinterpret_cast<volatile std::uint16_t*>(window.data()));
  }
  OUTBOARD_TRY(const auto by_eventfd, doorbell_by_eventfd(queue, notify.offset() + at, width));
  if (by_eventfd.kind() != virtio::Doorbell::Kind::none) return by_eventfd;

  if (doorbells_.size() <= queue) doorbells_.resize(queue + 1);
  doorbells_[queue] = std::make_unique<CalledDoorbell>(&notify, at, width);
  return virtio::Doorbell::call(&CalledDoorbell::ring, doorbells_[queue].get());
}

Result<virtio::Doorbell> Transport::doorbell_by_eventfd(unsigned queue, std::uint64_t offset, std::uint32_t width) {
  OUTBOARD_TRY(const auto eventfds, handle_.io_eventfds(structures_.notify.bar()));
  const auto match = std::ranges::find_if(eventfds, [&](const pci::IoEventFd& each) {
    const bool any_width = each.size == 0 || each.size == width;
    return each.offset == offset && any_width && (!each.datamatch || (width == 2 && *each.datamatch == queue));
  });
  return match != eventfds.end() ? virtio::Doorbell::eventfd(*match->fd) : virtio::Doorbell();
}

Status Transport::reset_queue(unsigned queue) {
  // VIRTIO 1.4, 4.1.4.3: "This field exists only if VIRTIO_F_RING_RESET has been negotiated."
  if (!accepted_.has(virtio::Feature::ring_reset))
    return Error(ENOTSUP, "a queue cannot be reset without VIRTIO_F_RING_RESET").on(name());
  if (structures_.common.length() < offsetof(Common, queue_reset) + sizeof(Common::queue_reset))
    return Error(EPROTO, "the device offers VIRTIO_F_RING_RESET and has no queue_reset").on(name());
  OUTBOARD_CHECK(select(queue));
  OUTBOARD_CHECK(set_common<std::uint16_t>(offsetof(Common, queue_reset), 1));
  // VIRTIO 1.4, 2.6.1.1.2: "After writing 1 to queue_reset, the driver MUST NOT consider queue reset to be complete until
  // it reads back 0 in queue_reset."
  return wait_until(
      [this, queue]() -> Result<bool> {
        OUTBOARD_CHECK(select(queue));
        OUTBOARD_TRY(const auto resetting, common<std::uint16_t>(offsetof(Common, queue_reset)));
        if (resetting == UINT16_MAX) return removed();
        OUTBOARD_TRY(const auto enabled, common<std::uint16_t>(offsetof(Common, queue_enable)));
        return resetting == 0 && enabled == 0;
      },
      "a queue reset");
}

// Interrupts.

Result<unsigned> Transport::enable_vectors(unsigned wanted) {
  if (interrupts_.count() != 0) return Error(EBUSY, "interrupts are enabled already").on(name());
  if (wanted == 0) return 0U;
  OUTBOARD_TRY(const unsigned available, handle_.msix_vector_count());
  if (available != 0) {
    OUTBOARD_TRY(interrupts_, handle_.enable_interrupts(pci::InterruptKind::msix, std::min(wanted, available)));
    return interrupts_.count();
  }
  OUTBOARD_TRY(const auto intx, handle_.interrupts(pci::InterruptKind::intx));
  if (intx.count == 0) return 0U;
  OUTBOARD_TRY(interrupts_, handle_.enable_interrupts(pci::InterruptKind::intx, 1));
  return 1U;
}

const EventFd& Transport::vector(unsigned index) const { return interrupts_.vector(index); }

Status Transport::set_config_vector(std::optional<unsigned> vector) {
  if (!uses_msix()) return {};
  if (vector && *vector >= interrupts_.count())
    return Error(EINVAL, fmt::format("interrupt vector {} is not enabled", *vector)).on(name());
  const auto wanted = vector ? static_cast<std::uint16_t>(*vector) : spec::no_vector;
  OUTBOARD_CHECK(set_common(offsetof(Common, config_msix_vector), wanted));
  OUTBOARD_TRY(const auto now, common<std::uint16_t>(offsetof(Common, config_msix_vector)));
  if (now != wanted)
    return Error(ENOSPC, fmt::format("no interrupt vector {} for configuration changes", wanted)).on(name());
  return {};
}

Result<std::uint8_t> Transport::acknowledge_interrupt() {
  if (uses_msix()) return static_cast<std::uint8_t>(spec::isr::queue | spec::isr::config);
  OUTBOARD_TRY(const auto isr, structures_.isr.read<std::uint8_t>(0));
  if (isr == UINT8_MAX) return removed();
  OUTBOARD_CHECK(interrupts_.unmask());
  return isr;
}

}  // namespace outboard::virtio_pci
