#include <outboard/vfio/internal/handle_state.hpp>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include <outboard/pci/internal/silence.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/vfio/internal/while_busy.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;

/// A register of 1, 2, 4 or 8 bytes is one access.
bool is_register(std::uint64_t offset, std::size_t size) {
  return (size == 1 || size == 2 || size == 4 || size == 8) && offset % size == 0;
}

/// Anything else goes in pieces of at most 4 bytes, which every device knows. (Of 8 some make all-ones.)
std::size_t piece(std::uint64_t offset, std::size_t size) {
  if (offset % 4 == 0 && size >= 4) return 4;
  return offset % 2 == 0 && size >= 2 ? 2 : 1;
}

/// Whether a read of configuration space holds one of the registers that say whether anybody answers, and it is all-ones.
/// The vendor is the kernel's own as a rule, revision and class are the hardware's.
bool finds_nobody(Bytes bytes, std::uint64_t offset) {
  const auto ones_at = [&](std::uint64_t at, std::size_t size) {
    return at >= offset && range_within(at - offset, size, bytes.size()) &&
           std::ranges::all_of(bytes.subspan(at - offset, size),
                               [](std::byte byte) { return byte == std::byte{0xff}; });
  };
  return ones_at(raw(pci::VendorId::offset), 2) || ones_at(raw(pci::ClassAndRevision::offset), 4);
}

/// The byte that a write puts at `at`.
std::optional<unsigned> written_at(std::uint64_t at, std::uint64_t offset, Bytes from) {
  if (at < offset || at - offset >= from.size()) return std::nullopt;
  return std::to_integer<unsigned>(from[at - offset]);
}

}  // namespace

Handle::State::State(Kernel& the_kernel, OpenedDevice opened, FunctionFacts the_facts, const Options& options)
    : kernel(the_kernel),
      facts(std::move(the_facts)),
      name("vfio:" + facts.address.text()),
      log(options.log),
      device(std::move(opened.device)),
      interface(opened.interface),
      node(std::move(opened.node)),
      windows(kernel, device),
      interrupts(kernel, device, log.named(name)),
      mapper(kernel, std::move(opened.iommu), name, log, [this] { set_bus_master(false); }) {}

Status Handle::State::usable() const {
  if (gone) return named(Error(ENODEV, "the function has been released"));
  if (broken) return named(*broken);
  return {};
}

Status Handle::State::check(unsigned region, std::uint64_t offset, std::uint64_t length) const {
  OUTBOARD_CHECK(usable());
  if (region >= regions.size()) return named(Error(EINVAL, fmt::format("there is no region {}", region)));
  if (range_within(offset, length, regions[region].size)) return {};
  return named(Error(EINVAL, fmt::format("an access beyond the end of region {}", region)));
}

// Accesses.

/// Why the kernel refuses an access to registers: they are not there.
Error Handle::State::failed_access(int code, const char* doing, unsigned region) {
  std::string what = fmt::format("{} region {}: {}", doing, region, Error(code).what());
  if (code == ENODEV) lost.signal();
  if (code != EIO || region == pci::region::config) return named(Error(code, what));
  if (asleep) return Error(code, what + ": the function sleeps").on(name).cure("wake it: exit_low_power()");
  if (!decodes()) {
    return Error(code, what + ": the function does not decode memory, or is not in power state D0")
        .on(name)
        .cure("enable_memory(), or exit_low_power()");
  }
  return named(Error(code, what));
}

Status Handle::State::read(unsigned region, std::uint64_t offset, MutableBytes into) {
  const std::uint64_t base = regions[region].offset;
  // The kernel itself cuts accesses to configuration space.
  const bool whole = region == pci::region::config || is_register(offset, into.size());
  while (!into.empty()) {
    const std::size_t size = whole ? into.size() : piece(offset, into.size());
    const ssize_t done = kernel.pread(device.fd.get(), into.first(size), base + offset);
    if (done < 0) return failed_access(static_cast<int>(-done), "reading", region);
    if (static_cast<std::size_t>(done) != size) {
      return named(Error(EIO, fmt::format("reading region {}: the kernel gave {} of {} bytes", region, done, size)));
    }
    if (region == pci::region::config && finds_nobody(into.first(size), offset)) lost.signal();
    into = into.subspan(size);
    offset += size;
  }
  return {};
}

