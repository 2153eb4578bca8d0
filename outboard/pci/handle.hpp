#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/pci/migration.hpp>
#include <outboard/pci/register.hpp>

namespace outboard::pci {

class Handle;

/// Typed access to configuration space, on every back end. Every access can fail, since the function may be on the other end
/// of a socket. A view: cheap to copy; the handle must outlive it.
class ConfigView {
 public:
  explicit ConfigView(Handle& handle) : handle_(&handle) {}

  template <typename R>
  Result<R> read() const {
    return read_at<R>(R::offset);
  }
  /// A register of a capability: `base` is the offset of the capability.
  template <typename R>
  Result<R> read_at(ConfigOffset at) const;
  template <typename R>
  Status write(R value) const {
    return write_at(R::offset, value);
  }
  template <typename R>
  Status write_at(ConfigOffset at, R value) const;

 private:
  Handle* handle_;
};

/// A mapped part of a BAR: plain memory accesses, without errors or calls. After a revoke (see Handle::gone()) reads give
/// all-ones, and writes have no effect, though a read of the same place may return what was written.
/// The handle must outlive it. Offsets are checked when it is made; those of read() and write() are the caller's to check.
class Window {
 public:
  Window() = default;
  Window(volatile std::byte* at, std::uint64_t size) : at_(at), size_(size) {}

  std::uint64_t size() const { return size_; }
  explicit operator bool() const { return at_ != nullptr; }
  /// The address of a register, for keeping it (a doorbell).
  volatile std::byte* data() const { return at_; }

  /// A little-endian register at a naturally aligned offset < size().
  template <typename T>
  T read(std::uint64_t offset) const {
    return EndianInteger<T, std::endian::little>::from_stored(*reinterpret_cast<const volatile T*>(at_ + offset));
  }
  template <typename T>
  void write(std::uint64_t offset, T value) const {
    *reinterpret_cast<volatile T*>(at_ + offset) = EndianInteger<T, std::endian::little>(value).stored();
  }

 private:
  volatile std::byte* at_ = nullptr;
  std::uint64_t size_ = 0;
};

/// One BAR. A view, like ConfigView.
class Bar {
 public:
  Bar(Handle& handle, unsigned index, std::uint64_t size) : handle_(&handle), index_(index), size_(size) {}

  unsigned index() const { return index_; }
  std::uint64_t size() const { return size_; }

  /// A little-endian register of 8, 16, 32 or 64 bits. EINVAL: beyond the BAR. Other errors: those of the back end.
  template <typename T>
  Result<T> read(std::uint64_t offset) const;
  template <typename T>
  Status write(std::uint64_t offset, T value) const;
  /// ENOTSUP: the range cannot be mapped, or not all of it; use read() and write().
  Result<Window> window(std::uint64_t offset, std::uint64_t length) const;

 private:
  Handle* handle_;
  unsigned index_;
  std::uint64_t size_;
};

struct Capability {
  std::uint16_t id = 0;
  ConfigOffset offset{};
  std::uint8_t version = 0;  ///< extended capabilities only
  bool extended = false;
};

/// The identity of a function, from its type 0 header.
struct Identity {
  std::uint16_t vendor = 0, device = 0;
  std::uint16_t subsystem_vendor = 0, subsystem = 0;
  std::uint32_t class_code = 0;  ///< base class, subclass and interface: 24 bits
  std::uint8_t revision = 0;
};

/// The interrupts that a driver has enabled: one eventfd for each vector. The destructor disables the interrupts.
/// Move-only. The handle must outlive it.
class InterruptSet {
 public:
  InterruptSet() = default;
  ~InterruptSet() { reset(); }
  InterruptSet(InterruptSet&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), kind_(other.kind_), vectors_(std::move(other.vectors_)) {}
  InterruptSet& operator=(InterruptSet&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, nullptr);
      kind_ = other.kind_;
      vectors_ = std::move(other.vectors_);
    }
    return *this;
  }

  InterruptKind kind() const { return kind_; }
  unsigned count() const { return static_cast<unsigned>(vectors_.size()); }
  /// Readable when the vector has been signalled; drain() it. index < count().
  const EventFd& vector(unsigned index) const { return vectors_[index]; }
  /// INTx is masked when it is delivered: call this when the device has been served. Does nothing for the other kinds.
  Status unmask();
  void reset();

 private:
  friend class Handle;
  InterruptSet(Handle& handle, InterruptKind kind, std::vector<EventFd> vectors)
      : handle_(&handle), kind_(kind), vectors_(std::move(vectors)) {}
  Handle* handle_ = nullptr;
  InterruptKind kind_ = InterruptKind::intx;
  std::vector<EventFd> vectors_;
};

