#include <outboard/vduse/internal/node_caretaker.hpp>

#include <poll.h>

#include <cstring>

#include <outboard/base/internal/thread.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::vduse {
namespace {

namespace bit = virtio::spec::status;

/// What a device that does nothing can agree to.
bool accepts(const spec::Request& request) {
  switch (static_cast<spec::RequestType>(request.type)) {
    case spec::RequestType::set_status: {
      spec::StatusRequest payload{};
      std::memcpy(&payload, request.payload.data(), sizeof payload);
      // VDUSE-4: DRIVER_OK is never refused.
      return (payload.status & bit::features_ok) == 0 || (payload.status & bit::driver_ok) != 0;
    }
    case spec::RequestType::update_iotlb:  // nothing is mapped here
    case spec::RequestType::set_vq_ready:
      return true;
    default:
      return false;
  }
}

}  // namespace

Caretaker::Caretaker(std::unique_ptr<Node> node, EventFd end, Log log)
    : node_(std::move(node)), end_(std::move(end)), log_(std::move(log)) {}

Result<std::unique_ptr<Caretaker>> Caretaker::start(std::unique_ptr<Node> node, const Log& log) {
  OUTBOARD_TRY(auto end, EventFd::create());
  std::unique_ptr<Caretaker> caretaker(new Caretaker(std::move(node), std::move(end), log));
  OUTBOARD_TRY(caretaker->thread_, start_thread("the device's messages", [&one = *caretaker] { one.run(); }));
  return caretaker;
}

Caretaker::~Caretaker() {
  end_.signal();
  if (thread_.joinable()) thread_.join();
}

/// False: there is nothing left to answer for.
bool Caretaker::answer_all() {
  while (true) {
    const auto request = node_->read();
    if (!request) {
      log_.warning("{}", request.error().message());
      return false;
    }
    if (!*request) return true;
    spec::Response response{};
    response.request_id = (*request)->request_id;
    response.result = accepts(**request) ? spec::result::ok : spec::result::failed;
    if (const auto done = node_->reply(response); !done && done.error().code() != ENOENT) {
      log_.warning("{}", done.error().message());
      return false;
    }
  }
}

void Caretaker::run() {
  pollfd waited[] = {{node_->fd(), POLLIN, 0}, {end_.get(), POLLIN, 0}};
  while (::poll(waited, 2, -1) >= 0 || errno == EINTR) {
    if (waited[1].revents != 0) return;
    if ((waited[0].revents & (POLLERR | POLLHUP)) != 0 || !answer_all()) return;
  }
}

}  // namespace outboard::vduse
