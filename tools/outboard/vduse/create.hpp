#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

#include <outboard/base/result.hpp>
#include <tools/outboard/plan.hpp>

namespace outboard::command {

/// Who is to have a file. What is not set stays as it is.
struct Owner {
  std::optional<uid_t> user;
  std::optional<gid_t> group;
};

/// USER, USER:GROUP or :GROUP, by name or by number. EINVAL: there is no such user or group.
Result<Owner> parse_owner(std::string_view text);

/// `vduse create`.
void add_vduse_create(const Verb& parent, Plan& plan);

}  // namespace outboard::command
