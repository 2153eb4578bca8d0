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
#include <outboard/pci/register.hpp>

namespace outboard::pci {

class Handle;

/// Typed access to configuration space. Works on every back end; every access can fail (the function may be on the other
/// end of a socket). A view: cheap to copy, not longer-lived than the handle.
class ConfigView {
 public:
  explicit ConfigView(Handle& handle) : handle_(&handle) {}

  template <typename R>
  Result<R> read() const {
    return read_at<R>(R::offset);
  }
  /// A register of a capability: `base` is where the capability lies.
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

/// A mapped piece of a BAR: plain accesses, no error, no call. After a revoke it reads all-ones (Handle::gone() tells), and
/// what is written reaches nobody, though a read of the same place may return it.
/// The handle must outlive it. Offsets are checked when it is made and, in `read`/`write`, by the caller.
class Window {
 public:
  Window() = default;
  Window(volatile std::byte* at, std::uint64_t size) : at_(at), size_(size) {}

  std::uint64_t size() const { return size_; }
  explicit operator bool() const { return at_ != nullptr; }
  /// For whoever has to keep one register's address (a doorbell).
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

  /// A little-endian register of 8, 16, 32 or 64 bits. EINVAL beyond the BAR; what the back end says otherwise.
  template <typename T>
  Result<T> read(std::uint64_t offset) const;
  template <typename T>
  Status write(std::uint64_t offset, T value) const;
  /// ENOTSUP where the range is not mapped (or not whole): use read and write.
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

/// What a function says it is: its type 0 header.
struct Identity {
  std::uint16_t vendor = 0, device = 0;
  std::uint16_t subsystem_vendor = 0, subsystem = 0;
  std::uint32_t class_code = 0;  ///< base class, subclass and interface: 24 bits
  std::uint8_t revision = 0;
};

/// The interrupts a driver has enabled: one eventfd for each vector. Owns the mode; destroying it disables the interrupts.
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
  /// Readable when the vector was signalled; drain() it. index < count().
  const EventFd& vector(unsigned index) const { return vectors_[index]; }
  /// INTx is masked on delivery: call when the device has been served. Does nothing for the other kinds.
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

/// The registers of configuration space that the library looks after across a reset.
struct SavedConfig {
  std::uint16_t command = 0;
  std::array<std::uint32_t, 7> bases{};  ///< the six BARs, the expansion ROM
  struct Control {
    ConfigOffset at{};
    std::uint16_t value = 0;
  };
  std::vector<Control> message_controls;  ///< of MSI and MSI-X
};

/// What can happen to a function under its driver.
///
///   unplug_requested  somebody wants the function back (an unbind, a hot-unplug, a server that ends). It still works. The
///                     owner ends its I/O and calls Handle::revoke(), or destroys the handle. May be repeated.
///   error             the function, or the bus, has reported an error: what state it is in is not known. Handle::reset().
///   low_power_entry   the function sleeps: its registers are not there until it is awake again.
///   low_power_exit    it is awake, and has what it had.
///   gone              the back end is not there any more; every call fails. Once.
enum class Event : std::uint8_t { unplug_requested, error, low_power_entry, low_power_exit, gone };

/// A PCI function that is driven: kernel VFIO, a vfio-user socket, or a function in this process. The contract is the same
/// on each; what a back end cannot do says ENOTSUP. One thread at a time; windows are the exception, they may be accessed
/// from any thread for as long as the handle lives, also while it is being revoked.
/// A call may block (for a register access that crosses a process boundary, or a reset); none waits without a bound.
class Handle {
 public:
  Handle() = default;
  virtual ~Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  /// How a person would name it: "vfio-user:/run/blk.sock".
  virtual std::string name() const = 0;
  /// The memory node it is attached to, where that is known.
  virtual std::optional<int> numa_node() const { return std::nullopt; }

  virtual Result<RegionInfo> region(unsigned index) = 0;
  virtual Result<InterruptInfo> interrupts(InterruptKind kind) = 0;
  /// Checks bounds (EINVAL) before anything is sent. An access of 1, 2, 4 or 8 bytes at its natural alignment reaches the
  /// device as one access of that width.
  virtual Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) = 0;
  virtual Status write_region(unsigned region, std::uint64_t offset, Bytes from) = 0;
  /// A posted write: ordered before what comes later, its failure is not reported here. Default: write_region.
  virtual Status post_write(unsigned region, std::uint64_t offset, Bytes from) {
    return write_region(region, offset, from);
  }
  /// See Bar::window.
  virtual Result<Window> map_window(unsigned region, std::uint64_t offset, std::uint64_t length) = 0;
  /// Doorbells that an eventfd rings; empty where there are none. The descriptors are the handle's.
  virtual Result<std::vector<IoEventFd>> io_eventfds(unsigned /*region*/) { return std::vector<IoEventFd>{}; }

  virtual memory::DmaSpace& dma() = 0;
  /// Maps memory at a given I/O address: for who re-exports the function and has the addresses from its own client. What it
  /// maps and what dma() gives out share one address space (EEXIST), so a handle is used one way or the other.
  virtual memory::DmaMapper& dma_mapper() = 0;

