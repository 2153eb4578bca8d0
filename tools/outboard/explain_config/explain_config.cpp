#include <fmt/format.h>

#include <outboard/pci/internal/config_map.hpp>
#include <tools/outboard/config_image.hpp>
#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/target_arguments.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/verbs.hpp>

/// `explain-config`: shows what a re-exported function lets its user do with each bit of configuration space.
namespace outboard::command {

namespace {

struct ExplainArguments {
  TargetArguments target;
  std::string policy = "exporter";
  bool json = false;
};

/// A dword, or several equal ones of a gap.
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

Json as_json(const std::vector<Line>& lines) {
  Json list = Json::array();
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
  OUTBOARD_CHECK(print(arguments.json ? as_json(lines).text() : as_text(lines)));
  return Exit::done;
}

}  // namespace

void add_explain_config(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<ExplainArguments>();
  const Verb verb = add_verb(
      parent, plan, "explain-config", "show which bits of configuration space are virtual and which can be written",
      "outboard explain-config vfio:0000:00:04.0 --as kernel",
      [arguments](Context& context) { return arguments->target.name_in(explain(*arguments, context)); });
  arguments->target.add_to(verb);
  verb.add_option("--as", arguments->policy,
                  "exporter (default): `serve pci` for its client; kernel: Linux' vfio-pci for its user")
      .value_name("WHO")
      .one_of({"exporter", "kernel"});
  verb.add_flag("--json", arguments->json, "as JSON: a list of offset, length, structure, virtual, written, device");
  verb.prepend_footer(
      "`virtual`: bits that the exporter (or the kernel) keeps; the other bits are the device's, and `device` is their\n"
      "value. `written`: bits that can be written; writes to the others are dropped. Side effects of registers (BAR\n"
      "sizing, resets) are not shown.");
}

}  // namespace outboard::command
