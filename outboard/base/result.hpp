#pragma once

#include <cerrno>
#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace outboard {

/// What went wrong: an errno value (a protocol reply may need it), what was being done, to what, and the cure if it is known.
/// A Result without an error costs one pointer pair. Immutable once built; may be copied between threads.
class Error {
 public:
  /// `code` is a positive errno value; 0 or a negative value becomes EIO, so that an error is never taken for success.
  explicit Error(int code, std::string what = {});

  /// The current value of errno, with its text appended to `what`. Call it before anything that may change errno.
  static Error from_errno(std::string what);

  /// The thing that the operation was about (a path, a target, a device); printed first.
  [[nodiscard]] Error on(std::string subject) &&;
  /// What a person can do about it; printed on a separate line.
  [[nodiscard]] Error cure(std::string text) &&;
  /// Puts `context` in front of what went wrong: "opening the image: Permission denied".
  [[nodiscard]] Error while_doing(std::string_view context) &&;

  int code() const { return detail_->code; }
  const std::string& what() const { return detail_->what; }
  const std::string& subject() const { return detail_->subject; }
  const std::string& cure() const { return detail_->cure; }

  /// One line: "subject: what". The cure is not part of it.
  std::string message() const;

  /// An Error is returned as it is from a function that returns a Result.
  template <typename T>
  operator std::expected<T, Error>() const {  // NOLINT(google-explicit-constructor)
    return std::unexpected(*this);
  }

 private:
  struct Detail {
    int code;
    std::string what;
    std::string subject;
    std::string cure;
  };
  explicit Error(Detail detail) : detail_(std::make_shared<const Detail>(std::move(detail))) {}

  std::shared_ptr<const Detail> detail_;
};

/// A value, or the Error that prevented it.
template <typename T>
using Result = std::expected<T, Error>;

using Status = Result<void>;

}  // namespace outboard

#define OUTBOARD_CONCAT_(a, b) a##b
#define OUTBOARD_CONCAT(a, b) OUTBOARD_CONCAT_(a, b)

/// `OUTBOARD_TRY(auto fd, open(path));` declares fd, or returns the error of open.
#define OUTBOARD_TRY(declaration, expression) \
  OUTBOARD_TRY_(declaration, expression, OUTBOARD_CONCAT(outboard_try_, __LINE__))
#define OUTBOARD_TRY_(declaration, expression, temporary)                   \
  auto temporary = (expression);                                            \
  if (!temporary) return ::std::unexpected(::std::move(temporary).error()); \
  declaration = ::std::move(*temporary)

/// `OUTBOARD_CHECK(write(x));` returns the error of an expression whose value is not needed.
#define OUTBOARD_CHECK(expression) \
  if (auto outboard_check = (expression); !outboard_check) return ::std::unexpected(::std::move(outboard_check).error())
