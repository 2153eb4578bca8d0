#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include <outboard/pci/handle.hpp>

namespace outboard::pci {

/// A register type that says where it lies in a BAR: `static constexpr std::uint64_t offset`.
template <typename R>
concept BarRegister = requires {
  typename R::value_type;
  requires std::same_as<std::remove_cv_t<decltype(R::offset)>, std::uint64_t>;
};

/// A register of a BAR by its type, on every back end: one access of its width. As Bar::read.
template <BarRegister R>
Result<R> read_register(const Bar& bar) {
  OUTBOARD_TRY(const auto value, bar.read<typename R::value_type>(R::offset));
  return R(value);
}
template <BarRegister R>
Status write_register(const Bar& bar, R value) {
  return bar.write(R::offset, value.value());
}

/// Registers of a mapped BAR, by their types. That they lie inside what is mapped is checked once, when it is made, and that
/// they are naturally aligned, and are among those that were named, when it is compiled: what remains of an access is one
/// load or store at a constant distance, the same machine code as of a volatile access (tests/drivers/codegen).
///
///   using Doorbells = pci::RegisterWindow<SubmissionTail, CompletionHead>;
///   const auto doorbells = Doorbells::map(bar);       // Result
///   doorbells->write(SubmissionTail(tail));
///
/// As Window: no error, all-ones after a revoke, not longer-lived than the handle. Any thread.
template <BarRegister... Registers>
class RegisterWindow {
 public:
  static constexpr std::uint64_t first = std::min({Registers::offset...});
  static constexpr std::uint64_t end = std::max({Registers::offset + sizeof(typename Registers::value_type)...});
  static_assert(((Registers::offset % sizeof(typename Registers::value_type) == 0) && ...), "naturally aligned");

  /// EINVAL: the BAR is too small. ENOTSUP: its registers are not mapped; read and write them by calls.
  static Result<RegisterWindow> map(const Bar& bar) {
    OUTBOARD_TRY(const Window window, bar.window(first, end - first));
    return RegisterWindow(window);
  }

  /// Over a window that begins where the first register lies, and has all of them.
  static Result<RegisterWindow> over(const Window& window) {
    if (window.size() < end - first) return Error(EINVAL, "the window has no room for these registers");
    return RegisterWindow(window);
  }

  template <BarRegister R>
    requires(std::same_as<R, Registers> || ...)
  R read() const {
    return R(window_.template read<typename R::value_type>(R::offset - first));
  }
  template <BarRegister R>
    requires(std::same_as<R, Registers> || ...)
  void write(R value) const {
    window_.template write<typename R::value_type>(R::offset - first, value.value());
  }

 private:
  explicit RegisterWindow(const Window& window) : window_(window) {}
  Window window_;
};

}  // namespace outboard::pci
