#include <tools/outboard/pci/list.hpp>

#include <system_error>

#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <tools/outboard/json.hpp>
#include <tools/outboard/text.hpp>

namespace outboard::command {

namespace {

/// The node to open: the device's own if the kernel has IOMMUFD, else that of its group.
std::string node_of(const vfio::FunctionFacts& facts, const std::filesystem::path& root) {
  if (!facts.bound_to_vfio() || !facts.group) return {};
  std::error_code code;
  if (!facts.cdev.empty() && std::filesystem::exists(root / "dev/iommu", code))
    return "/dev/vfio/devices/" + facts.cdev;
  return fmt::format("/dev/vfio/{}{}", facts.no_iommu_group ? "noiommu-" : "", *facts.group);
}

PciFunction function_of(const vfio::Binding& binding, const vfio::FunctionFacts& facts,
                        const std::filesystem::path& root) {
  PciFunction function;
  function.facts = facts;
  function.obstacles = binding.obstacles_of(facts);
  function.node = node_of(facts, root);
  function.old_driver = binding.remembered_driver(facts.address);
  if (function.node.empty()) return function;
  const std::string path = root / function.node.substr(1);
  function.may_open = ::access(path.c_str(), R_OK | W_OK) == 0;
  function.holder = holder_of(path, root / "proc");
  return function;
}

std::string reasons(const PciFunction& function) {
  std::vector<std::string> texts;
  for (const auto& obstacle : function.obstacles) texts.push_back(obstacle.what);
  return fmt::format("cannot be used: {}", fmt::join(texts, "; "));
}

std::string verdict(const PciFunction& function) {
  if (!function.obstacles.empty()) return reasons(function);
  if (!function.bound()) return fmt::format("to use it: outboard pci bind {}", function.facts.address.text());
  if (function.holder) return fmt::format("in use by process {} ({})", function.holder->pid, function.holder->command);
  if (!function.may_open) return fmt::format("no permission to open {}", function.node);
  return fmt::format("usable: {}", function.node);
}

std::string place(const PciFunction& function) {
  const auto& facts = function.facts;
  std::string text = facts.driver.empty() ? "no driver" : facts.driver;
  if (function.old_driver && !function.old_driver->empty()) text += fmt::format(" (was {})", *function.old_driver);
  text += facts.group && !facts.no_iommu_group ? fmt::format(", IOMMU group {}", *facts.group) : ", no IOMMU group";
  if (facts.numa_node) text += fmt::format(", NUMA node {}", *facts.numa_node);
  return text;
}

Json or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

Json as_json(const PciFunction& function, const PciNames& names) {
  const auto& facts = function.facts;
  Json obstacles = Json::array();
  for (const auto& obstacle : function.obstacles)
    obstacles.push_back({{"what", obstacle.what}, {"cure", obstacle.cure}});
  Json json{{"address", facts.address.text()},
            {"vendor", facts.vendor},
            {"device", facts.device},
            {"subsystem_vendor", facts.subsystem_vendor},
            {"subsystem", facts.subsystem},
            {"class", facts.class_code},
            {"revision", facts.revision},
            {"title", pci_title(facts, names)},
            {"driver", or_null(facts.driver)},
            {"old_driver", function.old_driver},
            {"iommu_group", facts.group},
            {"no_iommu", facts.no_iommu_group},
            {"numa_node", facts.numa_node},
            {"node", or_null(function.node)},
            {"cdev", or_null(facts.cdev.empty() ? "" : "/dev/vfio/devices/" + facts.cdev)},
            {"bound", function.bound()},
            {"usable", function.usable()},
            {"holder", nullptr},
            {"obstacles", obstacles}};
  if (function.holder) json.set("holder", {{"pid", function.holder->pid}, {"command", function.holder->command}});
  return json;
}

}  // namespace

Result<std::vector<PciFunction>> pci_functions(const vfio::Binding::Options& options) {
  const vfio::Binding binding(options);
  OUTBOARD_TRY(const auto all, binding.sysfs().functions());
  std::vector<PciFunction> functions;
  functions.reserve(all.size());
  for (const auto& facts : all) functions.push_back(function_of(binding, facts, options.root));
  return functions;
}

std::string pci_title(const vfio::FunctionFacts& facts, const PciNames& names) {
  return fmt::format("{}: {}", names.device_class(static_cast<std::uint16_t>(facts.class_code >> 8)),
                     names.device(facts.vendor, facts.device));
}

std::string pci_text(const std::vector<PciFunction>& functions, const PciNames& names) {
  if (functions.empty()) return "no PCI functions\n";
  std::string text;
  for (const auto& function : functions) {
    const auto& facts = function.facts;
    text += fmt::format("{} {} [{:04x}:{:04x}]\n", facts.address.text(), pci_title(facts, names), facts.vendor,
                        facts.device);
    text += fmt::format("             {}; {}\n", place(function), verdict(function));
  }
  return text;
}

std::string pci_json(const std::vector<PciFunction>& functions, const PciNames& names) {
  Json list = Json::array();
  for (const auto& function : functions) list.push_back(as_json(function, names));
  return Json({{"functions", list}}).text();
}

}  // namespace outboard::command
