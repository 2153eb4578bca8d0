// A driver's queue against a device that writes whatever it likes, wherever it can: used entries, indices, descriptors,
// event structures, its own and the driver's. Whatever comes, the driver returns only what it was given, each buffer once,
// with no more bytes than it has room for; or says that the queue is broken, for good.
//
// Input: a byte of features (1 packed, 2 event index, 4 in order, 8 indirect, 16 notification data), a byte of size, then
// steps: a byte (low three bits what, see Step) and its operands.

#include <cstdint>
#include <cstring>
#include <map>
#include <span>

#include <outboard/testing/fake_transport.hpp>
#include <outboard/testing/hand_device.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include "input.hpp"

namespace {

using namespace outboard;
using fuzz::Input;
using fuzz::require;

class Game {
 public:
  explicit Game(Input& input) : input_(input) {
    const std::uint32_t bits = input.number(1);
    const std::uint32_t size = 1 + input.number(1) % 32;
    packed_ = (bits & 1) != 0;
    virtio::Features features{virtio::Feature::version_1};
    const virtio::Feature each[] = {virtio::Feature::ring_packed, virtio::Feature::event_idx, virtio::Feature::in_order,
                                    virtio::Feature::indirect_desc, virtio::Feature::notification_data};
    for (unsigned i = 0; i < std::size(each); ++i)
      if ((bits >> i & 1) != 0) features.set(each[i]);
    const auto wanted = static_cast<std::uint16_t>(size);
    queue_.emplace(
        virtio::DriverQueue::create(transport_, 0, features, {.size = wanted, .direct_elements = 2}).value());
    device_.emplace(transport_, 0, packed_);
  }

  void play() {
    while (!input_.empty()) step();
    // Nothing hangs at the end: what is used is taken, or the queue is broken.
    for (unsigned i = 0; i <= given_.size() + 1 && take(); ++i) {
    }
    require(queue_->in_flight() == given_.size(), "buffers in flight");
    require(queue_->take_in_flight().size() == given_.size(), "cookies of what is in flight");
  }

 private:
  enum Step : std::uint8_t { submit, take_some, arm, use_right, use_any, write_anywhere, disarm, write_index };

  void step() {
    switch (static_cast<Step>(input_.number(1) & 7)) {
      case submit:
        return add(input_.number(1));
      case take_some:
        take();
        return;
      case arm:
        queue_->enable_interrupts();
        return;
      case use_right:
        return use_oldest();
      case use_any: {
        const std::uint32_t id = input_.number(packed_ ? 2 : 4), length = input_.number(4);
        return device_->use(id, length, input_.number(1) % device_->size());
      }
      case write_anywhere:
        return scribble();
      case disarm:
        queue_->disable_interrupts();
        return;
      case write_index:
        if (!packed_) device_->set_used_index(static_cast<std::uint16_t>(input_.number(2)));
        return;
    }
  }

  /// Bits 0-1 and 2-3: elements each way; bit 7: published later.
  void add(std::uint32_t shape) {
    const std::vector<virtio::Element> in(shape & 3, {memory::Iova{0x1000}, 7}),
        out(shape >> 2 & 3, {memory::Iova{0x2000}, 9});
    const std::uintptr_t cookie = next_++;
    if (queue_->add(in, out, reinterpret_cast<void*>(cookie)))
      given_[cookie] = 9 * static_cast<std::uint32_t>(out.size());
    if ((shape & 0x80) == 0) queue_->publish();
  }

  /// The ids are guessed as the driver is known to hand them out.
  void use_oldest() {
    const std::uint32_t id = input_.number(1) % device_->size(), slots = input_.number(1) % 4 + 1;
    device_->use(id, input_.number(1), packed_ ? slots % (device_->size() + 1U) : 1);
  }

  void scribble() {
    const std::uint32_t where = input_.number(2), value = input_.number(2);
    const auto part = static_cast<virtio::RingPart>(where % 3);
    std::byte* const parts[] = {device_->descriptors(), device_->driver_area(), device_->device_area()};
    const std::size_t size = virtio::ring_part(packed_, part, device_->size()).size;
    const le16 stored = static_cast<std::uint16_t>(value);
    std::memcpy(parts[where % 3] + where / 3 % (size / 2) * 2, &stored, 2);
  }

  bool take() {
    const bool was_broken = queue_->broken();
    const auto used = queue_->next_used();
    require(!was_broken || !used, "a broken queue stays broken");
    if (!used || !*used) return false;
    const auto found = given_.find(reinterpret_cast<std::uintptr_t>((*used)->cookie));
    require(found != given_.end(), "a buffer that was not given, or comes again");
    require((*used)->length <= found->second, "more bytes than there is room for");
    given_.erase(found);
    return true;
  }

  Input& input_;
  bool packed_ = false;
  testing::FakeTransport transport_;
  std::optional<virtio::DriverQueue> queue_;
  std::optional<testing::HandDevice> device_;
  std::map<std::uintptr_t, std::uint32_t> given_;  ///< to the writable bytes of each
  std::uintptr_t next_ = 1;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Game(input).play();
  return 0;
}
