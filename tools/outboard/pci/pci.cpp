#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <tools/outboard/output.hpp>
#include <tools/outboard/pci/binding.hpp>
#include <tools/outboard/pci/list.hpp>
#include <tools/outboard/usage_error.hpp>
#include <tools/outboard/verbs.hpp>

/// `pci`: lists the functions of this machine, and binds them to drivers.
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

/// Longer than the time that the kernel is given for one write.
constexpr Duration lock_timeout = std::chrono::seconds(90);

bool is_missing_module(const vfio::Obstacle& obstacle) { return obstacle.code == ENOENT; }

/// All obstacles, with the cure for the first one. Loading a module is among the commands, so a missing one is no obstacle.
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
  OUTBOARD_TRY(const UniqueFd lock, binding.lock(lock_timeout));
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
    OUTBOARD_TRY(const UniqueFd lock, binding.lock(lock_timeout));
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

void add_common(const Verb& verb, BindArguments& arguments) {
  verb.add_option("BDF", arguments.addresses, "the functions, such as 0000:00:04.0 (see outboard pci list)").required();
  verb.add_flag("--yes", arguments.yes, "do it (default: only print what would be done)");
  verb.add_option("--state", arguments.state, "where the previous drivers are recorded")
      .value_name("FOLDER")
      .show_default();
}

void add_bind(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<BindArguments>();
  const Verb verb = add_verb(
      parent, plan, "bind", "take functions from their drivers and bind them to vfio-pci",
      "outboard pci bind 0000:01:00.0 --yes", [arguments](Context& context) { return bind(*arguments, context); },
      DefaultLog::warnings);
  add_common(verb, *arguments);
  verb.add_flag("--modprobe", arguments->modprobe, "load the driver's module first");
  verb.add_option("--driver", arguments->driver,
                  "vfio-pci (default), or a variant driver that this kernel has for the device")
      .value_name("NAME");
  verb.add_flag("--no-iommu", arguments->no_iommu,
                "allow a device without an IOMMU: its driver can then read and write all memory");
}

void add_unbind(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<BindArguments>();
  const Verb verb = add_verb(
      parent, plan, "unbind", "return functions to their previous drivers", "outboard pci unbind 0000:01:00.0 --yes",
      [arguments](Context& context) { return unbind(*arguments, context); }, DefaultLog::warnings);
  add_common(verb, *arguments);
}

void add_list(const Verb& parent, Plan& plan) {
  const auto json = std::make_shared<bool>(false);
  const Verb verb =
      add_verb(parent, plan, "list", "list the functions: driver, IOMMU group, and whether each can be used",
               "outboard pci list --json", [json](Context&) -> Result<Exit> {
                 OUTBOARD_TRY(const auto functions, pci_functions({}));
                 const PciNames names = PciNames::load();
                 OUTBOARD_CHECK(print(*json ? pci_json(functions, names) : pci_text(functions, names)));
                 return Exit::done;
               });
  verb.add_flag("--json", *json, "as JSON");
}

}  // namespace

void add_pci(const Verb& parent, Plan& plan) {
  const Verb verb = parent.add_group(
      "pci", "PCI functions of this machine: list, bind, unbind",
      "Drivers in user space need a function that is bound to vfio-pci: `bind` binds it, `unbind` returns it to its\n"
      "previous driver. Without --yes both only print what they would do.\n\n"
      "Example:\n  outboard pci list\n");
  add_list(verb, plan);
  add_bind(verb, plan);
  add_unbind(verb, plan);
}

}  // namespace outboard::command
