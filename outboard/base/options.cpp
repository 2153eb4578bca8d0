#include <outboard/base/options.hpp>

#include <algorithm>
#include <charconv>

#include <outboard/base/bytes.hpp>

namespace outboard {

namespace {

/// The number that is the whole of `text`, in `base`.
Result<std::uint64_t> whole_number(std::string_view text, int base) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error == std::errc::result_out_of_range) return Error(ERANGE, "the number is too large");
  if (error != std::errc{} || end != text.data() + text.size()) return Error(EINVAL, "not a number");
  return value;
}

std::optional<unsigned> shift_of(std::string_view suffix) {
  if (suffix.empty() || suffix == "B") return 0;
  static constexpr std::string_view letters = "KMGT";
  const std::size_t index = letters.find(static_cast<char>(suffix[0] & ~0x20));
  const std::string_view rest = suffix.substr(1);
  if (index == std::string_view::npos || !(rest.empty() || rest == "iB" || rest == "B")) return std::nullopt;
  return static_cast<unsigned>(10 * (index + 1));
}

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto shift = shift_of(text.substr(digits));
  if (digits == 0 || !shift) return Error(EINVAL, "'" + std::string(text) + "' is not a size (512, 64K, 10M, 4G)");
  OUTBOARD_TRY(const auto count, whole_number(text.substr(0, digits), 10));
  const auto bytes = checked_multiply(count, UINT64_C(1) << *shift);
  if (!bytes) return Error(ERANGE, "'" + std::string(text) + "' is too large");
  return *bytes;
}

std::string OptionSet::typed(std::string_view name, std::string_view value) const {
  const bool in_target = syntax_ == Syntax::target;
  std::string text = (in_target ? "" : "--") + std::string(name);
  if (!value.empty()) text += (in_target ? "=" : " ") + std::string(value);
  return text;
}

Error OptionSet::refused(std::string_view name, int code, std::string why) const {
  return Error(code, std::move(why)).on(typed(name));
}

Result<OptionSet> OptionSet::parse(std::string_view text) {
  OptionSet options;
  std::string word;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    const bool comma = i < text.size() && text[i] == ',';
    if (comma && i + 1 < text.size() && text[i + 1] == ',') {
      word += ',';
      ++i;
    } else if (comma || i == text.size()) {
      if (word.empty() && text.empty()) break;
      const std::size_t equals = word.find('=');
      std::optional<std::string> value;
      if (equals != std::string::npos) value = word.substr(equals + 1);
      OUTBOARD_CHECK(options.set(word.substr(0, equals), std::move(value)));
      word.clear();
    } else {
      word += text[i];
    }
  }
  return options;
}

Status OptionSet::set(std::string name, std::optional<std::string> value) {
  if (name.empty()) return Error(EINVAL, "an option has no name");
  if (has(name)) return refused(name, EINVAL, "given twice");
  entries_.push_back({std::move(name), std::move(value), false});
  return {};
}

const OptionSet::Entry* OptionSet::find(std::string_view name) const {
  const auto word = std::ranges::find(entries_, name, &Entry::name);
  return word == entries_.end() ? nullptr : &*word;
}

OptionSet::Entry* OptionSet::use(std::string_view name) {
  const auto word = std::ranges::find(entries_, name, &Entry::name);
  if (word == entries_.end()) return nullptr;
  word->used = true;
  return &*word;
}

Result<std::string_view> OptionSet::value_of(const Entry& word) const {
  if (!word.value || word.value->empty())
    return refused(word.name, EINVAL, "a value is missing").cure(typed(word.name, "VALUE"));
  return *word.value;
}

Result<std::string> OptionSet::text(std::string_view name, std::string otherwise) {
  const Entry* word = use(name);
  if (word == nullptr) return otherwise;
  OUTBOARD_TRY(const auto value, value_of(*word));
  return std::string(value);
}

