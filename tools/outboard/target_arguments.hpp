#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/targets/target.hpp>
#include <tools/outboard/plan.hpp>
#include <tools/outboard/verb.hpp>

namespace outboard::command {

/// The argument TARGET (or an option of another name) and the option --wait.
struct TargetArguments {
  std::string target;
  double wait_seconds = 0;
  /// After a signal: how long to wait for a call that hangs or a device that does not answer.
  Duration end_timeout = std::chrono::seconds(10);

  void add_to(const Verb& verb, const std::string& name = "TARGET");
  /// If opening hangs (on the image of a local device, for example), the process ends `end_timeout` after a signal.
  Result<std::unique_ptr<pci::Handle>> open(Context& context, targets::Purpose purpose = targets::Purpose::drive) const;
  /// Adds the target's name to an error without a subject.
  Result<Exit> name_in(Result<Exit> result) const;
};

}  // namespace outboard::command
