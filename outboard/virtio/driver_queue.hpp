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
  memory::Iova address{};  ///< an address for the device, in memory of Transport::dma()
  std::uint32_t length = 0;  ///< bytes
};

/// The driver's side of a virtqueue, split or packed. One thread at a time. All that the device writes is checked before it is
/// used; free lists, lengths and ids are in private memory.
class DriverQueue {
 public:
  /// Options of create().
  struct Options {
    std::uint16_t size = 256;  ///< at most the device's maximum; split: rounded down to a power of two
    std::optional<unsigned> vector{};  ///< interrupt vector, if any; see vector()
    bool indirect = true;  ///< use indirect tables for long chains if INDIRECT_DESC was negotiated
    /// The longest chain that the driver submits through an indirect table, in elements; at most `size`.
    std::uint16_t max_elements = 64;
    /// A chain of at most so many elements goes into the ring itself, not into an indirect table, while at least half of the
    /// ring stays free: the device then fetches one cache line less. 1: every chain of several elements goes into a table.
    std::uint16_t direct_elements = 4;
  };

  /// A buffer that the device has used.
  struct Used {
    void* cookie = nullptr;  ///< the argument of add()
    std::uint32_t length = 0;  ///< never more than the writable bytes of the buffer
  };

  /// Allocates the rings from the transport's DmaSpace and enables the queue. `features`: the negotiated features. Interrupts
  /// are disabled until enable_interrupts(). ENOENT: the device has no such queue. Other errors: those of the transport.
  static Result<DriverQueue> create(Transport& transport, unsigned index, const Features& features,
                                    const Options& options);
  /// The other queue may only be assigned to or destroyed afterwards.
  DriverQueue(DriverQueue&&) noexcept;
  /// As above; the queue that this object was is destroyed first.
  DriverQueue& operator=(DriverQueue&&) noexcept;
  /// Frees the memory of the rings. The device or the queue must have been reset before, or never started.
  ~DriverQueue();

  std::uint16_t size() const;  ///< entries
  unsigned index() const;  ///< the number of the queue in the device
  /// The interrupt vector of the queue: Options::vector; or vector 0, shared, if the device refused that; or none: the driver
  /// must poll.
  std::optional<unsigned> vector() const;
  std::uint16_t in_flight() const;  ///< the number of buffers in flight
  /// Whether add() of a buffer with `elements` elements would succeed now.
  bool has_room(std::size_t elements) const;

  /// Adds a buffer; the device sees it only after publish(). next_used() returns `cookie` with it. EAGAIN: the ring is full.
  /// EINVAL: no element, an element of length 0, more elements than the queue can ever take, or more than 2^32 bytes. EIO: the
  /// queue is broken. Allocates no memory, except for the text of EINVAL.
  Status add(std::span<const Element> readable, std::span<const Element> writable, void* cookie);
  /// Makes the added buffers available, and rings the doorbell if the device wants a notification. Returns whether it was rung.
  bool publish();

  /// The next used buffer; nullopt: there is none. EPROTO: the device has used a buffer that is not in flight. The queue is
  /// broken then: every further call fails, and DMA memory must not be reused before the device is reset.
  Result<std::optional<Used>> next_used();

  /// Enables interrupts for used buffers. Returns true if there are used buffers already: take them with next_used() first, as
  /// they may cause no interrupt.
  bool enable_interrupts();
  /// Disables interrupts. This is a hint: the device may still send one (VIRTIO 1.4, 2.7.7.1).
  void disable_interrupts();

  /// Whether the device has broken a rule of the ring. Then reset it and call take_in_flight().
  bool broken() const;
  /// How often the device gave a used length that exceeds the writable bytes of the buffer. Such lengths are reduced.
  std::uint64_t clamped_lengths() const;
  /// The cookies of all buffers in flight, in the order of add(). Call it only after a reset of the device or the queue. The
  /// queue counts as broken afterwards.
  std::vector<void*> take_in_flight();

 private:
  struct State;
  explicit DriverQueue(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::virtio