  /// Whether reset() can work.
  virtual bool resettable() const { return true; }
  /// Returns the device to its power-on state, and then restores what is the library's: Command (decoding, bus mastering),
  /// the BARs, the enable bits of MSI and MSI-X; eventfds stay bound, DMA memory stays mapped, windows stay valid. The
  /// driver sets up its device anew. ENOTSUP: the function has no way to be reset.
  virtual Status reset() = 0;
  /// Puts the function to sleep, as deep as the back end can; its driver has quiesced it. Until exit_low_power(), its
  /// registers are not there: accesses fail or read as all-ones, windows too (but never SIGBUS). Raises Event::low_power_entry. ENOTSUP: it cannot sleep. EALREADY: it does.
  virtual Status enter_low_power();
  /// Wakes it and restores what reset() restores. Raises Event::low_power_exit. Does nothing when it is awake.
  virtual Status exit_low_power();

  /// Takes part in an event loop: what comes from the other side unasked (events, DMA messages) is served there. Without
  /// it, it is served while a call waits and by process().
  virtual Status attach(Loop& loop) = 0;
  /// Leaves the loop of attach(): needed before a loop ends that the handle outlives.
  virtual void detach() {}
  /// Readable when process() has something to do; -1 where there is never anything.
  virtual int fd() const { return -1; }
  virtual Status process() { return {}; }
  /// Is told of events by process(), by the loop of attach(), and by the calls that cause one. It may call revoke(), set
  /// another handler, and destroy the handle: what it was called for then ends there. One handler; without one, an unplug
  /// request is answered by revoke(), so that nobody waits for ever.
  void on_event(std::move_only_function<void(Event)> handler) { event_handler_ = shared(std::move(handler)); }
  /// Is told of Event::gone too, after the handler of on_event(), which may have destroyed the handle: then it is not. For
  /// the driver on top, which is not the owner.
  void on_gone(std::move_only_function<void()> handler) { gone_handler_ = shared(std::move(handler)); }

  /// Lets the function go, in order: DMA and interrupts end, windows read as all-ones from here on, the back end is
  /// released (to the kernel, the server), and every further call says ENODEV. DMA buffers stay memory of this process.
  /// Raises Event::gone before it returns; a second call does nothing.
  virtual void revoke() = 0;
  /// The back end has gone for good; every further call fails.
  virtual bool gone() const = 0;

  // For who re-exports the function: interrupts with eventfds of one's own, as those of pci::Function. Not together with
  // enable_interrupts(), which is made of them.

  /// Binds one eventfd to each vector from `start`; an invalid EventFd is none. The eventfds may be closed afterwards.
  /// ENOSPC: the machine can give fewer vectors; nothing is enabled, and interrupts() tells from now on how many. With any
  /// other error what was bound before is bound still, or nothing is.
  virtual Status bind_interrupts(InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) = 0;
  /// INTx only: each signal of `eventfd` is an unmask; an invalid one ends that. ENOTSUP: call unmask_interrupts.
  virtual Status bind_unmask(const EventFd& eventfd);
  /// Unbinds everything of this kind. Succeeds where nothing is bound.
  virtual Status disable_interrupts(InterruptKind kind) = 0;
  /// ENOTTY where the kind is not maskable.
  virtual Status mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count);
  virtual Status unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) = 0;
  /// Signals what is bound, as if the device had raised it.
  virtual Status trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count);

  // Made of the above: the same on every back end.

  ConfigView config() { return ConfigView(*this); }
  /// ENODEV: nobody answers.
  Result<Identity> identity();
  /// ENODEV when the function does not implement this BAR.
  Result<Bar> bar(unsigned index);
  /// Standard and extended capabilities, in list order. A list that loops or points outside yields EPROTO, a function
  /// that reads as all-ones ENODEV.
  Result<std::vector<Capability>> capabilities();
  /// The first capability with this id, if there is one.
  Result<std::optional<Capability>> find_capability(std::uint16_t id, bool extended = false);
  /// 0 when the function has no such capability. Never more than can be enabled.
  Result<unsigned> msix_vector_count();
  Result<unsigned> msi_vector_count();
  /// Enables `count` (> 0) vectors, each with an eventfd of its own, and sets the enable bit of the kind in configuration
  /// space (a back end that does that itself drops the write). ENOSPC: the function has fewer (nothing is enabled).
  /// EBUSY: a set is enabled already. With any other error nothing is enabled either.
  Result<InterruptSet> enable_interrupts(InterruptKind kind, unsigned count);
  /// As many of the `wanted` (> 0) vectors as there are: InterruptSet::count() tells, which is 0 where the function has none
  /// of this kind. Other errors as above.
  Result<InterruptSet> enable_interrupts_up_to(InterruptKind kind, unsigned wanted);
  /// Lets the function do DMA and raise MSI; and decode memory.
  Status enable_bus_master();
  Status disable_bus_master();
  /// Lets accesses to memory BARs through, without DMA. Needed after a power-on, and before the first access to a BAR.
  Status enable_memory();

 protected:
  friend class InterruptSet;
  /// Tells the handlers. false: one of them has destroyed the handle, and nothing of it may be touched any more.
  bool raise(Event event);
  /// For reset() and its like: what the library keeps of configuration space across `interruption`.
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
