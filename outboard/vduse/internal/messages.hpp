#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include <outboard/base/bytes.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::vduse {

/// The payload of a request, copied out.
template <typename Payload>
Payload payload_of(const spec::Request& request) {
  static_assert(sizeof(Payload) <= sizeof request.payload);
  Payload payload;
  std::memcpy(&payload, request.payload.data(), sizeof payload);
  return payload;
}

/// The kernel's messages about one device: each is handled and answered before the next one is read, and answered exactly once.
/// Control loop.
class Messages {
 public:
  struct Handlers {
    /// A message has been read; answer() has to be called with its ID, from here or later.
    std::function<void(const spec::Request&)> message{};
    /// The kernel has given the device up, or its node cannot be read or watched: no message comes any more.
    std::function<void(const Error& why)> lost{};
  };
  Messages(Loop& control, Log log, Handlers handlers);

  /// Reads what waits in the kernel without handling it. For a device whose server has died: what that had read and not answered
  /// comes again. What Node::read says.
  Status read_ahead(Node& node);
  /// Read, and not handled yet.
  const std::deque<spec::Request>& pending() const { return pending_; }

  /// Handles the messages of `node` from now on. What Loop::watch says.
  Status listen(Node& node);
  /// Handles those that are pending, from the loop.
  void handle_pending();
  /// Reads no more messages. One that has been read may still be answered.
  void stop_reading() { watch_.reset(); }
  /// Forgets the message that is not answered yet, and those that are pending.
  void drop();
  /// The node is not used any more.
  void disconnect();

  // While a message is being handled.
  /// Ignored if the message has been answered before, when its time was over.
  void answer(std::uint32_t id, std::uint32_t result, Bytes payload = {});
  /// What takes back the effect of the message if the kernel says that nobody waits for the answer any more. The kernel goes on
  /// then as if the message had been refused.
  void undo_with(std::function<void()> undo) { undo_ = std::move(undo); }
  /// Calls `late` if the message has not been answered by then.
  void answer_within(Duration time, std::function<void()> late) { deadline_ = control_.after(time, std::move(late)); }

 private:
  void handle(Ready ready);
  /// The next message, pending or from the kernel. Nothing: there is none, or the device is lost, which has been told.
  std::optional<spec::Request> next(Ready ready);

  Loop& control_;
  Log log_;
  Handlers handlers_;
  Node* node_ = nullptr;
  Registration watch_;
  Registration deadline_;  ///< of the message that is being handled
  std::deque<spec::Request> pending_;
  std::optional<std::uint32_t> unanswered_;  ///< the ID of the message that is being handled
  std::function<void()> undo_;
  std::shared_ptr<Messages*> self_;  ///< what a task holds weakly
};

}  // namespace outboard::vduse
