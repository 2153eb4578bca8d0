#include <tools/outboard/target_arguments.hpp>

#include <algorithm>
#include <cerrno>

#include <outboard/base/options.hpp>
#include <outboard/pci/address.hpp>
#include <outboard/targets/device_table.hpp>
#include <tools/outboard/end_verdict.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/usage_error.hpp>

namespace outboard::command {

namespace {

/// Whether an error is about the text of a target, and not about the thing that it names.
bool is_about_text(const targets::Address& target, const Error& error) {
  if (target.scheme == "vfio-user" || (error.code() != EINVAL && error.code() != ERANGE)) return false;
  const auto local = targets::parse_local(target.rest);
  if (!local) return true;
  const std::string option = error.subject().substr(0, error.subject().find(','));
  if (local->options.has(option)) return true;
  if (target.scheme == "vfio") return !pci::Address::parse(local->device);
  const auto device = targets::find_device(local->device);
  // A missing option is about the text too.
  if (!device) return true;
  const auto known = (*device)->options();
  return std::ranges::find(known, option, &OptionHelp::name) != known.end();
}

}  // namespace

void TargetArguments::add_to(const Verb& verb, const std::string& name) {
  verb.add_option(name, target, "vfio:ADDRESS, vfio-user:PATH, or local:DEVICE,OPTION=VALUE,...")
      .required()
      .value_name(name == "TARGET" ? "TEXT" : "TARGET");
  verb.add_seconds("--wait", wait_seconds, 0, "retry for so long while the server is starting (default 0)");
}

Result<std::unique_ptr<pci::Handle>> TargetArguments::open(Context& context, targets::Purpose purpose) const {
  const auto address = targets::parse_address(target, "target", targets::target_schemes());
  if (!address) return as_usage_error(address.error());
  targets::OpenOptions options;
  options.purpose = purpose;
  options.log = context.log;
  options.wait = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(wait_seconds));
  options.pause = [&stop = context.stop](Duration time) { return stop.pause(time); };
  const auto say = [name = target] {
    print_error(Error(ETIMEDOUT, "ending although the device has not been opened").on(name));
  };
  bound_end(context.stop, StopSignal::Start::at_signal, end_timeout, say);
  auto handle = targets::open(target, options);
  context.stop.unbound();
  if (!handle && is_about_text(*address, handle.error())) return as_usage_error(handle.error());
  if (!handle) return handle;
  // In every verb: when the device is to be unplugged, finish the requests in flight and give it back.
  (*handle)->on_event([&stop = context.stop, name = (*handle)->name()](pci::Event event) {
    // Other events show up as calls that fail. The request may come again before the verb has ended.
    if (event != pci::Event::unplug_requested || stop.requested()) return;
    print_error(Error(ECANCELED, "the device is to be unplugged: ending, as with Ctrl-C").on(name));
    stop.request();
  });
  return handle;
}

Result<Exit> TargetArguments::name_in(Result<Exit> result) const {
  if (result || !result.error().subject().empty() || is_usage_error(result.error())) return result;
  return Error(result.error()).on(target);
}

}  // namespace outboard::command
