#include <outboard/vduse/server.hpp>

#include <utility>

#include <outboard/vduse/internal/server_state.hpp>

namespace outboard::vduse {

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() = default;
Server::Server(Server&&) noexcept = default;
Server& Server::operator=(Server&&) noexcept = default;

Result<Server> Server::create(DeviceFactory factory, Options options) {
  auto state = std::make_unique<State>(std::move(options));
  OUTBOARD_CHECK(state->prepare(factory));
  return Server(std::move(state));
}

Status Server::run(std::function<Status()> ready) { return state_->run(std::move(ready)); }
void Server::stop() { state_->stop_event.signal(); }
Loop& Server::loop() { return *state_->own; }
virtio::Device& Server::device() { return state_->exported->device(); }

std::string Server::made() const {
  const auto child = state_->bus.child(state_->options.name);
  if (!child) return {};
  return child->made.empty() ? child->name : child->made;
}

}  // namespace outboard::vduse
