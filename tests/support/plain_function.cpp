#include <tests/support/plain_function.hpp>

#include <algorithm>
#include <cstring>

#include <outboard/base/endian.hpp>

namespace outboard::testing {

namespace {

/// Copies between the buffer and the memory behind a range, where all of it is mapped here.
Status copy_mapped(const memory::Snapshot& map, memory::IovaRange range, MutableBytes buffer, bool to_memory) {
  std::size_t copied = 0;
  const auto access = to_memory ? memory::Access::write : memory::Access::read;
  const auto found = map.translate(range, access, nullptr, [&](memory::Segment segment) {
    std::byte* const local = buffer.data() + copied;
    std::memcpy(to_memory ? segment.data : local, to_memory ? local : segment.data, segment.size);
    copied += segment.size;
  });
  switch (found) {
    case memory::Lookup::ok:
      return {};
    case memory::Lookup::denied:
      return Error(EPERM);
    case memory::Lookup::remote:
      return Error(EREMOTE);
    case memory::Lookup::hole:
      break;
  }
  return Error(EFAULT);
}

}  // namespace

PlainFunction::PlainFunction(Loop& loop, Log log, const Options& options)
    : EmulatedFunction(loop, std::move(log), options.identity), options_(options) {}

Result<std::unique_ptr<PlainFunction>> PlainFunction::create(Loop& loop, Log log, const Options& options) {
  std::unique_ptr<PlainFunction> function(new PlainFunction(loop, std::move(log), options));
  OUTBOARD_CHECK(function->set_up());
  return function;
}

pci::FunctionFactory PlainFunction::factory(const Options& options, PlainFunction** made) {
  return [options, made](Loop& loop, Log log) -> Result<std::unique_ptr<pci::Function>> {
    OUTBOARD_TRY(auto function, create(loop, std::move(log), options));
    if (made != nullptr) *made = function.get();
    return function;
  };
}

Status PlainFunction::set_up() {
  BarSpec bar{.size = bar_size, .areas = {}};
  if (options_.area) bar.areas.push_back({.offset = area_at, .size = area_size});
  OUTBOARD_CHECK(add_bar(0, bar));
  if (options_.intx) OUTBOARD_CHECK(add_intx());
  if (options_.msi_vectors != 0) OUTBOARD_CHECK(add_msi(options_.msi_vectors));
  if (options_.msix_vectors != 0) OUTBOARD_CHECK(add_msix(options_.msix_vectors, 0, msix_table_at, msix_pba_at));
  if (!options_.doorbell_fd) return {};
  OUTBOARD_TRY(doorbell_fd_, EventFd::create());
  OUTBOARD_TRY(doorbell_watch_, loop().watch(doorbell_fd_.get(), Ready::readable, [this](Ready) {
    if (doorbell_fd_.drain() != 0) ring_doorbell(0);
  }));
  return {};
}

std::vector<pci::IoEventFd> PlainFunction::io_eventfds(unsigned region) {
  if (region != 0 || !doorbell_fd_.valid()) return {};
  return {{.offset = doorbell_at, .size = 4, .fd = &doorbell_fd_, .datamatch = {}}};
}

void PlainFunction::read_bar(unsigned /*bar*/, std::uint64_t offset, MutableBytes into) {
  std::ranges::fill(into, std::byte{0});
  if (offset >= buffer_at && range_within(offset - buffer_at, into.size(), buffer_size)) {
    std::memcpy(into.data(), buffer_.data() + (offset - buffer_at), into.size());
  } else if (into.size() % 4 == 0 && offset % 4 == 0) {
    for (std::size_t i = 0; i < into.size(); i += 4) {
      const le32 value = read_register(offset + i);
      std::memcpy(into.data() + i, &value, sizeof value);
    }
  }
}

void PlainFunction::write_bar(unsigned /*bar*/, std::uint64_t offset, Bytes from) {
  if (offset >= buffer_at && range_within(offset - buffer_at, from.size(), buffer_size)) {
    std::memcpy(buffer_.data() + (offset - buffer_at), from.data(), from.size());
  } else if (from.size() % 4 == 0 && offset % 4 == 0) {
    for (std::size_t i = 0; i < from.size(); i += 4) {
      le32 value;
      std::memcpy(&value, from.data() + i, sizeof value);
      write_register(offset + i, value);
    }
  }
}

std::uint32_t PlainFunction::read_register(std::uint64_t offset) const {
  switch (offset) {
    case id_at:
      return id_value;
    case scratch_at:
      return scratch_;
    case doorbell_at:
      return doorbell_;
    case doorbell_count_at:
      return doorbell_count_;
    case intx_at:
      return const_cast<PlainFunction*>(this)->interrupts().intx_level() ? 1 : 0;
    case dma_address_at:
      return static_cast<std::uint32_t>(dma_address_);
    case dma_address_at + 4:
      return static_cast<std::uint32_t>(dma_address_ >> 32);
    case dma_length_at:
      return dma_length_;
    case dma_status_at:
      return dma_status_;
    default:
      return 0;
  }
}

void PlainFunction::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case scratch_at:
      scratch_ = value;
      break;
    case doorbell_at:
      ring_doorbell(value);
      break;
    case intx_at:
      interrupts().set_intx(value != 0);
      break;
    case signal_msix_at:
      interrupts().signal_msix(value);
      break;
    case signal_msi_at:
      interrupts().signal_msi(value);
      break;
    case dma_address_at:
      dma_address_ = (dma_address_ & ~UINT64_C(0xFFFFFFFF)) | value;
      break;
    case dma_address_at + 4:
      dma_address_ = (dma_address_ & 0xFFFFFFFF) | std::uint64_t{value} << 32;
      break;
    case dma_length_at:
      dma_length_ = std::min<std::uint32_t>(value, buffer_size);
      break;
    case dma_command_at:
      start_dma(value);
      break;
    default:
      break;
  }
}

