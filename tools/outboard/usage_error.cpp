#include <tools/outboard/usage_error.hpp>

#include <cerrno>
#include <utility>

namespace outboard::command {

namespace {

/// No call of the library returns it, so it tells a usage error from the others.
constexpr int usage_code = EBADRQC;

}  // namespace

Error usage_error(std::string what, std::string cure) {
  return Error(usage_code, std::move(what)).cure(std::move(cure));
}

Error as_usage_error(const Error& error) { return usage_error(error.message(), error.cure()); }

bool is_usage_error(const Error& error) {
  const int code = error.code();
  const bool of_value = code == EINVAL || code == ERANGE || code == EBADF;
  return code == usage_code || (of_value && error.subject().starts_with("--"));
}

}  // namespace outboard::command
