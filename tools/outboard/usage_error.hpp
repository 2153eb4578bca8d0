#pragma once

#include <string>

#include <outboard/base/result.hpp>

namespace outboard::command {

/// Makes a usage error of one that is about a word of the command line.
Error as_usage_error(const Error& error);
/// Wrong usage, exit status 2. So is an error whose subject is an option: a value that it does not take ("--queues: 300 is ...").
Error usage_error(std::string what, std::string cure = {});
bool is_usage_error(const Error& error);

}  // namespace outboard::command