Status Handle::State::write(unsigned region, std::uint64_t offset, Bytes from) {
  const std::uint64_t base = regions[region].offset;
  const bool whole = region == pci::region::config || is_register(offset, from.size());
  while (!from.empty()) {
    const std::size_t size = whole ? from.size() : piece(offset, from.size());
    const ssize_t done = kernel.pwrite(device.fd.get(), from.first(size), base + offset);
    if (done < 0) return failed_access(static_cast<int>(-done), "writing", region);
    if (static_cast<std::size_t>(done) != size) {
      return named(Error(EIO, fmt::format("writing region {}: the kernel took {} of {} bytes", region, done, size)));
    }
    from = from.subspan(size);
    offset += size;
  }
  return {};
}

// Configuration space.

std::optional<std::uint16_t> Handle::State::read_config16(std::uint64_t offset) {
  le16 value;
  const ssize_t done =
      kernel.pread(device.fd.get(), as_writable_bytes_of(value), regions[pci::region::config].offset + offset);
  if (done != sizeof value) return std::nullopt;
  return std::uint16_t{value};
}

void Handle::State::set_bus_master(bool on) {
  const auto at = raw(pci::Command::offset);
  const auto command = read_config16(at);
  if (!command || pci::silent(pci::Command(*command))) return;
  const le16 wanted = pci::with(pci::Command(*command), pci::Command::bus_master, on ? 1 : 0).value();
  if (wanted != *command) kernel.pwrite(device.fd.get(), as_bytes_of(wanted), regions[pci::region::config].offset + at);
}

bool Handle::State::decodes() {
  const auto command = read_config16(raw(pci::Command::offset));
  if (!command || pci::Command(*command).get(pci::Command::memory_space) == 0) return false;
  if (!power_control) return true;
  const auto power = read_config16(*power_control);
  return power && pci::PowerManagementControl(*power).get(pci::PowerManagementControl::power_state) == 0;
}

bool Handle::State::hides_registers(std::uint64_t offset, Bytes from) const {
  const auto command = written_at(raw(pci::Command::offset), offset, from);
  if (command && (*command & pci::Command::memory_space.mask) == 0) return true;
  const auto power = power_control ? written_at(*power_control, offset, from) : std::nullopt;
  return power && (*power & pci::PowerManagementControl::power_state.mask) != 0;
}

bool Handle::State::frees_quarantined(std::uint64_t offset, Bytes from) const {
  const auto command = written_at(raw(pci::Command::offset), offset, from);
  return command && (*command & pci::Command::bus_master.mask) != 0 && mapper.quarantined();
}

// The device.

Status Handle::State::reset_device() {
  // What it writes to memory ends before it forgets that it should not.
  set_bus_master(false);
  const int done =
      while_busy(kernel, [this] { return kernel.call(device, abi::DeviceRequest::reset, std::uintptr_t{0}); });
  if (migration) migration->close_stream();  // the function runs, or is lost
  // What the fault guard has covered meanwhile is mapped again.
  if (done >= 0) return decodes() && !asleep ? windows.uncover() : Status();
  if (done == -EAGAIN) return named(Error(EAGAIN, "the device stays busy and cannot be reset"));
  if (done == -EINVAL) return named(Error(ENOTSUP, "the function has no method of being reset"));
  broken = Error(EIO, "the reset of the device has failed (" + Error(-done).what() + "), so its state is unknown")
               .cure("close it and open it again");
  return named(*broken);
}

Status Handle::State::feature(std::uint32_t id, std::uint32_t operation) {
  abi::DeviceFeature call{.argsz = sizeof(abi::DeviceFeature), .flags = operation | id};
  const int done = kernel.call(device, abi::DeviceRequest::feature, &call);
  if (done >= 0) return {};
  return named(Error(-done, fmt::format("VFIO_DEVICE_FEATURE {}: {}", id, Error(-done).what())));
}

/// In this order: no DMA, so no MSI either; then what signals; then what looks at registers, which keeps the device open in
/// the kernel; then the device; and last the memory that it could reach.
void Handle::State::close() {
  watch.reset();
  if (asleep) [[maybe_unused]]
    const Status awake = feature(abi::device_feature::low_power_exit, abi::device_feature_flag::set);
  set_bus_master(false);
  interrupts.disable_all();
  windows.close();
  if (migration) migration->close_stream();
  device.fd.reset();
  mapper.close();
  gone = true;
}

}  // namespace outboard::vfio
