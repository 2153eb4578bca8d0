#include <outboard/base/result.hpp>

#include <system_error>

namespace outboard {

Error::Error(int code, std::string what) : Error(Detail{code > 0 ? code : EIO, std::move(what), {}, {}}) {
  if (detail_->what.empty()) {
    detail_ =
        std::make_shared<const Detail>(Detail{detail_->code, std::generic_category().message(detail_->code), {}, {}});
  }
}

Error Error::from_errno(std::string what) {
  const int code = errno;
  Error error(code, std::move(what) + ": " + std::generic_category().message(code));
  // Wherever it happens, one thing helps.
  if (code == EMFILE)
    return std::move(error).cure("raise the limit of open files: ulimit -n, or LimitNOFILE= of a unit");
  return error;
}

Error Error::on(std::string subject) && {
  Detail detail = *detail_;
  detail.subject = std::move(subject);
  return Error(std::move(detail));
}

Error Error::cure(std::string text) && {
  Detail detail = *detail_;
  detail.cure = std::move(text);
  return Error(std::move(detail));
}

Error Error::while_doing(std::string_view context) && {
  Detail detail = *detail_;
  detail.what = std::string(context) + ": " + detail.what;
  return Error(std::move(detail));
}

std::string Error::message() const {
  return detail_->subject.empty() ? detail_->what : detail_->subject + ": " + detail_->what;
}

}  // namespace outboard
