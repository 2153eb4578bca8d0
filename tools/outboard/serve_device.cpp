#include <tools/outboard/serve_device.hpp>

#include <outboard/targets/service.hpp>
#include <outboard/targets/transport_words.hpp>
#include <tools/outboard/device_words.hpp>

namespace outboard::command {

void add_device_words(CLI::App& verb, ServeArguments& arguments, bool on_vduse) {
  const auto& entry = *arguments.entry;
  for (const auto& word : entry.options()) add_word(verb, word, arguments.words, "The device");
  const bool is_virtio = entry.type != nullptr;
  for (const auto& word : is_virtio ? targets::transport_words() : targets::function_words())
    add_word(verb, word, arguments.words, "How it is run");
  if (!is_virtio || !on_vduse) return;
  for (const auto& word : targets::vduse_words()) add_word(verb, word, arguments.words, "On vduse:NAME");
}

Result<Exit> serve_device(const ServeArguments& arguments, const std::string& example, Context& context) {
  const auto& [entry, words, place] = arguments;
  OUTBOARD_TRY(auto socket, place.socket(example));
  place.bound_start(entry->name, context);
  OUTBOARD_TRY(const auto service,
               targets::serve(*entry, words, place.listener, place.options(context, std::move(socket))));
  return place.run(*service, entry->name, context);
}

}  // namespace outboard::command
