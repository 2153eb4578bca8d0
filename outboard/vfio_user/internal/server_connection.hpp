#pragma once

#include <memory>
#include <optional>
#include <string>

#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/internal/discovery.hpp>
#include <outboard/vfio_user/internal/requests.hpp>

namespace outboard::vfio_user {

/// A client's connection: its requests, what the server has said of itself and of the function, and whose name errors carry.
/// One thread.
class ServerConnection {
 public:
  /// Called by Requests: to serve a command of the server's, when the connection has ended, and when something waits for the
  /// socket to take it.
  struct Callbacks {
    Requests::Server serve;
    std::move_only_function<void()> ended;
    std::move_only_function<void()> backlog;
  };

  ServerConnection(UniqueFd socket, std::string name, Client::Options options, Callbacks callbacks);

  ServerConnection(const ServerConnection&) = delete;
  ServerConnection& operator=(const ServerConnection&) = delete;

  /// Negotiates VERSION and asks for the function's description. Errors as negotiate() and discover().
  Status start();

  const std::string& name() const { return name_; }
  const Client::Options& options() const { return options_; }
  Requests& requests() { return *requests_; }
  const Requests& requests() const { return *requests_; }
  const Description& description() const { return description_; }
  /// What the server takes.
  const Capabilities& server() const { return description_.server; }
  /// Bytes of one region access.
  std::uint64_t max_transfer() const;
  bool gone() const { return requests_->broken().has_value(); }

  Error named(const Error& error) const { return Error(error).on(name_); }
  /// What keeps a call from waiting for the server: EDEADLK inside an event handler, or what ended the connection.
  Status may_wait() const;
  /// For a command whose reply says nothing: asks and waits, where that is possible.
  Status ask_named(const Requests::Request& request);

  /// Each becomes a connection to the other's server; the callbacks stay.
  void trade_places(ServerConnection& other);

  /// An event handler runs: it must not wait for the server.
  void enter_handler() { in_handler_ = true; }
  void leave_handler() { in_handler_ = false; }
  bool in_handler() const { return in_handler_; }

 private:
  void receive_calls();

  Client::Options options_;
  std::string name_;
  Callbacks callbacks_;
  std::unique_ptr<Requests> requests_;
  Description description_;
  bool in_handler_ = false;
};

}  // namespace outboard::vfio_user