Result<std::uint64_t> OptionSet::number(std::string_view name, std::uint64_t otherwise, std::uint64_t min,
                                        std::uint64_t max) {
  const Entry* word = use(name);
  if (word == nullptr) return otherwise;
  OUTBOARD_TRY(const auto value, value_of(*word));
  const bool hexadecimal = value.starts_with("0x");
  const auto number = whole_number(hexadecimal ? value.substr(2) : value, hexadecimal ? 16 : 10);
  if (!number && number.error().code() == EINVAL) return refused(name, EINVAL, quoted(value) + " is not a number");
  if (!number || *number < min || *number > max)
    return refused(name, ERANGE,
                   std::string(value) + " is not between " + std::to_string(min) + " and " + std::to_string(max));
  return *number;
}

Result<std::uint64_t> OptionSet::size(std::string_view name, std::uint64_t otherwise) {
  const Entry* word = use(name);
  if (word == nullptr) return otherwise;
  OUTBOARD_TRY(const auto value, value_of(*word));
  auto bytes = parse_size(value);
  if (!bytes) return Error(bytes.error()).on(typed(name));
  return *bytes;
}

Result<bool> OptionSet::flag(std::string_view name, bool otherwise) {
  const Entry* word = use(name);
  if (word == nullptr) return otherwise;
  if (!word->value || word->value == "on" || word->value == "yes" || word->value == "true") return true;
  if (word->value == "off" || word->value == "no" || word->value == "false") return false;
  return refused(name, EINVAL, quoted(*word->value) + " is neither on nor off");
}

Result<std::string_view> OptionSet::choice(std::string_view name, std::span<const std::string_view> choices,
                                           std::string_view otherwise) {
  const Entry* word = use(name);
  if (word == nullptr) return otherwise;
  OUTBOARD_TRY(const auto value, value_of(*word));
  if (const auto found = std::ranges::find(choices, value); found != choices.end()) return *found;
  std::string list;
  for (const auto choice : choices) list += (list.empty() ? "" : ", ") + std::string(choice);
  return refused(name, EINVAL, quoted(value) + " is not one of " + list);
}

std::optional<std::optional<std::string>> OptionSet::take(std::string_view name) {
  const auto word = std::ranges::find(entries_, name, &Entry::name);
  if (word == entries_.end()) return std::nullopt;
  auto value = std::move(word->value);
  entries_.erase(word);
  return value;
}

std::string OptionSet::used_ones() const {
  std::string list;
  for (const Entry& entry : entries_) {
    if (entry.used) list += (list.empty() ? "" : ", ") + typed(entry.name);
  }
  return list.empty() ? "the other options" : list;
}

Status OptionSet::finish(std::span<const OptionHelp> known) const {
  const auto left = std::ranges::find(entries_, false, &Entry::used);
  if (left == entries_.end()) return {};
  if (const auto misplaced = std::ranges::find(known, left->name, &OptionHelp::name); misplaced != known.end())
    return refused(left->name, EINVAL, "has no use beside " + used_ones())
        .cure("leave it out; it is: " + std::string(misplaced->summary));
  std::string list;
  for (const auto& option : known) list += (list.empty() ? "" : ", ") + std::string(option.name);
  return refused(left->name, EINVAL, "unknown option").cure(list.empty() ? "there are no options" : "options: " + list);
}

Status OptionSet::check_known(std::initializer_list<std::span<const OptionHelp>> known) const {
  std::vector<std::string_view> names;
  for (const auto list : known) {
    for (const auto& option : list) names.push_back(option.name);
  }
  const auto is_unknown = [&names](const Entry& entry) { return std::ranges::find(names, entry.name) == names.end(); };
  const auto unknown = std::ranges::find_if(entries_, is_unknown);
  if (unknown == entries_.end()) return {};
  std::string list;
  for (const auto name : names) list += (list.empty() ? "" : ", ") + std::string(name);
  return refused(unknown->name, EINVAL, "unknown option")
      .cure(list.empty() ? "there are no options" : "options: " + list);
}

}  // namespace outboard
