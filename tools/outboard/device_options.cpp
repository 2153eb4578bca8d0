#include <tools/outboard/device_options.hpp>

namespace outboard::command {

void add_option_to(const Verb& verb, const OptionHelp& option, OptionSet& set, const std::string& group) {
  const auto take = [&set, &option](std::optional<std::string> value) {
    return set.set(std::string(option.name), std::move(value));
  };
  const std::string name = "--" + std::string(option.name), summary(option.summary);
  if (option.value.empty()) {
    verb.add_flag(name, [take] { return take(std::nullopt); }, summary).group(group);
  } else {
    verb.add_option(name, take, summary).value_name(std::string(option.value)).group(group);
  }
}

}  // namespace outboard::command
