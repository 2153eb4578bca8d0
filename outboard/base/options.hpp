#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard {

/// An option, as help shows it.
struct OptionHelp {
  std::string_view name;     ///< "queue-size"
  std::string_view value;    ///< "N", "FILE"; empty: a flag ("read-only")
  std::string_view summary;  ///< one line
};

/// A size as people write it: digits and, perhaps, K, M, G or T (powers of 1024; "KiB" and so on too). EINVAL; ERANGE
/// beyond 2^64.
Result<std::uint64_t> parse_size(std::string_view text);

/// The options that configure something: `image=disk.raw,queues=2,read-only` in a target, `--image disk.raw --queues 2
/// --read-only` on a command line. Getters convert the values; the subject of every error is the option, as typed(). A getter
/// marks its option as used, so that finish() can refuse an unused one. One thread at a time.
class OptionSet {
 public:
  /// How the options were typed, for messages.
  enum class Syntax : std::uint8_t {
    target,  ///< image=disk.raw,read-only
    command_line,  ///< --image disk.raw --read-only
  };
  explicit OptionSet(Syntax syntax = Syntax::target) : syntax_(syntax) {}

  /// An option as it is typed in this syntax: "image=FILE", "--image FILE", "--read-only".
  std::string typed(std::string_view name, std::string_view value = {}) const;

  /// Parses options separated by commas; a comma in a value is doubled, as in QEMU. EINVAL: an empty or repeated option.
  static Result<OptionSet> parse(std::string_view text);

  /// Adds an option. EINVAL: it is there already, or has no name.
  Status set(std::string name, std::optional<std::string> value);

  bool has(std::string_view name) const { return find(name) != nullptr; }

  /// The getters return `otherwise` if the option is absent. EINVAL: the value is missing or of another kind.
  Result<std::string> text(std::string_view name, std::string otherwise);
  /// A decimal or 0x-hexadecimal number; ERANGE outside [min, max].
  Result<std::uint64_t> number(std::string_view name, std::uint64_t otherwise, std::uint64_t min, std::uint64_t max);
  /// A size in bytes: see parse_size.
  Result<std::uint64_t> size(std::string_view name, std::uint64_t otherwise);
  /// True for the name alone and for =on, =yes, =true; false for =off, =no, =false.
  Result<bool> flag(std::string_view name, bool otherwise);
  /// One of `choices`; the error lists them.
  Result<std::string_view> choice(std::string_view name, std::span<const std::string_view> choices,
                                  std::string_view otherwise);

  /// Removes an option and returns its value. Nothing if it is absent.
  std::optional<std::optional<std::string>> take(std::string_view name);

  /// EINVAL: an option that none of the lists has; the cure names all that they have.
  Status check_known(std::initializer_list<std::span<const OptionHelp>> known) const;
  /// EINVAL: an option that no getter has asked for; the cure lists `known`.
  Status finish(std::span<const OptionHelp> known) const;

 private:
  struct Entry {
    std::string name;
    std::optional<std::string> value;
    bool used = false;
  };
  const Entry* find(std::string_view name) const;
  Entry* use(std::string_view name);
  Result<std::string_view> value_of(const Entry& entry) const;
  Error refused(std::string_view name, int code, std::string why) const;
  std::string used_ones() const;  ///< as a list

  Syntax syntax_;
  std::vector<Entry> entries_;
};

}  // namespace outboard
