#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include <outboard/base/fd.hpp>
#include <outboard/targets/service.hpp>
#include <tools/outboard/command.hpp>

namespace outboard::command {

/// Where something is served, and who is told when it is: the options that every `outboard serve ...` has.
struct ServePlace {
  std::string listener;
  int fd = -1;
  int ready_fd = -1;
  double unplug_wait_seconds = 0;
  /// After a signal: how long the start may take, how long the loop may be away, and how long what the storage still has to do is waited for when nobody is
  /// served any more. Then the process ends.
  Duration end_patience = std::chrono::seconds(10);

  /// --listen (`what`: its help), --fd, --ready-fd, --unplug-wait.
  void add_to(CLI::App& verb, const std::string& what);
  /// The same as the back-end program conventions have it: --socket-path instead of --listen.
  void add_convention_to(CLI::App& app);
  /// A socket that listens already: of --fd, or of a service manager. None: `listener` says where. Without either a usage
  /// error, whose cure is `example`.
  Result<UniqueFd> socket(const std::string& example) const;
  /// What a service is made with, where `socket` is the one of above.
  targets::ServeOptions options(const Context& context, UniqueFd socket) const;
  /// Before the service is made: bounds the time that this takes from a signal on. Whatever does not wait in the library (a
  /// system call) does not hear the signal.
  void bound_start(std::string_view name, Context& context) const;
  /// Runs the service until it ends, or the signals say so; says on stdout and on --ready-fd that clients can connect.
  /// `name`: what is served.
  Result<Exit> run(targets::Service& service, std::string_view name, Context& context) const;

 private:
  void add_others_to(CLI::App& verb, CLI::Option* listen);
};

}  // namespace outboard::command
