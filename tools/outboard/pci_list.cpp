#include <tools/outboard/pci_list.hpp>

#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <tools/outboard/text.hpp>

namespace outboard::command {

namespace {

using nlohmann::ordered_json;

/// The way in: the device's own node where the kernel has IOMMUFD, else that of its group.
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
  return fmt::format("no: {}", fmt::join(texts, "; "));
}

std::string verdict(const PciFunction& function) {
  if (!function.obstacles.empty()) return reasons(function);
  if (!function.bound()) return fmt::format("after: outboard pci bind {}", function.facts.address.text());
  if (function.holder) return fmt::format("in use by {} ({})", function.holder->pid, function.holder->command);
  if (!function.may_open) return fmt::format("not for this user: {}", function.node);
  return fmt::format("usable, by {}", function.node);
}

std::string place(const PciFunction& function) {
  const auto& facts = function.facts;
  std::string text = facts.driver.empty() ? "no driver" : facts.driver;
  if (function.old_driver && !function.old_driver->empty()) text += fmt::format(" (before: {})", *function.old_driver);
  text += facts.group && !facts.no_iommu_group ? fmt::format(", IOMMU group {}", *facts.group) : ", no IOMMU group";
  if (facts.numa_node) text += fmt::format(", NUMA node {}", *facts.numa_node);
  return text;
}

template <typename T>
ordered_json or_null(const std::optional<T>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}
ordered_json or_null(const std::string& text) { return text.empty() ? ordered_json(nullptr) : ordered_json(text); }

ordered_json as_json(const PciFunction& function, const PciNames& names) {
  const auto& facts = function.facts;
  ordered_json json{{"address", facts.address.text()},
                    {"vendor", facts.vendor},
                    {"device", facts.device},
                    {"subsystem_vendor", facts.subsystem_vendor},
                    {"subsystem", facts.subsystem},
                    {"class", facts.class_code},
                    {"revision", facts.revision},
                    {"title", pci_title(facts, names)},
                    {"driver", or_null(facts.driver)},
                    {"old_driver", or_null(function.old_driver)},
                    {"iommu_group", or_null(facts.group)},
                    {"no_iommu", facts.no_iommu_group},
                    {"numa_node", or_null(facts.numa_node)},
                    {"node", or_null(function.node)},
                    {"cdev", or_null(facts.cdev.empty() ? "" : "/dev/vfio/devices/" + facts.cdev)},
                    {"bound", function.bound()},
                    {"usable", function.usable()},
                    {"holder", nullptr},
                    {"obstacles", ordered_json::array()}};
  if (function.holder) json["holder"] = {{"pid", function.holder->pid}, {"command", function.holder->command}};
  for (const auto& obstacle : function.obstacles)
    json["obstacles"].push_back({{"what", obstacle.what}, {"cure", obstacle.cure}});
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
  auto list = ordered_json::array();
  for (const auto& function : functions) list.push_back(as_json(function, names));
  return json_text({{"functions", list}});
}

}  // namespace outboard::command
