#include <tools/outboard/doctor/doctor.hpp>

#include <fmt/format.h>

#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/verbs.hpp>

namespace outboard::command {

namespace {

std::string as_text(const std::vector<Finding>& findings) {
  std::string text;
  for (const auto& finding : findings) {
    text += fmt::format("{:<8} {:<18} {} ({})\n", name_of(finding.state), finding.name, finding.detail, finding.use);
    if (!finding.cure.empty()) text += fmt::format("{:<8} {:<18}   to fix it: {}\n", "", "", finding.cure);
  }
  return text;
}

std::string as_json(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const auto& finding : findings)
    list.push_back({{"name", finding.name},
                    {"state", name_of(finding.state)},
                    {"use", finding.use},
                    {"detail", finding.detail},
                    {"cure", finding.cure}});
  return Json({{"findings", list}}).text();
}

}  // namespace

void add_doctor(const Verb& parent, Plan& plan) {
  const auto json = std::make_shared<bool>(false);
  const Verb verb = add_verb(parent, plan, "doctor", "check what this machine can do, and how to fix the rest",
                             "outboard doctor", [json](Context&) -> Result<Exit> {
                               const auto findings = examine();
                               OUTBOARD_CHECK(print(*json ? as_json(findings) : as_text(findings)));
                               return Exit::done;
                             });
  verb.add_flag("--json", *json, "as JSON");
}

}  // namespace outboard::command
