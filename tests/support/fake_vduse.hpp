#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/memory/host_memory.hpp>
#include <outboard/testing/hand_driver.hpp>
#include <outboard/vduse/control.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::testing {

/// A VDUSE device of a kernel, and the driver on it, played in this process. What is under test opens the node; the test
/// is the rest of the machine: it attaches, sends messages, places rings, maps memory, kicks and counts interrupts.
///
/// The kernel's rules are kept, those that hurt too: an interrupt before DRIVER_OK has been stored is refused (EINVAL), a
/// message that timed out breaks the device for good (EPERM, hangup), what was read and not answered comes again to whoever
/// opens the node next, and a reset forgets eventfds, features and queues. Calls may come from any thread; none waits but
/// wait_for_interrupts() and Message::wait().
class FakeVduse {
 public:
  /// Made as CREATE_DEV would. std::invalid_argument when the kernel would refuse this shape.
  explicit FakeVduse(vduse::DeviceShape shape, std::uint64_t api_version = vduse::spec::api_version_0);
  ~FakeVduse();
  FakeVduse(const FakeVduse&) = delete;
  FakeVduse& operator=(const FakeVduse&) = delete;

  // --- The process that serves the device -------------------------------------------------------------------------------

  /// Opens the node. EBUSY: it is open. Destroying the Node closes it.
  Result<std::unique_ptr<vduse::Node>> open();
  /// The process that has the node open dies here (SIGKILL): the node is closed by the kernel, and whatever the Node object
  /// is still asked for fails with EBADF and changes nothing. open() works again.
  void kill_server();
  bool is_open() const;

  // --- The bus ----------------------------------------------------------------------------------------------------------

  /// DEV_NEW, without any driver. EINVAL: a queue was not set up; EEXIST: attached; EPERM: broken.
  Status attach();
  /// DEV_DEL, behind the driver's own farewell (set_status(0)). Memory that was mapped stays, as it does there.
  void detach();
  bool attached() const;

  // --- Messages ---------------------------------------------------------------------------------------------------------

  enum class Outcome : unsigned char {
    waiting,  ///< not answered yet
    ok,
    refused,  ///< answered with a result that is not OK
    withdrawn,  ///< whoever waited was killed
    failed,  ///< the device is broken
  };
  /// A message on its way. Keeps its state alive; copyable.
  class Message {
   public:
    Outcome outcome() const;
    bool answered() const { return outcome() != Outcome::waiting; }
    bool ok() const { return outcome() == Outcome::ok; }
    /// Waits until it has been answered; false when `limit` of real time is over. For tests with threads.
    bool wait(Duration limit = std::chrono::seconds(30)) const;
    /// Whether the device has read it (and not yet answered it, or has).
    bool read() const;
    std::uint32_t request_id() const;
    /// What the device answered; zeroes before.
    vduse::spec::Response response() const;
    /// The answer to get_vq_state().
    vduse::spec::VqStateResponse queue_state() const;

   private:
    friend class FakeVduse;
    struct State;
    explicit Message(std::shared_ptr<State> state) : state_(std::move(state)) {}
    std::shared_ptr<State> state_;
  };

  /// The driver writes the device status; with 0 the kernel resets its side once the answer is there, whatever it is.
  Message set_status(std::uint8_t status);
  Message get_vq_state(std::uint32_t index);
  /// After map() and unmap(), as vhost_vdpa does. Refused: the kernel empties the address space.
  Message update_iotlb(std::uint32_t asid = 0, std::uint64_t start = 0, std::uint64_t last = UINT64_MAX);
  Message set_group_asid(std::uint32_t group, std::uint32_t asid);
  /// As kernels from 7.3 on: `ready` is stored with the answer. Refused: the kernel gives the device up.
  Message set_vq_ready(std::uint32_t index, bool ready);
  /// Likewise. Accepted: no kick comes and no interrupt is taken any more before the next reset.
  Message suspend();
  /// A message that no driver causes: an unknown type, a payload of a peer that lies.
  Message send(std::uint32_t type, Bytes payload = {});

  /// Sends a status, and calls `pump` until it has been answered (10,000 times at most). Whether the answer was OK.
  bool advance(std::uint8_t status, const std::function<void()>& pump);
  /// What virtio_vdpa does up to FEATURES_OK: status 0, 1, 3, the driver's features, 0xb. Whether all were accepted.
  bool negotiate(std::uint64_t features, const std::function<void()>& pump);

