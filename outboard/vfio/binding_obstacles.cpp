#include <fnmatch.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/vfio/binding.hpp>
#include <outboard/vfio/internal/binding_memory.hpp>
#include <outboard/vfio/internal/usage.hpp>

/// Binding: what stands in the way.
namespace outboard::vfio {
namespace {

namespace fs = std::filesystem;

constexpr const char* plain_driver = "vfio-pci";

/// PCI Code and ID Assignment, base class 06h. vfio-pci refuses headers of type 1 and 2; the bridge of the host, and that
/// to the machine's old devices, are no devices that a driver in user space could have a use for.
bool is_bridge(std::uint32_t class_code) {
  static constexpr std::uint32_t host = 0x0600, isa = 0x0601, pci_to_pci = 0x0604, cardbus = 0x0607, semi = 0x0609;
  const std::uint32_t subclass = class_code >> 8;
  return subclass == host || subclass == isa || subclass == pci_to_pci || subclass == cardbus || subclass == semi;
}

/// Drivers that do no DMA of their own: a group with a member on one of them can be used (driver_managed_dma).
bool shares_its_group(const FunctionFacts& member) {
  return member.driver.empty() || member.bound_to_vfio() || member.driver == "pci-stub" || member.driver == "pcieport";
}

std::string release_of_this_kernel() {
  utsname names{};
  ::uname(&names);
  return names.release;
}

Obstacle no_module(const std::string& driver) {
  return {ENOENT, fmt::format("there is no driver {}: its module is not loaded", driver),
          fmt::format("modprobe {}", driver)};
}

}  // namespace

Binding::Binding(Options options) : options_(std::move(options)), sysfs_(options_.root / "sys") {
  if (options_.kernel_release.empty()) options_.kernel_release = release_of_this_kernel();
}

/// depmod writes a line `alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci` for each device that a driver other
/// than vfio-pci hands to user space better (it may be able to migrate it).
std::vector<std::string> Binding::variants_of(pci::Address address) const {
  const auto modalias = read_attribute(sysfs_.function_folder(address) / "modalias");
  if (!modalias || !modalias->starts_with("pci:")) return {};
  const std::string wanted = "vfio_" + *modalias;
  std::set<std::string> found;
  std::ifstream aliases(options_.root / "lib" / "modules" / options_.kernel_release / "modules.alias");
  for (std::string line; std::getline(aliases, line);) {
    if (!line.starts_with("alias vfio_pci:")) continue;
    std::istringstream fields(line);
    std::string word, pattern, module;
    fields >> word >> pattern >> module;
    if (module != "vfio_pci" && ::fnmatch(pattern.c_str(), wanted.c_str(), 0) == 0) found.insert(module);
  }
  return {found.begin(), found.end()};
}

std::string Binding::driver_for(const FunctionFacts& facts, const Request& request) const {
  if (!request.driver.empty()) return request.driver;
  return facts.bound_to_vfio() ? facts.driver : plain_driver;
}

void Binding::add_driver_obstacles(const FunctionFacts& facts, const Request& request,
                                   std::vector<Obstacle>& found) const {
  if (facts.bound_to_vfio() && request.driver.empty()) return;
  if (request.driver.empty()) {
    if (const auto variants = variants_of(facts.address); !variants.empty())
      found.push_back(
          {ENOTSUP,
           fmt::format("this kernel has a driver of VFIO for this device alone: {}; which one is wanted has "
                       "to be said",
                       fmt::join(variants, ", ")),
           fmt::format("--driver {}, or --driver {}", variants.front(), plain_driver)});
  }
  const std::string driver = driver_for(facts, request);
  if (!is_driver_name(driver)) {
    found.push_back({EINVAL, fmt::format("'{}' is not the name of a driver", driver), "--driver vfio-pci"});
    return;
  }
  std::error_code code;
  if (!fs::exists(sysfs_.root() / "bus" / "pci" / "drivers" / driver, code)) found.push_back(no_module(driver));
}

void Binding::add_iommu_obstacles(const FunctionFacts& facts, const Request& request,
                                  std::vector<Obstacle>& found) const {
  if (facts.group && !facts.no_iommu_group) return;
  if (facts.no_iommu_group && request.no_iommu) return;
  static constexpr const char* cure =
      "switch VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on (Intel); --no-iommu does without, and then "
      "nothing keeps the device from any byte of this machine's memory";
  if (!request.no_iommu) {
    found.push_back({ENOTSUP, "no IOMMU: the device is in no IOMMU group", cure});
    return;
  }
  const auto allowed = read_attribute(sysfs_.root() / "module" / "vfio" / "parameters" / "enable_unsafe_noiommu_mode");
  if (allowed && (allowed == "Y" || allowed == "1")) return;
  found.push_back({ENOTSUP,
                   allowed ? "VFIO's mode without an IOMMU is off" : "this kernel has no VFIO without an IOMMU",
                   allowed ? "echo 1 >/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
                           : "a kernel with CONFIG_VFIO_NOIOMMU, and modprobe vfio"});
}

void Binding::add_group_obstacles(const FunctionFacts& facts, const Request& request,
                                  std::vector<Obstacle>& found) const {
  if (!facts.group) return;
  const auto members = sysfs_.group_members(*facts.group);
  if (!members) return;
  std::vector<std::string> others, addresses;
  for (const FunctionFacts& member : *members) {
    if (std::ranges::find(request.functions, member.address) != request.functions.end()) continue;
    if (shares_its_group(member) || is_bridge(member.class_code)) continue;
    others.push_back(fmt::format("{} ({})", member.address.text(), member.driver));
    addresses.push_back(member.address.text());
  }
  if (others.empty()) return;
  found.push_back(
      {EPERM,
       fmt::format("IOMMU group {} cannot be used while other drivers have a part of it: {}", *facts.group,
                   fmt::join(others, ", ")),
       fmt::format("hand all of it over: outboard pci bind {} {}", facts.address.text(), fmt::join(addresses, " "))});
}

std::vector<Obstacle> Binding::obstacles_of(const FunctionFacts& facts, const Request& request, bool claims) const {
  if (is_bridge(facts.class_code)) return {{ENOTSUP, "it is a bridge: a part of the machine, and not a device", ""}};
  std::vector<Obstacle> found;
  add_iommu_obstacles(facts, request, found);
  add_driver_obstacles(facts, request, found);
  // From one driver of VFIO to another: whoever has it open (a virtual machine) would lose it.
  if (facts.bound_to_vfio() && driver_for(facts, request) != facts.driver) {
    if (const auto open = check_not_open(facts); !open)
      found.push_back({open.error().code(), open.error().what(), open.error().cure()});
  }
  if (const auto functions = sysfs_.number(facts.address, "sriov_numvfs").value_or(0); functions > 0)
    found.push_back({EBUSY, fmt::format("{} virtual functions of it are enabled", functions),
                     fmt::format("echo 0 >/sys/bus/pci/devices/{}/sriov_numvfs", facts.address.text())});
  const fs::path dev = claims ? options_.root / "dev" : fs::path();
  for (const Usage& usage : usages_of(sysfs_, facts.address, options_.root / "proc", dev))
    found.push_back({EBUSY, fmt::format("{} is {}", usage.thing, usage.use), usage.cure});
  add_group_obstacles(facts, request, found);
  return found;
}

std::vector<Obstacle> Binding::obstacles_of(const FunctionFacts& facts) const {
  return obstacles_of(facts, Request{.functions = {facts.address}}, false);
}

Result<std::vector<Obstacle>> Binding::obstacles(const Request& request) const {
  std::vector<Obstacle> all;
  for (const pci::Address address : request.functions) {
    OUTBOARD_TRY(const auto facts, sysfs_.function(address));
    for (Obstacle& obstacle : obstacles_of(facts, request, true)) {
      if (request.functions.size() > 1) obstacle.what = fmt::format("{}: {}", address.text(), obstacle.what);
      all.push_back(std::move(obstacle));
    }
  }
  return all;
}

}  // namespace outboard::vfio
