#pragma once

#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>

namespace outboard::vfio_user {

struct ConnectOptions {
  Duration timeout{std::chrono::seconds(5)};  ///< for the server to accept
  Duration wait{0};                           ///< for a server to appear
};

/// A connection to whoever listens at `path`. ENOENT, ECONNREFUSED: nobody; EPROTOTYPE: another kind of socket;
/// EACCES; ETIMEDOUT. With what would mend it.
Result<UniqueFd> connect_socket(const std::string& path, const ConnectOptions& options);

/// "process 4711 (outboard) of user 0", or "somebody".
std::string describe_peer(const UniqueFd& socket);

/// An error from the first messages, as a person who named `path` can use it.
Error explain_refusal(const Error& error, const std::string& path, const std::string& server);

}  // namespace outboard::vfio_user
