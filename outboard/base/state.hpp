#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>
#include <outboard/base/result.hpp>

/// State that one process writes and another one reads, perhaps of another version of the program: a tree of sections, each
/// owned by the class whose state it is.
///
/// A section is a head (StateSection) and a body of fields, in the order that the owner documents, among which may be sections.
/// Integers are little-endian; nothing is padded. A version stands for one list of fields: to add a field, raise the version. A
/// reader takes older versions and refuses newer ones.
namespace outboard {

/// The name of a section, four characters: state_tag("MSIX").
enum class StateTag : std::uint32_t {};

constexpr StateTag state_tag(const char (&name)[5]) {
  std::uint32_t tag = 0;
  for (unsigned i = 0; i < 4; ++i) tag |= std::uint32_t{static_cast<unsigned char>(name[i])} << (8 * i);
  return StateTag{tag};
}

/// The head of a section.
struct StateSection {
  le32 tag;
  le16 version;
  le16 reserved;  ///< 0
  le32 length;  ///< bytes of the body
};
static_assert(sizeof(StateSection) == 12);

/// Builds a tree of sections. One thread.
class StateWriter {
 public:
  /// Larger states are refused, by writer and reader.
  static constexpr std::size_t max_size = std::size_t{64} << 20;

  /// A section that is being written; it ends with the object. Sections end in the reverse order of their beginnings.
  class Section {
   public:
    ~Section() { writer_.end_section(at_); }
    Section(const Section&) = delete;
    Section& operator=(const Section&) = delete;

   private:
    friend class StateWriter;
    Section(StateWriter& writer, std::size_t at) : writer_(writer), at_(at) {}
    StateWriter& writer_;
    std::size_t at_;  ///< of the head
  };
  [[nodiscard]] Section section(StateTag tag, std::uint16_t version);

  template <std::unsigned_integral T>
    requires(!std::same_as<T, bool>)
  void put(T value) {
    const EndianInteger<T, std::endian::little> field = value;
    append(as_bytes_of(field));
  }
  void put_flag(bool value) { put(std::uint8_t{value}); }
  /// A length of 32 bits, and the bytes.
  void put_bytes(Bytes bytes);

  /// Everything that was written. EFBIG: more than max_size.
  Result<std::vector<std::byte>> finish() &&;

 private:
  void append(Bytes bytes);
  void end_section(std::size_t at);

  std::vector<std::byte> bytes_;
  bool is_too_large_ = false;
};

/// Reads the body of one section, from front to back. The bytes are not trusted: each call
/// checks what it takes. EINVAL: they are not such a section; the error names the section. They outlive the reader. One thread.
class StateReader {
 public:
  /// A state that is one section and nothing else. EFBIG: it is larger than StateWriter::max_size. Otherwise as section().
  static Result<StateReader> open(Bytes state, StateTag tag, std::uint16_t max_version);

  /// Of this section: 1 to the `max_version` that was asked for.
  std::uint16_t version() const { return version_; }

  template <std::unsigned_integral T>
    requires(!std::same_as<T, bool>)
  Result<T> get() {
    const auto field = rest_.read<EndianInteger<T, std::endian::little>>();
    if (!field) return too_short();
    return static_cast<T>(*field);
  }
  /// EINVAL also for anything but 0 and 1.
  Result<bool> get_flag();
  /// Bytes with their length in front. EINVAL also where there are more than `max`.
  Result<Bytes> get_bytes(std::size_t max);
  /// The section that comes next. EINVAL: another one comes, or none. ENOTSUP: its version is newer than `max_version`.
  Result<StateReader> section(StateTag tag, std::uint16_t max_version);

  /// After the last field. EINVAL: more follows.
  Status end() const;

 private:
  StateReader(StateTag tag, std::uint16_t version, Bytes body) : tag_(tag), version_(version), rest_(body) {}
  static Result<StateReader> take(ByteReader& from, StateTag tag, std::uint16_t max_version);
  Error malformed(const std::string& what) const;
  Error too_short() const { return malformed("it is too short"); }

  StateTag tag_;
  std::uint16_t version_;
  ByteReader rest_;
};

}  // namespace outboard
