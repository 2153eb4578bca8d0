#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include <outboard/base/fd.hpp>
#include <outboard/targets/service.hpp>
#include <tools/outboard/plan.hpp>

namespace outboard::command {

/// The options of every `outboard serve ...` that say where to serve and whom to tell when the server is ready.
struct ServePlace {
  std::string listener;
  int fd = -1;
  int ready_fd = -1;
  double unplug_timeout_seconds = 0;
  vfio_user::AllowedPeers allowed;
  /// The process ends when, after a signal, one of these takes longer: the start, one call from the loop, or the requests that
  /// the storage still has to answer.
  Duration end_timeout = std::chrono::seconds(10);

  /// --listen (`what`: its help), --fd, --ready-fd, --unplug-wait, --allow-uid, --allow-gid.
  void add_to(const Verb& verb, const std::string& what);
  /// The same for the back-end program conventions: --socket-path instead of --listen.
  void add_convention_to(const Verb& parent);
  /// The listening socket of --fd or of a service manager. An empty one: `listener` says where to listen. Without any of them a
  /// usage error, whose cure is `example`.
  Result<UniqueFd> socket(const std::string& example) const;
  /// The options to make a service with. `socket` is the result of socket().
  targets::ServeOptions options(const Context& context, UniqueFd socket) const;
  /// Bounds the time, counted from a signal, that making the service may take. Call it before that: a system call that hangs does
  /// not notice the signal.
  void bound_start(std::string_view name, Context& context) const;
  /// Runs the service until it ends or a signal ends it. Tells on stdout and on --ready-fd when clients can connect.
  Result<Exit> run(targets::Service& service, std::string_view name, Context& context) const;

 private:
  void add_others_to(const Verb& verb, const Option& listen);
};

}  // namespace outboard::command
