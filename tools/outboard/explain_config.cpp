#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <outboard/pci/config_map.hpp>
#include <tools/outboard/command.hpp>
#include <tools/outboard/config_image.hpp>
#include <tools/outboard/text.hpp>

/// `explain-config`: what becomes of each bit of configuration space when somebody else is given the function.
namespace outboard::command {

namespace {

using nlohmann::ordered_json;

struct ExplainArguments {
  TargetArguments target;
  std::string policy = "exporter";
  bool json = false;
};

/// A dword, or several alike that belong to nothing.
struct Line {
  std::size_t offset = 0;
  std::size_t length = 4;
  std::string structure;
  std::uint32_t virt = 0, write = 0, value = 0;
  bool is_gap = false;
};

std::string name_of(const pci::ConfigStructure& structure) {
  switch (structure.part) {
    case pci::ConfigPart::header:
      return "header";
    case pci::ConfigPart::capability:
      return fmt::format("capability {:02x}", structure.id);
    case pci::ConfigPart::extended_capability:
      break;
  }
  return fmt::format("extended capability {:04x}", structure.id);
}

std::string owner_of(const pci::ConfigMap& map, std::size_t offset) {
  std::string owner;
  for (std::size_t i = 0; i < 4; ++i) {
    const auto index = map.at(offset + i).owner;
    const std::string name = index == pci::ConfigMap::gap_owner ? "gap" : name_of(map.structures()[index].structure);
    if (owner.find(name) == std::string::npos) owner += (owner.empty() ? "" : ", ") + name;
  }
  return owner;
}

std::vector<Line> lines_of(const pci::ConfigMap& map, const ConfigImage& image) {
  std::vector<Line> lines;
  for (std::size_t at = 0; at < map.size(); at += 4) {
    Line line{.offset = at, .structure = owner_of(map, at), .value = image.number<std::uint32_t>(at)};
    for (unsigned i = 0; i < 4; ++i) {
      const auto& byte = map.at(at + i);
      line.virt |= std::uint32_t{byte.virt} << (8 * i);
      line.write |= std::uint32_t{byte.write} << (8 * i);
      line.write |= std::uint32_t{byte.write_one_clears} << (8 * i);
    }
    line.is_gap = line.structure == "gap" && line.value == 0;
    const bool goes_on = line.is_gap && !lines.empty() && lines.back().is_gap && lines.back().virt == line.virt &&
                         lines.back().write == line.write;
    if (goes_on) {
      lines.back().length += 4;
    } else {
      lines.push_back(std::move(line));
    }
  }
  return lines;
}

std::string as_text(const std::vector<Line>& lines) {
  std::string text = fmt::format("{:9} {:8} {:8} {:8}  {}\n", "offset", "virtual", "written", "device", "part of");
  for (const Line& line : lines) {
    const std::string place = line.length == 4
                                  ? fmt::format("{:03x}", line.offset)
                                  : fmt::format("{:03x}-{:03x}", line.offset, line.offset + line.length - 1);
    text += fmt::format("{:9} {:08x} {:08x} {:08x}  {}\n", place, line.virt, line.write, line.value, line.structure);
  }
  return text;
}

ordered_json as_json(const std::vector<Line>& lines) {
  ordered_json list = ordered_json::array();
  for (const Line& line : lines) {
    list.push_back({{"offset", line.offset},
                    {"length", line.length},
                    {"structure", line.structure},
                    {"virtual", line.virt},
                    {"written", line.write},
                    {"device", line.value}});
  }
  return list;
}

Result<Exit> explain(const ExplainArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto handle, arguments.target.open(context));
  OUTBOARD_TRY(const auto image, ConfigImage::of(*handle));
  const auto policy = arguments.policy == "kernel" ? pci::ConfigPolicy::kernel_mirror : pci::ConfigPolicy::exporter;
  const auto lines = lines_of(pci::ConfigMap(policy, image.bytes()), image);
  OUTBOARD_CHECK(print(arguments.json ? json_text(as_json(lines)) : as_text(lines)));
  return Exit::done;
}

}  // namespace

void add_explain_config(CLI::App& app, Plan& plan) {
  const auto arguments = std::make_shared<ExplainArguments>();
  CLI::App* verb = add_verb(
      app, plan, "explain-config", "show what becomes of each bit of configuration space when a function is handed on",
      "outboard explain-config vfio:0000:00:04.0 --as kernel",
      [arguments](Context& context) { return arguments->target.name_in(explain(*arguments, context)); });
  arguments->target.add_to(*verb);
  verb->add_option("--as", arguments->policy,
                   "exporter: by `serve pci` to its client (default); kernel: by Linux' vfio-pci to the device's owner")
      ->type_name("WHO")
      ->check(CLI::IsMember({"exporter", "kernel"}));
  verb->add_flag("--json", arguments->json, "as JSON: a list of offset, length, structure, virtual, written, device");
  verb->footer(
      "Virtual bits are kept by whoever hands the function on; the others are the device's, and `device` is what it has\n"
      "there. Bits that are not in `written` drop what is written. What registers do beside (BARs that are sized, resets)\n"
      "is not shown.\n\nExample:\n  outboard explain-config vfio:0000:00:04.0 --as kernel\n");
}

}  // namespace outboard::command
