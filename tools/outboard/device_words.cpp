#include <tools/outboard/device_words.hpp>

namespace outboard::command {

void add_word(CLI::App& verb, const OptionHelp& word, OptionSet& words, const std::string& group) {
  const auto set = [&words, &word](std::optional<std::string> value) {
    if (auto done = words.set(std::string(word.name), std::move(value)); !done)
      throw CLI::ValidationError(done.error().message());
  };
  const std::string name = "--" + std::string(word.name), summary(word.summary);
  CLI::Option* option = nullptr;
  if (word.value.empty()) {
    option = verb.add_flag_callback(name, [set] { set(std::nullopt); }, summary);
  } else {
    option = verb.add_option_function<std::string>(name, set, summary)->type_name(std::string(word.value));
  }
  option->group(group);
}

}  // namespace outboard::command
