#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard {

/// One word that a person may type, as help shows it.
struct OptionHelp {
  std::string_view name;     ///< "queue-size"
  std::string_view value;    ///< "N", "FILE"; empty: the word stands alone ("read-only")
  std::string_view summary;  ///< one line
};

/// A size as people write it: digits and, perhaps, K, M, G or T (powers of 1024; "KiB" and so on too). EINVAL; ERANGE
/// beyond 2^64.
Result<std::uint64_t> parse_size(std::string_view text);

/// The words that configure something: `image=disk.raw,queues=2,read-only` in a target, `--image disk.raw --queues 2
/// --read-only` on a command line. Typed getters; the subject of every error is the word (typed()). Each getter marks its
/// word as used, so that what nobody asked for can be refused (finish). One thread at a time.
class OptionSet {
 public:
  /// How a person has typed the words, for messages.
  enum class Syntax : std::uint8_t {
    words,  ///< image=disk.raw,read-only
    command_line,  ///< --image disk.raw --read-only
  };
  explicit OptionSet(Syntax syntax = Syntax::words) : syntax_(syntax) {}

  /// `name`, and `value` where one is meant, as a person types it: "image=FILE", "--image FILE", "--read-only".
  std::string typed(std::string_view name, std::string_view value = {}) const;

  /// Words separated by commas; a comma inside a value is doubled, as in QEMU. EINVAL: an empty or repeated word.
  static Result<OptionSet> parse(std::string_view text);

  /// Adds a word. EINVAL: it is there already, or has no name.
  Status set(std::string name, std::optional<std::string> value);

  bool has(std::string_view name) const { return find(name) != nullptr; }

  /// The getters give `otherwise` where the word is absent. EINVAL: the value is missing or is not of that kind.
  Result<std::string> text(std::string_view name, std::string otherwise);
  /// A decimal or 0x-hexadecimal number; ERANGE outside [lowest, highest].
  Result<std::uint64_t> number(std::string_view name, std::uint64_t otherwise, std::uint64_t lowest,
                               std::uint64_t highest);
  /// A size in bytes: see parse_size.
  Result<std::uint64_t> size(std::string_view name, std::uint64_t otherwise);
  /// True for the word alone and for =on, =yes, =true; false for =off, =no, =false.
  Result<bool> flag(std::string_view name, bool otherwise);
  /// One of `choices`; the error lists them.
  Result<std::string_view> choice(std::string_view name, std::span<const std::string_view> choices,
                                  std::string_view otherwise);

  /// Takes a word out, for a caller that handles it before the others see it.
  std::optional<std::optional<std::string>> take(std::string_view name);

  /// EINVAL when a word is left that no getter was asked for; the cure lists what `known` has.
  Status finish(std::span<const OptionHelp> known) const;

 private:
  struct Word {
    std::string name;
    std::optional<std::string> value;
    bool used = false;
  };
  const Word* find(std::string_view name) const;
  Word* use(std::string_view name);
  Result<std::string_view> value_of(const Word& word) const;
  Error refused(std::string_view name, int code, std::string why) const;

  Syntax syntax_;
  std::vector<Word> words_;
};

}  // namespace outboard