  /// Whoever waits for this message is killed: the answer gets ENOENT.
  void withdraw(const Message& message);
  /// The time for the oldest unanswered message is over: the device is broken, for good.
  void time_out();
  bool broken() const;
  /// A message that must never be refused has been (DRIVER_OK; SET_VQ_READY): a real machine would hang from here on.
  bool wedged() const;
  /// Messages not yet read, or read and not yet answered.
  std::size_t unanswered() const;

  // --- Status and features ----------------------------------------------------------------------------------------------

  /// As the kernel has stored it.
  std::uint8_t status() const;
  /// What the driver writes; the kernel does not look at it.
  void set_driver_features(std::uint64_t features);
  /// From now on the kernel stores DRIVER_OK late: after its answer `tries` injections are refused, the next one is not.
  void store_driver_ok_after(unsigned tries);

  // --- Queues -----------------------------------------------------------------------------------------------------------

  struct Ring {
    std::uint32_t num = 0;
    std::uint64_t descriptors = 0;
    std::uint64_t driver = 0;
    std::uint64_t device = 0;
    vduse::spec::VqState state{};  ///< split: 0; packed drivers of Linux begin at 1, 0, 1, 0
    bool ready = true;
  };
  void place_queue(unsigned index, const Ring& ring);
  /// Where `ring` is, at its start; the ring's memory is mapped by map() or map_file().
  void place_queue(unsigned index, const HandDriver& ring, bool ready = true);
  void set_ready(unsigned index, bool ready);
  bool ready(unsigned index) const;
  /// What VQ_SETUP has said; 0: nothing.
  std::uint16_t max_size(unsigned index) const;
  std::uint32_t group(unsigned index) const;

  /// The driver notifies: lost when the queue is not ready, kept for the eventfd to come when there is none.
  void kick(unsigned index);
  bool has_kick(unsigned index) const;
  /// The driver's interrupts come by an eventfd, as those of vhost: without regard to DRIVER_OK. Null: no longer.
  void set_call(unsigned index, const EventFd* call);
  /// Interrupts that reached the driver.
  std::uint64_t interrupts(unsigned index) const;
  /// Injected without an error, and lost: the queue was not ready.
  std::uint64_t swallowed(unsigned index) const;
  std::uint64_t config_interrupts() const;
  /// Until the driver has had so many; false when `limit` of real time is over. For tests with threads.
  bool wait_for_interrupts(unsigned index, std::uint64_t count, Duration limit = std::chrono::seconds(30)) const;

  // --- Memory -----------------------------------------------------------------------------------------------------------

  struct Region {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    std::uint8_t perm = vduse::spec::perm::read | vduse::spec::perm::write;
    std::uint64_t offset = 0;  ///< of `start` in the file; need not be aligned to anything
    std::uint32_t asid = 0;
    bool bounce = false;  ///< the bounce buffer: memory can be registered for it, and a reset takes it away
  };
  /// Maps a memory file of its own (offset + size bytes, sealed), and returns the driver's view of the region.
  std::shared_ptr<memory::HostMemory> map(const Region& region);
  /// Maps a file of the test's, which may be shorter than the region claims.
  void map_file(const Region& region, const UniqueFd& file);
  /// Takes away what begins at `start`; quietly, as the driver does with its rings.
  void unmap(std::uint64_t start, std::uint32_t asid = 0);
  void unmap_all(std::uint32_t asid = 0);
  /// The driver's bytes of a region that map() made: in the file, or in the memory that is registered for it.
  /// std::out_of_range where there is none.
  MutableBytes at(std::uint64_t iova, std::size_t length, std::uint32_t asid = 0) const;
  bool memory_registered(std::uint32_t asid = 0) const;
  std::uint32_t group_asid(std::uint32_t group) const;

  // --- Configuration space ----------------------------------------------------------------------------------------------

  std::vector<std::byte> config() const;

  // --- Faults, and what was asked for -----------------------------------------------------------------------------------

  enum class Call : unsigned char {
    read,
    reply,
    driver_features,
    set_config,
    inject_config_interrupt,
    set_up_queue,
    queue_info,
    set_kick,
    inject_interrupt,
    find_region,
    region_info,
    register_memory,
    unregister_memory,
  };
  /// The next `times` calls of that kind fail with this errno value, and do nothing else.
  void fail(Call call, int code, unsigned times = 1);
  /// Calls so far, failed ones included.
  std::uint64_t calls(Call call) const;

 private:
  class OpenNode;
  struct Kernel;
  std::shared_ptr<Kernel> kernel_;
};

}  // namespace outboard::testing
