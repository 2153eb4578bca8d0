#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <outboard/base/result.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/features.hpp>
#include <outboard/virtio/transport.hpp>

namespace outboard::virtio {

/// One element of a buffer: memory that the device can reach.
struct Element {
  memory::Iova address{};
  std::uint32_t length = 0;
};

/// The driver's side of a virtqueue, split or packed. One thread at a time. Nothing that the device writes is used before
/// it has been checked; free lists, lengths and ids live in private memory.
class DriverQueue {
 public:
  struct Options {
    std::uint16_t size = 256;          ///< at most the device's maximum; split: rounded down to a power of two
    std::optional<unsigned> vector{};  ///< interrupt vector, if any
    bool indirect = true;              ///< use indirect tables where negotiated and worth it
    std::uint16_t max_elements = 64;   ///< longest chain the driver will submit through an indirect table
  };

  /// A buffer that the device has used.
  struct Used {
    void* cookie = nullptr;
    std::uint32_t length = 0;    ///< never more than the writable bytes of the buffer
  };

  /// Allocates the rings from the transport's DmaSpace and enables the queue. `features`: what was negotiated.
  static Result<DriverQueue> create(Transport& transport, unsigned index, const Features& features, const Options& options);
  DriverQueue(DriverQueue&&) noexcept;
  DriverQueue& operator=(DriverQueue&&) noexcept;
  ~DriverQueue();

  std::uint16_t size() const;
  unsigned index() const;
  std::uint16_t in_flight() const;  ///< buffers
  bool has_room(std::size_t elements) const;

  /// Adds a buffer; the device does not see it before publish(). `cookie` comes back with it.
  /// EAGAIN: no room now. EINVAL: no element, more than fits at all, or more than 2^32 bytes. EIO: the queue is broken.
  Status add(std::span<const Element> readable, std::span<const Element> writable, void* cookie);
  /// Makes what was added available, and tells the device if it wants to be told. Returns whether the doorbell was rung.
  bool publish();

  /// The next used buffer; nullopt when there is none. EPROTO: the device returned something it was not given: the queue is
  /// broken, every further call fails, and DMA memory must not be reused before the device is reset.
  Result<std::optional<Used>> next_used();

  /// Asks for an interrupt when more is used. Returns true when something is there already: handle it first.
  bool enable_interrupts();
  void disable_interrupts();

  bool broken() const;
  /// The cookies of all buffers still in flight, and empties the queue. After a device or queue reset only.
  std::vector<void*> take_in_flight();

 private:
  struct State;
  explicit DriverQueue(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::virtio