void PlainFunction::ring_doorbell(std::uint32_t value) {
  doorbell_ = value;
  ++doorbell_count_;
}

void PlainFunction::start_dma(std::uint32_t command) {
  if (port_busy_ || (command != dma_from_memory && command != dma_to_memory)) return;
  if (!bus_master()) return dma_ended(Error(ENODEV));
  const memory::IovaRange range{memory::Iova{dma_address_}, dma_length_};
  const MutableBytes buffer = MutableBytes(buffer_).first(dma_length_);
  const auto map = memory().current();
  const Status copied = copy_mapped(*map, range, buffer, command == dma_to_memory);
  if (copied && command == dma_to_memory) map->writes().note(range);
  if (copied || copied.error().code() != EREMOTE) return dma_ended(copied);

  const memory::Mapping* mapping = map->find(range.start);
  if (mapping == nullptr || !mapping->port || !mapping->range.contains(range)) return dma_ended(Error(EFAULT));
  dma_status_ = dma_busy;
  port_busy_ = true;
  auto ended = [this](Status status) {
    port_busy_ = false;
    dma_ended(status);
    if (reset_done_ && !options_.slow_reset) finish_reset();
  };
  if (command == dma_from_memory) {
    mapping->port->read(range.start, buffer, ended);
  } else {
    mapping->port->write(range.start, buffer, ended);
  }
}

void PlainFunction::dma_ended(const Status& status) {
  dma_status_ = status ? dma_done : dma_failed + static_cast<std::uint32_t>(status.error().code());
}

void PlainFunction::reset_device(Loop::Task done) {
  ++resets_;
  reset_done_ = std::move(done);
  if (!options_.slow_reset && !port_busy_) finish_reset();
}

void PlainFunction::finish_reset() {
  scratch_ = doorbell_ = doorbell_count_ = area_writes_ = 0;
  dma_address_ = dma_length_ = 0;
  dma_status_ = dma_idle;
  buffer_ = {};
  if (options_.area) std::ranges::fill(area(0, 0), std::byte{0});
  if (reset_done_) std::exchange(reset_done_, nullptr)();
}

}  // namespace outboard::testing
