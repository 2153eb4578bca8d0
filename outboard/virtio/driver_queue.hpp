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
  memory::Iova address{};  ///< as the device is to see it: from Transport::dma()
  std::uint32_t length = 0;  ///< bytes
};

/// The driver's side of a virtqueue, split or packed. One thread at a time. Nothing that the device writes is used before
/// it has been checked; free lists, lengths and ids live in private memory.
class DriverQueue {
 public:
  /// How a driver wants its queue.
  struct Options {
    std::uint16_t size = 256;  ///< at most the device's maximum; split: rounded down to a power of two
    std::optional<unsigned> vector{};  ///< interrupt vector, if any; see vector()
    bool indirect = true;  ///< use indirect tables where negotiated and worth it
    std::uint16_t max_elements =
        64;  ///< longest chain the driver will submit through an indirect table, at most `size`
    /// A chain up to this long goes into the ring itself as long as that leaves half of the ring free: one cache line less
    /// for the device to fetch. 1 puts every longer one into a table.
    std::uint16_t direct_elements = 4;
  };

  /// A buffer that the device has used.
  struct Used {
    void* cookie = nullptr;  ///< what add() was given
    std::uint32_t length = 0;  ///< never more than the writable bytes of the buffer
  };

  /// Allocates the rings from the transport's DmaSpace and enables the queue. `features`: what was negotiated. Interrupts
  /// are not asked for until enable_interrupts(). ENOENT: the device has no such queue; or what the transport says.
  static Result<DriverQueue> create(Transport& transport, unsigned index, const Features& features,
                                    const Options& options);
  /// The other one is good for nothing afterwards but to be assigned to or destroyed.
  DriverQueue(DriverQueue&&) noexcept;
  /// As above; what this one was is destroyed.
  DriverQueue& operator=(DriverQueue&&) noexcept;
  /// Gives the memory of the rings back: the device must have been reset (or the queue), or never started.
  ~DriverQueue();

  std::uint16_t size() const;  ///< entries
  unsigned index() const;  ///< the number of the queue, as the device counts
  /// The vector that the device has tied to the queue: the one asked for; or vector 0, shared, where that was refused; or
  /// none, and then the driver polls.
  std::optional<unsigned> vector() const;
  std::uint16_t in_flight() const;  ///< buffers
  /// Whether add() of so many elements would find room now.
  bool has_room(std::size_t elements) const;

  /// Adds a buffer; the device does not see it before publish(). `cookie` comes back with it.
  /// EAGAIN: no room now. EINVAL: no element, an empty one, more than fits at all, or more than 2^32 bytes. EIO: the queue
  /// is broken. Nothing is allocated, whatever the answer (but for EINVAL's).
  Status add(std::span<const Element> readable, std::span<const Element> writable, void* cookie);
  /// Makes what was added available, and tells the device if it wants to be told. Returns whether the doorbell was rung.
  bool publish();

  /// The next used buffer; nullopt when there is none. EPROTO: the device returned something it was not given: the queue is
  /// broken, every further call fails, and DMA memory must not be reused before the device is reset.
  Result<std::optional<Used>> next_used();

  /// Asks for an interrupt when more is used. Returns true when something is there already: handle it first.
  bool enable_interrupts();
  /// A hint: the device may send one nevertheless (VIRTIO 1.4, 2.7.7.1).
  void disable_interrupts();

  /// Whether the device has broken a rule of the ring: reset it, then take_in_flight().
  bool broken() const;
  /// How often the device claimed to have written more than a buffer has room for. Such lengths are cut.
  std::uint64_t clamped_lengths() const;
  /// The cookies of all buffers still in flight, in the order they were added. After a device or queue reset only; the
  /// queue is of no further use and counts as broken.
  std::vector<void*> take_in_flight();

 private:
  struct State;
  explicit DriverQueue(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::virtio