/// The registers of configuration space that the library restores after a reset.
struct SavedConfig {
  std::uint16_t command = 0;
  std::array<std::uint32_t, 7> bases{};  ///< the six BARs and the expansion ROM
  struct Control {
    ConfigOffset at{};
    std::uint16_t value = 0;
  };
  std::vector<Control> message_controls;  ///< of MSI and MSI-X
};

/// Events of a function that is driven.
///
///   unplug_requested  the function is to be unbound or unplugged, or its server is ending. It still works. The owner ends its
///                     I/O and calls Handle::revoke(), or destroys the handle. May be repeated.
///   error             the function or the bus has reported an error; the state of the function is unknown. Call reset().
///   low_power_entry   the function is in low power: its registers cannot be accessed.
///   low_power_exit    the function is awake, with its state restored.
///   gone              the back end has gone; every call fails. Raised once.
enum class Event : std::uint8_t { unplug_requested, error, low_power_entry, low_power_exit, gone };

/// A PCI function that is driven, by kernel VFIO, by a vfio-user socket, or in this process. The contract is the same on each;
/// ENOTSUP: the back end cannot do it. One thread at a time, except that windows may be accessed from any thread as long as the
/// handle lives, also while it is being revoked.
/// A call may block (a register access across a process boundary, a reset), but always has a timeout.
class Handle {
 public:
  Handle() = default;
  virtual ~Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  /// Its name for messages: "vfio-user:/run/blk.sock".
  virtual std::string name() const = 0;
  /// The NUMA node that it is attached to, if that is known.
  virtual std::optional<int> numa_node() const { return std::nullopt; }

