#include <outboard/vfio/binding.hpp>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/internal/attribute_file.hpp>
#include <outboard/base/internal/file_holder.hpp>
#include <outboard/base/internal/wait.hpp>
#include <outboard/vfio/internal/binding_memory.hpp>

namespace outboard::vfio {
namespace {

namespace fs = std::filesystem;

constexpr const char* no_override = "(null)";  // what the kernel shows where none is set

Error with_rights(Error error) {
  const bool denied = error.code() == EACCES || error.code() == EPERM;
  return denied && error.cure().empty() ? std::move(error).cure("run as root") : error;
}

std::string echo(const std::string& value, const std::string& path) {
  return value.empty() ? fmt::format("echo >{}", path) : fmt::format("echo {} >{}", value, path);
}

/// The paths that a person types, without the root of a test.
std::string device_path(pci::Address address, const char* name) {
  return fmt::format("/sys/bus/pci/devices/{}/{}", address.text(), name);
}

void add_taking(const FunctionFacts& facts, const std::string& override_name, std::vector<std::string>& lines) {
  lines.push_back(echo(override_name, device_path(facts.address, "driver_override")));
  if (!facts.driver.empty()) lines.push_back(echo(facts.address.text(), device_path(facts.address, "driver/unbind")));
}

void add_probe(pci::Address address, std::vector<std::string>& lines) {
  lines.push_back(echo(address.text(), "/sys/bus/pci/drivers_probe"));
}

}  // namespace

std::string Binding::attribute(pci::Address address, const char* name) const {
  return (sysfs_.function_folder(address) / name).string();
}

std::string Binding::probe_path() const { return (sysfs_.root() / "bus" / "pci" / "drivers_probe").string(); }

std::string Binding::override_of(pci::Address address) const {
  const auto text = read_attribute(attribute(address, "driver_override"));
  return text && text != no_override ? *text : "";
}

std::optional<std::string> Binding::remembered_driver(pci::Address address) const {
  const auto facts = sysfs_.function(address);
  if (!facts) return std::nullopt;
  const auto memory = read_memory(options_.state, *facts);
  return memory ? std::optional(memory->driver) : std::nullopt;
}

Status Binding::write(const std::string& path, const std::string& value) const {
  const auto done = options_.write ? options_.write(path, value) : write_attribute_apart(path, value, options_.timeout);
  if (!done) return with_rights(done.error());
  return {};
}

Result<std::vector<std::string>> Binding::commands(const Request& request) const {
  std::vector<std::string> lines;
  for (const pci::Address address : request.functions) {
    OUTBOARD_TRY(const auto facts, sysfs_.function(address));
    const std::string driver = driver_for(facts, request);
    if (facts.driver == driver) continue;
    // The lines are for a shell.
    if (!is_driver_name(driver)) return Error(EINVAL, fmt::format("'{}' is not the name of a driver", driver));
    std::error_code code;
    const std::string module = fmt::format("modprobe {}", driver);
    if (!fs::exists(sysfs_.root() / "bus" / "pci" / "drivers" / driver, code) &&
        std::ranges::find(lines, module) == lines.end())
      lines.push_back(module);
    add_taking(facts, driver, lines);
    add_probe(address, lines);
  }
  return lines;
}

Result<std::vector<std::string>> Binding::commands_to_unbind(pci::Address address) const {
  OUTBOARD_TRY(const auto facts, sysfs_.function(address));
  OUTBOARD_CHECK(check_handed_over(facts));
  std::vector<std::string> lines;
  const auto memory = read_memory(options_.state, facts);
  add_taking(facts, memory ? memory->driver : "", lines);
  if (!memory || !memory->driver.empty()) add_probe(address, lines);
  if (memory && memory->driver != memory->override_name)
    lines.push_back(echo(memory->override_name, device_path(address, "driver_override")));
  return lines;
}

Status Binding::remember(const FunctionFacts& facts, const std::string& driver) const {
  const std::string set = override_of(facts.address);
  // Somebody began to hand it over and did not come to the end: what was before that is what counts.
  if (set == driver && read_memory(options_.state, facts)) return {};
  if (const auto written = write_memory(options_.state, facts, {facts.driver, set}); !written)
    return with_rights(written.error());
  return {};
}

Status Binding::set_override(pci::Address address, const std::string& name) const {
  // The kernel takes an empty line for none.
  return write(attribute(address, "driver_override"), name.empty() ? "\n" : name);
}

/// The override comes first, so that no other driver takes the function in between.
Status Binding::take_from_driver(const FunctionFacts& facts, const std::string& override_name) const {
  OUTBOARD_CHECK(set_override(facts.address, override_name));
  if (facts.driver.empty()) return {};
  const auto unbound = write(attribute(facts.address, "driver/unbind"), facts.address.text());
  if (!unbound) return Error(unbound.error()).while_doing(fmt::format("taking it from {}", facts.driver));
  return {};
}

Status Binding::probe(pci::Address address) const { return write(probe_path(), address.text()); }

Result<UniqueFd> Binding::lock(Duration timeout) const {
  auto file = open_lock(options_.state);
  if (!file && (file.error().code() == EACCES || file.error().code() == EROFS)) return UniqueFd();
  if (!file) return file.error();
  const TimePoint now = Clock::system().now();
  auto locked = wait_for_lock(file->get(), now);
  if (locked && !*locked) {
    options_.log.warning("another process is binding or unbinding functions: waiting for it to end");
    locked = wait_for_lock(file->get(), now + timeout);
  }
  if (!locked) return Error(locked.error()).on(options_.state.string());
  if (!*locked)
    return Error(EBUSY, "another process is binding or unbinding functions")
        .on(options_.state.string())
        .cure("wait until it has ended, and try again");
  return std::move(*file);
}

Status Binding::bind(const Request& request) const {
  OUTBOARD_TRY(const auto obstacles, this->obstacles(request));
  if (!obstacles.empty()) {
    const Obstacle& first = obstacles.front();
    Error error(first.code, first.what);
    if (!first.cure.empty()) error = std::move(error).cure(first.cure);
    return request.functions.size() == 1 ? std::move(error).on(request.functions.front().text()) : error;
  }
  for (const pci::Address address : request.functions) {
    OUTBOARD_TRY(const auto facts, sysfs_.function(address));
    const std::string driver = driver_for(facts, request);
    if (facts.driver == driver) continue;
    const auto bound = bind_one(facts, driver);
    if (!bound) return Error(bound.error()).on(address.text());
    options_.log.info("{}: handed over from {} to {}", address.text(),
                      facts.driver.empty() ? "no driver" : facts.driver, driver);
  }
  return {};
}

Status Binding::bind_one(const FunctionFacts& facts, const std::string& driver) const {
  OUTBOARD_CHECK(remember(facts, driver));
  auto written = take_from_driver(facts, driver);
  if (written) written = probe(facts.address);
  // A write that still waits in the kernel would meet ours: what was begun stays begun.
  if (!written && written.error().code() == ETIMEDOUT)
    return Error(written.error())
        .cure(fmt::format("when it has come back: outboard pci bind {0} again, or outboard pci unbind {0}",
                          facts.address.text()));
  OUTBOARD_TRY(const auto now, sysfs_.function(facts.address));
  if (written && now.driver == driver) return {};
  const auto back = put_back(now);
  if (!back) options_.log.warning("{}: {}", facts.address.text(), back.error().message());
  if (!written) return written.error();
  return Error(EIO, fmt::format("the kernel did not bind it to {}", driver)).cure("the kernel's log (dmesg) says why");
}

/// The driver that was there before, by name: where several match, the kernel might choose another one.
Status Binding::put_back(const FunctionFacts& facts) const {
  const auto memory = read_memory(options_.state, facts);
  const std::string driver = memory ? memory->driver : "", set = memory ? memory->override_name : "";
  std::error_code code;
  const bool still_there = !driver.empty() && fs::exists(sysfs_.root() / "bus" / "pci" / "drivers" / driver, code);
  OUTBOARD_CHECK(take_from_driver(facts, still_there ? driver : set));
  const bool had_none = memory && driver.empty();
  if (!had_none) OUTBOARD_CHECK(probe(facts.address));
  if (still_there && driver != set) OUTBOARD_CHECK(set_override(facts.address, set));
  drop_memory(options_.state, facts.address);
  return {};
}

Status Binding::check_handed_over(const FunctionFacts& facts) const {
  // One that was begun and not ended has no driver.
  if (facts.bound_to_vfio() || (facts.driver.empty() && remembered_driver(facts.address))) return {};
  return Error(EINVAL, facts.driver.empty()
                           ? std::string("it has no driver, and was not handed over to VFIO")
                           : fmt::format("it is driven by '{}', and not handed over to VFIO", facts.driver))
      .on(facts.address.text())
      .cure("there is nothing to give back; `outboard pci list` shows which functions are handed over");
}

/// The kernel would wait until whoever has it closes it.
Status Binding::check_not_open(const FunctionFacts& facts) const {
  const fs::path nodes = options_.root / "dev" / "vfio";
  std::vector<fs::path> paths;
  if (facts.group) paths.push_back(nodes / fmt::format("{}{}", facts.no_iommu_group ? "noiommu-" : "", *facts.group));
  if (!facts.cdev.empty()) paths.push_back(nodes / "devices" / facts.cdev);
  for (const fs::path& path : paths) {
    if (const auto holder = holder_of(path.string(), (options_.root / "proc").string()))
      return Error(EBUSY, fmt::format("process {} ({}) has it open", holder->pid, holder->command))
          .on(facts.address.text())
          .cure("end that process first");
  }
  return {};
}

Result<std::string> Binding::unbind(pci::Address address) const {
  OUTBOARD_TRY(const auto facts, sysfs_.function(address));
  OUTBOARD_CHECK(check_handed_over(facts));
  OUTBOARD_CHECK(check_not_open(facts));
  if (const auto done = put_back(facts); !done) return Error(done.error()).on(address.text());
  OUTBOARD_TRY(const auto now, sysfs_.function(address));
  return now.driver;
}

}  // namespace outboard::vfio
