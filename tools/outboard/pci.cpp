#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <tools/outboard/command.hpp>
#include <tools/outboard/pci_binding.hpp>
#include <tools/outboard/pci_list.hpp>

/// `pci`: the functions of this machine, and who drives them.
namespace outboard::command {

namespace {

Result<std::vector<pci::Address>> addresses_of(const std::vector<std::string>& texts) {
  std::vector<pci::Address> addresses;
  for (const auto& text : texts) {
    const auto address = pci::Address::parse(text);
    if (!address) return as_usage_error(address.error());
    addresses.push_back(*address);
  }
  return addresses;
}

vfio::Binding binding_of(const BindArguments& arguments, const Context& context) {
  vfio::Binding::Options options;
  options.state = arguments.state;
  options.log = context.log;
  return vfio::Binding(std::move(options));
}

Status load_module(std::string module) {
  std::string words[] = {"modprobe", std::move(module)};
  char* arguments[] = {words[0].data(), words[1].data(), nullptr};
  pid_t child = 0;
  if (const int code = ::posix_spawnp(&child, "modprobe", nullptr, nullptr, arguments, environ); code != 0)
    return Error(code, "starting modprobe");
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return Error::from_errno("waiting for modprobe");
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return Error(ENOENT, "modprobe could not load the module").on(words[1]);
}

/// Longer than the kernel is given for one write.
constexpr Duration lock_patience = std::chrono::seconds(90);

bool is_missing_module(const vfio::Obstacle& obstacle) { return obstacle.code == ENOENT; }

/// All that stands in the way, with the cure for the first of it. A module that is not loaded is one of the commands.
Status check_free(const vfio::Binding& binding, const vfio::Binding::Request& request) {
  OUTBOARD_TRY(auto obstacles, binding.obstacles(request));
  std::erase_if(obstacles, is_missing_module);
  if (obstacles.empty()) return {};
  std::vector<std::string> texts;
  for (const auto& obstacle : obstacles) texts.push_back(obstacle.what);
  Error error(obstacles.front().code, fmt::format("{}", fmt::join(texts, "; ")));
  if (request.functions.size() == 1) error = std::move(error).on(request.functions.front().text());
  if (!obstacles.front().cure.empty()) error = std::move(error).cure(obstacles.front().cure);
  return error;
}

Result<Exit> bind(const BindArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto addresses, addresses_of(arguments.addresses));
  const vfio::Binding binding = binding_of(arguments, context);
  const vfio::Binding::Request request{addresses, arguments.driver, arguments.no_iommu};
  OUTBOARD_TRY(const UniqueFd lock, binding.lock(lock_patience));
  OUTBOARD_CHECK(check_free(binding, request));
  if (!arguments.yes) {
    OUTBOARD_TRY(const auto lines, binding.commands(request));
    OUTBOARD_CHECK(print(announcement(lines, "bind", arguments)));
    return Exit::done;
  }
  if (arguments.modprobe) OUTBOARD_CHECK(load_module(arguments.driver.empty() ? "vfio-pci" : arguments.driver));
  OUTBOARD_CHECK(binding.bind(request));
  for (const auto address : addresses) {
    OUTBOARD_TRY(const auto facts, binding.sysfs().function(address));
    OUTBOARD_CHECK(print(fmt::format("{}: bound to {}\n", address.text(), facts.driver)));
  }
  return Exit::done;
}

Result<Exit> unbind(const BindArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto addresses, addresses_of(arguments.addresses));
  const vfio::Binding binding = binding_of(arguments, context);
  if (arguments.yes) {
    OUTBOARD_TRY(const UniqueFd lock, binding.lock(lock_patience));
    OUTBOARD_CHECK(give_back(binding, addresses, [](const std::string& line) { return print(line); }));
    return Exit::done;
  }
  std::vector<std::string> lines;
  for (const auto address : addresses) {
    OUTBOARD_TRY(const auto more, binding.commands_to_unbind(address));
    lines.insert(lines.end(), more.begin(), more.end());
  }
  OUTBOARD_CHECK(print(announcement(lines, "unbind", arguments)));
  return Exit::done;
}

void add_common(CLI::App& verb, BindArguments& arguments) {
  verb.add_option("BDF", arguments.addresses, "the functions, such as 0000:00:04.0: outboard pci list")->required();
  verb.add_flag("--yes", arguments.yes, "do it; without it, what would be done is printed");
  verb.add_option("--state", arguments.state, "where the old drivers are remembered")
      ->type_name("FOLDER")
      ->capture_default_str();
}

void add_bind(CLI::App& parent, Plan& plan) {
  const auto arguments = std::make_shared<BindArguments>();
  CLI::App* verb = add_verb(parent, plan, "bind", "take functions from their drivers and hand them to vfio-pci",
                            "outboard pci bind 0000:01:00.0 --yes",
                            [arguments](Context& context) { return bind(*arguments, context); });
  verb->parse_complete_callback([&plan] { plan.log_warnings = true; });
  add_common(*verb, *arguments);
  verb->add_flag("--modprobe", arguments->modprobe, "load the driver's module first");
  verb->add_option("--driver", arguments->driver, "vfio-pci, or the variant of it that this kernel has for the device")
      ->type_name("NAME");
  verb->add_flag("--no-iommu", arguments->no_iommu,
                 "also without an IOMMU: whoever drives the device can then read and write all memory");
}

void add_unbind(CLI::App& parent, Plan& plan) {
  const auto arguments = std::make_shared<BindArguments>();
  CLI::App* verb = add_verb(parent, plan, "unbind", "give functions back to the drivers they had",
                            "outboard pci unbind 0000:01:00.0 --yes",
                            [arguments](Context& context) { return unbind(*arguments, context); });
  verb->parse_complete_callback([&plan] { plan.log_warnings = true; });
  add_common(*verb, *arguments);
}

void add_list(CLI::App& parent, Plan& plan) {
  const auto json = std::make_shared<bool>(false);
  CLI::App* verb = add_verb(parent, plan, "list", "every function: what it is, who drives it, whether it can be had",
                            "outboard pci list --json", [json](Context&) -> Result<Exit> {
                              OUTBOARD_TRY(const auto functions, pci_functions({}));
                              const PciNames names = PciNames::load();
                              OUTBOARD_CHECK(print(*json ? pci_json(functions, names) : pci_text(functions, names)));
                              return Exit::done;
                            });
  verb->add_flag("--json", *json, "as JSON");
}

}  // namespace

void add_pci(CLI::App& app, Plan& plan) {
  CLI::App* verb = app.add_subcommand("pci", "PCI functions of this machine: list, bind, unbind");
  verb->require_subcommand(1);
  verb->footer(
      "A driver in user space gets a function from vfio-pci: `bind` hands it over, `unbind` gives it back. Both only print\n"
      "what they would do until they are told --yes.\n\n"
      "Example:\n  outboard pci list\n");
  add_list(*verb, plan);
  add_bind(*verb, plan);
  add_unbind(*verb, plan);
}

}  // namespace outboard::command