  virtual Result<RegionInfo> region(unsigned index) = 0;
  virtual Result<InterruptInfo> interrupts(InterruptKind kind) = 0;
  /// Checks bounds (EINVAL) before anything is sent. An access of 1, 2, 4 or 8 bytes at its natural alignment reaches the
  /// device as one access of that width.
  virtual Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) = 0;
  virtual Status write_region(unsigned region, std::uint64_t offset, Bytes from) = 0;
  /// A posted write: ordered before later accesses; its failure is not reported. Default: write_region().
  virtual Status post_write(unsigned region, std::uint64_t offset, Bytes from) {
    return write_region(region, offset, from);
  }
  /// See Bar::window.
  virtual Result<Window> map_window(unsigned region, std::uint64_t offset, std::uint64_t length) = 0;
  /// The doorbells that an eventfd rings, if any. The handle owns the descriptors.
  virtual Result<std::vector<IoEventFd>> io_eventfds(unsigned /*region*/) { return std::vector<IoEventFd>{}; }

  virtual memory::DmaSpace& dma() = 0;
  /// Maps memory at given I/O addresses, for re-exporting the function to a client that chooses the addresses. These mappings
  /// and those of dma() share one address space (EEXIST), so use one or the other.
  virtual memory::DmaMapper& dma_mapper() = 0;

  /// Whether the function has a way to be reset.
  virtual bool resettable() const { return true; }
  /// Returns the device to its power-on state, then restores what the library keeps: Command (decoding, bus mastering), the
  /// BARs, and the enable bits of MSI and MSI-X. Eventfds stay bound, DMA memory stays mapped, windows stay valid. The driver
  /// must set up its device again. ENOTSUP: the function has no way to be reset.
  virtual Status reset() = 0;
  /// Puts the function into low power, as far as the back end can; its driver must have quiesced it. Until exit_low_power(),
  /// register accesses fail or read as all-ones, also through windows (never SIGBUS). Raises Event::low_power_entry. ENOTSUP:
  /// it has no low power. EALREADY: it is in low power.
  virtual Status enter_low_power();
  /// Wakes the function and restores what reset() restores. Raises Event::low_power_exit. Does nothing if it is awake.
  virtual Status exit_low_power();

  /// Handles messages from the other side (events, DMA messages) on an event loop. Without it, they are handled while a call
  /// waits, and by process().
  virtual Status attach(Loop& loop) = 0;
  /// Leaves the loop of attach(). Call it before the loop is destroyed if the handle outlives the loop.
  virtual void detach() {}
  /// Readable when process() has something to do; -1: never.
  virtual int fd() const { return -1; }
  virtual Status process() { return {}; }
  /// Sets the handler of events. process(), the loop of attach() and the calls that cause an event call it. It may call
  /// revoke(), set another handler, and destroy the handle; the event's other handling then ends there. There is one handler;
  /// without one, an unplug request is answered by revoke(), so that the kernel or the server does not wait for ever.
  void on_event(std::move_only_function<void(Event)> handler) { event_handler_ = shared(std::move(handler)); }
  /// Sets a second handler of Event::gone, for a driver that does not own the handle. It is called after the handler of
  /// on_event(), unless that one has destroyed the handle.
  void on_gone(std::move_only_function<void()> handler) { gone_handler_ = shared(std::move(handler)); }

  /// Releases the function, in this order: ends DMA and interrupts, makes windows read as all-ones, releases the back end (to
  /// the kernel or the server). Every further call fails with ENODEV. DMA buffers stay memory of this process. Raises
  /// Event::gone before it returns; a second call does nothing.
  virtual void revoke() = 0;
  /// The back end has gone for good; every further call fails.
  virtual bool gone() const = 0;

  /// How the function is moved to another process; null: the back end cannot. It belongs to the handle.
  virtual Migration* migration() { return nullptr; }

  // For re-exporting the function: interrupts with the caller's eventfds, as those of pci::Function. Do not combine them with
  // enable_interrupts(), which uses them.

  /// Binds one eventfd to each vector from `start`; an invalid EventFd binds none. The eventfds may be closed afterwards.
  /// ENOSPC: the machine has fewer vectors; nothing is enabled, and interrupts() returns their number from now on. With any
  /// other error either the earlier bindings stay or nothing is bound.
  virtual Status bind_interrupts(InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) = 0;
  /// INTx only: each signal of `eventfd` is an unmask; an invalid one ends that. ENOTSUP: call unmask_interrupts.
  virtual Status bind_unmask(const EventFd& eventfd);
  /// Unbinds everything of this kind. Succeeds if nothing is bound.
  virtual Status disable_interrupts(InterruptKind kind) = 0;
  /// ENOTTY where the kind is not maskable.
  virtual Status mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count);
  virtual Status unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) = 0;
  /// Signals what is bound, as if the device had raised it.
  virtual Status trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count);

  // Implemented with the calls above, for every back end.

  ConfigView config() { return ConfigView(*this); }
  /// ENODEV: the function does not answer.
  Result<Identity> identity();
  /// ENODEV: the function does not implement this BAR.
  Result<Bar> bar(unsigned index);
  /// Standard and extended capabilities, in list order. EPROTO: a list loops or points outside its space. ENODEV: the function
  /// reads as all-ones.
  Result<std::vector<Capability>> capabilities();
  /// The first capability with this id, if any.
  Result<std::optional<Capability>> find_capability(std::uint16_t id, bool extended = false);
  /// 0: no such capability. Never more vectors than can be enabled.
  Result<unsigned> msix_vector_count();
  Result<unsigned> msi_vector_count();
  /// Enables `count` (> 0) vectors, each with an eventfd of its own, and sets the enable bit of the kind in configuration
  /// space (a back end that does that itself drops the write). ENOSPC: the function has fewer (nothing is enabled).
  /// EBUSY: a set is enabled already. With any other error nothing is enabled either.
  Result<InterruptSet> enable_interrupts(InterruptKind kind, unsigned count);
  /// Enables as many of the `wanted` (> 0) vectors as there are. InterruptSet::count() is that number; 0 if the function has
  /// none of this kind. Errors as above, except ENOSPC.
  Result<InterruptSet> enable_interrupts_up_to(InterruptKind kind, unsigned wanted);
  /// Enables DMA, MSI and memory decoding.
  Status enable_bus_master();
  Status disable_bus_master();
  /// Enables memory decoding without DMA. Needed after a power-on, before the first access to a BAR.
  Status enable_memory();

 protected:
  friend class InterruptSet;
  /// Calls the handlers. false: a handler has destroyed the handle, which must not be touched any more.
  bool raise(Event event);
  /// For reset() and similar calls: saves and restores configuration space around `interruption`.
  Status keep_config_across(const std::function<Status()>& interruption);

 private:
  Status set_command(std::uint16_t clear, std::uint16_t set);
  Status set_message_control(std::uint16_t capability, std::uint16_t clear, std::uint16_t set);
  Result<unsigned> usable_vectors(InterruptKind kind, unsigned advertised);
  Status enable_in_config(InterruptKind kind, unsigned count);
  Status disable_in_config(InterruptKind kind);
  Status end_interrupts(InterruptKind kind);
  Result<SavedConfig> save_config();
  Status restore_config(const SavedConfig& saved);
  Status set_power_state(std::uint16_t state);
  Status append_standard_capabilities(std::vector<Capability>& list);
  Status append_extended_capabilities(std::vector<Capability>& list);

  template <typename Handler>
  static std::shared_ptr<Handler> shared(Handler handler) {
    return handler ? std::make_shared<Handler>(std::move(handler)) : nullptr;
  }

  // Shared with the raise() that runs them: a handler outlives its being replaced, and the handle, until it returns.
  std::shared_ptr<std::move_only_function<void(Event)>> event_handler_;
  std::shared_ptr<std::move_only_function<void()>> gone_handler_;
  std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);  ///< expires with the handle
  std::optional<SavedConfig> asleep_with_;  ///< what configuration space held when it was put to sleep
  std::optional<InterruptKind> enabled_;
};

template <typename R>
Result<R> ConfigView::read_at(ConfigOffset at) const {
  EndianInteger<typename R::value_type, std::endian::little> stored;
  if (auto read = handle_->read_region(region::config, raw(at), as_writable_bytes_of(stored)); !read)
    return read.error();
  return R(stored);
}

template <typename R>
Status ConfigView::write_at(ConfigOffset at, R value) const {
  const EndianInteger<typename R::value_type, std::endian::little> stored(value.value());
  return handle_->write_region(region::config, raw(at), as_bytes_of(stored));
}

template <typename T>
Result<T> Bar::read(std::uint64_t offset) const {
  EndianInteger<T, std::endian::little> stored;
  if (auto read = handle_->read_region(index_, offset, as_writable_bytes_of(stored)); !read) return read.error();
  return T{stored};
}

template <typename T>
Status Bar::write(std::uint64_t offset, T value) const {
  const EndianInteger<T, std::endian::little> stored(value);
  return handle_->write_region(index_, offset, as_bytes_of(stored));
}

}  // namespace outboard::pci
