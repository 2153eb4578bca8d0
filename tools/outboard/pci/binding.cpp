#include <tools/outboard/pci/binding.hpp>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/base/internal/shell_word.hpp>

namespace outboard::command {

std::string announcement(const std::vector<std::string>& lines, const std::string& verb,
                         const BindArguments& arguments) {
  if (lines.empty()) return "# nothing to do\n";
  std::string words = fmt::format("{} {}", verb, fmt::join(arguments.addresses, " "));
  if (!arguments.driver.empty()) words += " --driver " + shell_word(arguments.driver);
  if (arguments.no_iommu) words += " --no-iommu";
  const auto loads = [](const std::string& line) { return line.starts_with("modprobe "); };
  if (arguments.modprobe || std::ranges::any_of(lines, loads)) words += " --modprobe";
  if (arguments.state != BindArguments{}.state) words += " --state " + shell_word(arguments.state);
  return fmt::format("# nothing has been done; run as root:\n{}\n# or: outboard pci {} --yes\n", fmt::join(lines, "\n"),
                     words);
}

Status give_back(const vfio::Binding& binding, const std::vector<pci::Address>& addresses,
                 const std::function<Status(const std::string&)>& say) {
  for (const auto address : addresses) {
    OUTBOARD_TRY(const auto driver, binding.unbind(address));
    OUTBOARD_CHECK(say(fmt::format("{}: {}\n", address.text(), driver.empty() ? "no driver" : "back to " + driver)));
  }
  return {};
}

}  // namespace outboard::command
