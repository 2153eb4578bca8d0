#include <tools/outboard/doctor.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <tools/outboard/command.hpp>
#include <tools/outboard/text.hpp>

namespace outboard::command {

namespace {

std::string as_text(const std::vector<Finding>& findings) {
  std::string text;
  for (const auto& finding : findings) {
    text += fmt::format("{:<8} {:<14} {} ({})\n", name_of(finding.state), finding.name, finding.detail, finding.use);
    if (!finding.cure.empty()) text += fmt::format("{:<8} {:<14}   to mend it: {}\n", "", "", finding.cure);
  }
  return text;
}

std::string as_json(const std::vector<Finding>& findings) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& finding : findings)
    list.push_back({{"name", finding.name},
                    {"state", name_of(finding.state)},
                    {"use", finding.use},
                    {"detail", finding.detail},
                    {"cure", finding.cure}});
  return json_text({{"findings", list}});
}

}  // namespace

void add_doctor(CLI::App& app, Plan& plan) {
  const auto json = std::make_shared<bool>(false);
  CLI::App* verb = add_verb(app, plan, "doctor", "what this machine can do, and what to run to mend the rest",
                            "outboard doctor", [json](Context&) -> Result<Exit> {
                              const auto findings = examine();
                              OUTBOARD_CHECK(print(*json ? as_json(findings) : as_text(findings)));
                              return Exit::done;
                            });
  verb->add_flag("--json", *json, "as JSON");
}

}  // namespace outboard::command
