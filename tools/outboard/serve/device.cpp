#include <tools/outboard/serve/device.hpp>

#include <outboard/targets/service.hpp>
#include <outboard/targets/transport_options.hpp>
#include <tools/outboard/device_options.hpp>

namespace outboard::command {

void add_device_options(const Verb& verb, ServeArguments& arguments, bool with_vduse) {
  const auto& entry = *arguments.entry;
  for (const auto& option : entry.options()) add_option_to(verb, option, arguments.options, "The device");
  const bool is_virtio = entry.type != nullptr;
  for (const auto& option : is_virtio ? targets::transport_options() : targets::function_options())
    add_option_to(verb, option, arguments.options, "How it is run");
  if (!with_vduse) return;
  for (const auto& option : targets::vduse_options()) add_option_to(verb, option, arguments.options, "On vduse:NAME");
}

Result<Exit> serve_device(const ServeArguments& arguments, const std::string& example, Context& context) {
  const auto& [entry, set, place] = arguments;
  OUTBOARD_TRY(auto socket, place.socket(example));
  place.bound_start(entry->name, context);
  OUTBOARD_TRY(const auto service,
               targets::serve(*entry, set, place.listener, place.options(context, std::move(socket))));
  return place.run(*service, entry->name, context);
}

}  // namespace outboard::command
