#pragma once

#include <functional>
#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>

namespace outboard::vfio_user {

/// Waits between two attempts; false: give up.
using Pause = std::function<bool(Duration)>;

struct ConnectOptions {
  Duration timeout{std::chrono::seconds(5)};  ///< for the server to accept
  Duration wait{0};                           ///< for a server to appear
  Pause pause{};                              ///< by default pause_thread() (base/internal/wait.hpp)
};

/// Calls `attempt` until it succeeds, fails for good, or `wait` is over. For good means anything but ENOENT and ECONNREFUSED:
/// there is no socket yet, or no server listens on it. The time between attempts grows from 5 to 250 ms. ECANCELED: `pause`
/// says to give up.
Status retry_while_starting(Duration wait, const Pause& pause, const std::function<Status()>& attempt);

/// Connects to the server at `path`. ENOENT, ECONNREFUSED: no server listens there; EPROTOTYPE: another kind of socket; EACCES;
/// ETIMEDOUT; ECANCELED: `pause` says to give up. Errors name the cure.
Result<UniqueFd> connect_socket(const std::string& path, const ConnectOptions& options);

/// "process 4711 (outboard) of user 0", or "somebody".
std::string describe_peer(const UniqueFd& socket);

/// Explains an error of the first messages to the person who gave `path`.
Error explain_refusal(const Error& error, const std::string& path, const std::string& server);

}  // namespace outboard::vfio_user
