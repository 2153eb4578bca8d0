#include <outboard/vfio_user/internal/server_connection.hpp>

#include <algorithm>

namespace outboard::vfio_user {
namespace {

Capabilities our_capabilities(const Client::Options& options) {
  return {.max_msg_fds = spec::kernel_max_fds, .write_multiple = true, .twin_socket = options.twin_socket};
}

Requests::Options request_options(const Client::Options& options) {
  return {
      .channel = {.max_message = sizeof(spec::Header) + sizeof(spec::RegionAccess) + spec::default_max_data_xfer_size,
                  .max_fds = spec::kernel_max_fds},
      .timeout = options.timeout,
      .on_timeout = options.on_timeout == Client::OnTimeout::end ? Requests::OnTimeout::end : Requests::OnTimeout::stay,
      .spin = options.spin};
}

}  // namespace

ServerConnection::ServerConnection(UniqueFd socket, std::string name, Client::Options options, Callbacks callbacks)
    : options_(std::move(options)),
      name_(std::move(name)),
      callbacks_(std::move(callbacks)),
      requests_(std::make_unique<Requests>(std::move(socket), request_options(options_), Requests::Server(), nullptr,
                                           nullptr)) {
  receive_calls();
}

void ServerConnection::receive_calls() {
  requests_->call([this](const Message& command, Channel& channel) { return callbacks_.serve(command, channel); },
                  [this] {
                    if (callbacks_.ended) callbacks_.ended();
                  },
                  [this] {
                    if (callbacks_.backlog) callbacks_.backlog();
                  });
}

void ServerConnection::trade_places(ServerConnection& other) {
  std::swap(name_, other.name_);
  std::swap(requests_, other.requests_);
  std::swap(description_, other.description_);
  receive_calls();
  other.receive_calls();
}

Status ServerConnection::start() {
  OUTBOARD_TRY(description_.server, negotiate(*requests_, our_capabilities(options_)));
  if (description_.server.write_multiple) requests_->merge_writes();
  return discover(*requests_, description_, options_.log);
}

std::uint64_t ServerConnection::max_transfer() const {
  return std::min(description_.server.max_data_xfer_size, spec::default_max_data_xfer_size);
}

Status ServerConnection::may_wait() const {
  if (in_handler_) return named(Error(EDEADLK, "a call from inside an event handler would wait for itself"));
  if (requests_->broken()) return named(*requests_->broken());
  return {};
}

Status ServerConnection::ask_named(const Requests::Request& request) {
  OUTBOARD_CHECK(may_wait());
  if (auto done = ask(*requests_, request); !done) return named(done.error());
  return {};
}

}  // namespace outboard::vfio_user
