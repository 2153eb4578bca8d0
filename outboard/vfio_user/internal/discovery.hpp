#pragma once

#include <array>
#include <optional>

#include <outboard/base/log.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/internal/negotiation.hpp>
#include <outboard/vfio_user/internal/requests.hpp>

namespace outboard::vfio_user {

/// What a server says of itself and of its function.
struct Description {
  struct Region {
    pci::RegionInfo info;
    UniqueFd fd;
    std::optional<Error> refused;  ///< why the server's description of the region is not accepted
  };

  Capabilities server;
  bool resettable = false;
  std::array<Region, pci::region::count> regions;
  std::array<pci::InterruptInfo, pci::interrupt_kind_count> interrupts{};
};

/// Negotiates VERSION; returns the server's capabilities. EPROTO: another protocol, another version, impossible limits.
Result<Capabilities> negotiate(Requests& requests, const Capabilities& ours);

/// Asks for the device, its regions and its interrupts, all at once. EPROTO: not a PCI function, or impossible counts. A region
/// with a bad description is refused alone (Description::Region::refused).
Status discover(Requests& requests, Description& description, const Log& log);

/// Asks and waits: `on_reply` (Requests::Reply&) -> Status is called with the reply.
template <typename OnReply>
Status ask(Requests& requests, const Requests::Request& request, OnReply&& on_reply) {
  struct Context {
    OnReply& on_reply;
    Status result;
    bool done = false;
  } context{on_reply, {}, false};
  requests.start(request, [&context](Result<Requests::Reply> reply) {
    context.result = reply ? context.on_reply(*reply) : Status(reply.error());
    context.done = true;
  });
  requests.wait(context.done);
  return context.result;
}

/// For a command whose reply has no content.
Status ask(Requests& requests, const Requests::Request& request);

/// Requests that are outstanding together; all replies are waited for at the end.
class Batch {
 public:
  explicit Batch(Requests& requests) : requests_(requests) {}
  ~Batch() { wait(); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  /// `on_reply` (Result<Requests::Reply>) -> void; must stay valid until wait().
  void add(const Requests::Request& request, Requests::Completion on_reply);
  void wait();

 private:
  Requests& requests_;
  std::size_t left_ = 0;
  bool done_ = true;
};

}  // namespace outboard::vfio_user
