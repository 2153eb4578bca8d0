#include <outboard/virtio_pci/internal/common_config.hpp>

#include <algorithm>
#include <cstring>

namespace outboard::virtio_pci {

/// One row of the table in 4.1.4.3. A null `write`: read-only for the driver.
struct CommonConfig::Register {
  std::uint8_t offset;
  std::uint8_t width;
  std::uint64_t (*read)(CommonConfig&);
  void (*write)(CommonConfig&, std::uint64_t);

  std::uint64_t end() const { return std::uint64_t{offset} + width; }
};

#define OFFSET(field) static_cast<std::uint8_t>(offsetof(spec::CommonConfig, field))

const CommonConfig::Register CommonConfig::registers[] = {
    {OFFSET(device_feature_select), 4,  //
     [](CommonConfig& c) -> std::uint64_t { return c.device_feature_select_; },
     [](CommonConfig& c, std::uint64_t v) { c.device_feature_select_ = static_cast<std::uint32_t>(v); }},
    {OFFSET(device_feature), 4,  //
     [](CommonConfig& c) -> std::uint64_t { return c.core_.offered().word(c.device_feature_select_); }, nullptr},
    {OFFSET(driver_feature_select), 4,  //
     [](CommonConfig& c) -> std::uint64_t { return c.driver_feature_select_; },
     [](CommonConfig& c, std::uint64_t v) { c.driver_feature_select_ = static_cast<std::uint32_t>(v); }},
    {OFFSET(driver_feature), 4,  //
     [](CommonConfig& c) -> std::uint64_t { return c.core_.driver_features(c.driver_feature_select_); },
     [](CommonConfig& c, std::uint64_t v) {
       c.core_.write_driver_features(c.driver_feature_select_, static_cast<std::uint32_t>(v));
     }},
    {OFFSET(config_msix_vector), 2,  //
     [](CommonConfig& c) -> std::uint64_t { return c.config_vector(); },
     [](CommonConfig& c, std::uint64_t v) {
       c.config_vector_.store(c.checked_vector(static_cast<std::uint16_t>(v)), std::memory_order_relaxed);
     }},
    {OFFSET(num_queues), 2,  //
     [](CommonConfig& c) -> std::uint64_t { return c.core_.queue_count(); }, nullptr},
    {OFFSET(device_status), 1,  //
     [](CommonConfig& c) -> std::uint64_t { return c.core_.status(); },
     [](CommonConfig& c, std::uint64_t v) { c.write_status(static_cast<std::uint8_t>(v)); }},
    {OFFSET(config_generation), 1,  //
     [](CommonConfig& c) -> std::uint64_t { return c.core_.config_generation(); }, nullptr},
    {OFFSET(queue_select), 2,  //
     [](CommonConfig& c) -> std::uint64_t { return c.queue_select_; },
     [](CommonConfig& c, std::uint64_t v) { c.queue_select_ = static_cast<std::uint16_t>(v); }},
    // VIRTIO 1.4, 4.1.4.3.1: "The device MUST present a 0 in queue_size if the virtqueue corresponding to the current
    // queue_select is unavailable."  The core reads 0 for everything of a queue that is not there.
    {OFFSET(queue_size), 2,  //
     [](CommonConfig& c) -> std::uint64_t { return c.core_.queue_size(c.queue_select_); },
     [](CommonConfig& c, std::uint64_t v) { c.core_.set_queue_size(c.queue_select_, static_cast<std::uint16_t>(v)); }},
    {OFFSET(queue_msix_vector), 2,  //
     [](CommonConfig& c) -> std::uint64_t { return c.queue_vector(c.queue_select_); },
     [](CommonConfig& c, std::uint64_t v) {
       if (!c.selects_a_queue()) return;
       c.vectors_of_queues_[c.queue_select_].store(c.checked_vector(static_cast<std::uint16_t>(v)),
                                                   std::memory_order_relaxed);
     }},
    // 4.1.4.3.2: "The driver MUST NOT write a 0 to queue_enable."  0, and what is no boolean, is ignored.
    {OFFSET(queue_enable), 2,  //
     [](CommonConfig& c) -> std::uint64_t { return c.core_.queue_enabled(c.queue_select_) ? 1 : 0; },
     [](CommonConfig& c, std::uint64_t v) {
       if (v == 1) c.core_.enable_queue(c.queue_select_);
     }},
    {OFFSET(queue_notify_off), 2,  //
     [](CommonConfig& c) -> std::uint64_t { return c.selects_a_queue() ? c.queue_select_ : 0; }, nullptr},
    {OFFSET(queue_desc), 8,  //
     [](CommonConfig& c) -> std::uint64_t { return c.read_address(0); },
     [](CommonConfig& c, std::uint64_t v) { c.write_address(0, v); }},
    {OFFSET(queue_driver), 8,  //
     [](CommonConfig& c) -> std::uint64_t { return c.read_address(1); },
     [](CommonConfig& c, std::uint64_t v) { c.write_address(1, v); }},
    {OFFSET(queue_device), 8,  //
     [](CommonConfig& c) -> std::uint64_t { return c.read_address(2); },
     [](CommonConfig& c, std::uint64_t v) { c.write_address(2, v); }},
    // queue_notif_config_data (NOTIF_CONFIG_DATA is not offered) reads 0, as do the admin queue's registers.
    {OFFSET(queue_reset), 2,  //
     [](CommonConfig& c) -> std::uint64_t { return c.core_.queue_resetting(c.queue_select_) ? 1 : 0; },
     [](CommonConfig& c, std::uint64_t v) { c.write_queue_reset(static_cast<std::uint16_t>(v)); }},
};

#undef OFFSET

CommonConfig::CommonConfig(virtio::DeviceCore& core, unsigned vectors)
    : core_(core), vectors_(vectors), vectors_of_queues_(core.queue_count()) {
  reset();
}

void CommonConfig::read(std::uint64_t offset, MutableBytes into) {
  std::ranges::fill(into, std::byte{0});
  const std::uint64_t end = offset + into.size();
  for (const Register& field : registers) {
    if (field.end() <= offset || end <= field.offset) continue;
    const le64 value = field.read(*this);
    const Bytes bytes = as_bytes_of(value).first(field.width);
    const std::uint64_t first = std::max<std::uint64_t>(offset, field.offset);
    const std::uint64_t last = std::min(end, field.end());
    std::memcpy(into.data() + (first - offset), bytes.data() + (first - field.offset), last - first);
  }
}

void CommonConfig::write(std::uint64_t offset, Bytes from) {
  if (from.size() > sizeof(std::uint64_t)) return;
  const auto field =
      std::ranges::find_if(registers, [&](const Register& row) { return row.offset <= offset && offset < row.end(); });
  if (field == std::end(registers) || field->write == nullptr) return;
  le64 value = 0;
  copy_bytes(from, as_writable_bytes_of(value));
  write_register(*field, offset - field->offset, value, from.size());
}

void CommonConfig::write_register(const Register& field, std::uint64_t offset, std::uint64_t value, std::size_t width) {
  if (offset == 0 && width == field.width) return field.write(*this, value);
  // VIRTIO 1.4, 4.1.3.2: "For 64-bit device configuration fields, the device MUST allow driver independent access to high
  // and low 32-bit parts of the field."
  if (field.width != 8 || width != 4 || offset % 4 != 0) return;
  const std::uint64_t kept = field.read(*this) & ~(UINT64_C(0xffffffff) << (8 * offset));
  field.write(*this, kept | (value << (8 * offset)));
}

std::uint16_t CommonConfig::queue_vector(unsigned queue) const {
  return queue < vectors_of_queues_.size() ? vectors_of_queues_[queue].load(std::memory_order_relaxed)
                                           : spec::no_vector;
}

void CommonConfig::reset() {
  device_feature_select_ = driver_feature_select_ = 0;
  queue_select_ = 0;
  config_vector_.store(spec::no_vector, std::memory_order_relaxed);
  for (auto& vector : vectors_of_queues_) vector.store(spec::no_vector, std::memory_order_relaxed);
}

// VIRTIO 1.4, 4.1.5.1.2.1: "Devices MUST report mapping failures by returning the NO_VECTOR value when the relevant
// config_msix_vector/queue_msix_vector field is read."  An index that the table does not have is the one that fails.
std::uint16_t CommonConfig::checked_vector(std::uint16_t vector) const {
  return vector < vectors_ ? vector : spec::no_vector;
}

void CommonConfig::write_status(std::uint8_t value) {
  // 4.1.5.1.2.1: after a device reset all events are unmapped. What is still being drained is not announced any more.
  if (value == 0) reset();
  core_.write_status(value);
}

void CommonConfig::write_queue_reset(std::uint16_t value) {
  if (value != 1 || !core_.queue_enabled(queue_select_)) return;
  core_.reset_queue(queue_select_);
  const bool taken = core_.queue_resetting(queue_select_) || !core_.queue_enabled(queue_select_);
  if (taken && selects_a_queue()) vectors_of_queues_[queue_select_].store(spec::no_vector, std::memory_order_relaxed);
}

std::uint64_t CommonConfig::read_address(unsigned area) const {
  return memory::raw(core_.queue_address(queue_select_, area));
}

void CommonConfig::write_address(unsigned area, std::uint64_t value) {
  core_.set_queue_address(queue_select_, area, memory::Iova{value});
}

void CommonConfig::save(StateWriter& writer) const {
  const auto section = writer.section(state_tag("VPCI"), 1);
  writer.put(device_feature_select_);
  writer.put(driver_feature_select_);
  writer.put(queue_select_);
  writer.put(config_vector());
  writer.put(static_cast<std::uint16_t>(vectors_of_queues_.size()));
  for (const auto& vector : vectors_of_queues_) writer.put(vector.load(std::memory_order_relaxed));
}

Result<CommonConfig::Saved> CommonConfig::check_saved(StateReader& from) const {
  Saved saved;
  OUTBOARD_TRY(auto section, from.section(state_tag("VPCI"), 1));
  OUTBOARD_TRY(saved.device_feature_select, section.get<std::uint32_t>());
  OUTBOARD_TRY(saved.driver_feature_select, section.get<std::uint32_t>());
  OUTBOARD_TRY(saved.queue_select, section.get<std::uint16_t>());
  OUTBOARD_TRY(saved.config_vector, section.get<std::uint16_t>());
  OUTBOARD_TRY(const auto queues, section.get<std::uint16_t>());
  if (queues != vectors_of_queues_.size()) return Error(EINVAL, "the saved function has another number of queues");
  for (unsigned queue = 0; queue < queues; ++queue) {
    OUTBOARD_TRY(const auto vector, section.get<std::uint16_t>());
    saved.queue_vectors.push_back(vector);
  }
  OUTBOARD_CHECK(section.end());
  const auto exists = [this](std::uint16_t vector) { return checked_vector(vector) == vector; };
  if (!exists(saved.config_vector) || !std::ranges::all_of(saved.queue_vectors, exists))
    return Error(EINVAL, "the saved function uses an MSI-X vector that is not there");
  return saved;
}

void CommonConfig::restore(const Saved& saved) {
  device_feature_select_ = saved.device_feature_select;
  driver_feature_select_ = saved.driver_feature_select;
  queue_select_ = saved.queue_select;
  config_vector_.store(saved.config_vector, std::memory_order_relaxed);
  for (std::size_t queue = 0; queue < saved.queue_vectors.size(); ++queue)
    vectors_of_queues_[queue].store(saved.queue_vectors[queue], std::memory_order_relaxed);
}

}  // namespace outboard::virtio_pci
