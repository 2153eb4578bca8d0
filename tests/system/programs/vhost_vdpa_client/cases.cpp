#include "cases.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include <outboard/virtio/spec.hpp>

#include "disk.hpp"
#include "load.hpp"
#include "memory.hpp"

namespace outboard::vhost {

namespace {

using memory::Iova;
namespace status = virtio::spec::status;

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr Iova own_place{UINT64_C(1) << 40};  // above what the transport hands out

Status expect(bool condition, std::string what) {
  return condition ? Status() : Status(Error(EPROTO, std::move(what)));
}

// --- data ---------------------------------------------------------------------------------------------------------------

Status data_survive(const Arguments& arguments) {
  OUTBOARD_TRY(auto disk, start(arguments));
  OUTBOARD_TRY(const auto load, Load::create(*disk.driver, 32));
  OUTBOARD_CHECK(load->run(3000));
  OUTBOARD_CHECK(disk.driver->flush());
  return check_undisturbed(disk);
}

/// Until the time is over; somebody else kills the server and starts it again meanwhile.
Status data_survive_a_dying_server(const Arguments& arguments) {
  OUTBOARD_TRY(auto disk, start(arguments));
  OUTBOARD_TRY(const auto load, Load::create(*disk.driver, 32));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(arguments.seconds);
  while (std::chrono::steady_clock::now() < end) OUTBOARD_CHECK(load->run(64));
  fmt::print("{} operations\n", load->completed());
  return check_undisturbed(disk);
}

// --- memory that moves --------------------------------------------------------------------------------------------------

/// Maps and unmaps memory that nobody uses, by ones and in batches, while the disk works.
class Churn {
 public:
  Churn(const Node& node, const MemoryFile& file) : node_(node), file_(file) {}

  Status step() {
    if (++steps_ % 8 == 0) return batch();
    const std::uint64_t place = steps_ % places;
    mapped_ ^= 1U << place;
    const memory::IovaRange range{own_place + place * mebibyte, 65536};
    if ((mapped_ >> place & 1) == 0) return node_.unmap(range);
    return node_.map(range, file_.bytes().data() + place * 65536, spec::perm::read_write);
  }
  unsigned steps() const { return steps_; }

 private:
  static constexpr unsigned places = 8;

  Status batch() {
    OUTBOARD_CHECK(node_.begin_batch());
    for (unsigned place = 0; place < places; ++place) {
      if ((mapped_ >> place & 1) != 0) OUTBOARD_CHECK(node_.unmap({own_place + place * mebibyte, 65536}));
    }
    mapped_ = 0;
    return node_.end_batch();
  }

  const Node& node_;
  const MemoryFile& file_;
  unsigned steps_ = 0;
  unsigned mapped_ = 0;
};

Status other_memory_comes_and_goes(const Arguments& arguments) {
  OUTBOARD_TRY(auto disk, start(arguments));
  OUTBOARD_TRY(const auto file, MemoryFile::create(mebibyte));
  OUTBOARD_TRY(const auto load, Load::create(*disk.driver, 16));
  Churn churn(disk.node(), *file);
  OUTBOARD_CHECK(load->run(2000, [&] { return churn.step(); }));
  OUTBOARD_CHECK(expect(churn.steps() > 16, "nothing was mapped while the disk worked"));
  return check_undisturbed(disk);
}

/// Reads into memory at an I/O address, from the disk's start; what became of it.
struct Reads {
  static constexpr std::chrono::seconds timeout{10};

  std::vector<blk::Io> ios;
  std::vector<virtio::Element> elements;
  unsigned open = 0;
  unsigned failed = 0;

  Status send(blk::Driver& driver, unsigned count, Iova to, std::uint32_t bytes) {
    ios.assign(count, {});
    elements.assign(count, {to, bytes});
    for (unsigned i = 0; i < count; ++i) {
      ios[i] = {.data = {&elements[i], 1}, .done = done, .context = this};
      OUTBOARD_CHECK(driver.queue(i % driver.queue_count()).submit(ios[i]));
      ++open;
    }
    for (unsigned i = 0; i < driver.queue_count(); ++i) driver.queue(i).publish();
    return {};
  }
  /// Waits until all have ended. A driver that names memory which it has not given breaks a rule; since VDUSE has no way to
  /// tell it that the device needs a reset, its requests fail and the device lives.
  Status finish(Disk& disk) const {
    const auto end = std::chrono::steady_clock::now() + timeout;
    while (open != 0 && std::chrono::steady_clock::now() < end) OUTBOARD_CHECK(pump(*disk.driver));
    if (open != 0) disk.driver.reset();  // they are on this stack
    OUTBOARD_CHECK(expect(open == 0, "requests have not ended with the driver"));
    OUTBOARD_TRY(const auto buffer, disk.driver->dma().allocate(4096));
    OUTBOARD_CHECK(disk.driver->read(blk::Sector{0}, buffer));
    return check_undisturbed(disk);
  }
  static void done(blk::Io& io) {
    auto& reads = *static_cast<Reads*>(io.context);
    --reads.open;
    reads.failed += io.error != 0;
  }
};

bool is_all(Bytes bytes, std::byte value) {
  return std::ranges::all_of(bytes, [value](std::byte byte) { return byte == value; });
}

/// The same, while somebody else kills the server and starts it again: also in the middle of telling it, since it is told
/// all the time.
Status memory_comes_and_goes_under_a_dying_server(const Arguments& arguments) {
  OUTBOARD_TRY(auto disk, start(arguments));
  OUTBOARD_TRY(const auto file, MemoryFile::create(mebibyte));
  OUTBOARD_TRY(const auto load, Load::create(*disk.driver, 16));
  Churn churn(disk.node(), *file);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(arguments.seconds);
  while (std::chrono::steady_clock::now() < end) OUTBOARD_CHECK(load->run(64, [&] { return churn.step(); }));
  fmt::print("{} operations, {} changes of memory\n", load->completed(), churn.steps());
  return check_undisturbed(disk);
}

/// What the disk is reading into goes away: each request ends, well or not, and writes nowhere.
Status memory_goes_while_it_is_used(const Arguments& arguments) {
  OUTBOARD_TRY(const auto file, MemoryFile::create(mebibyte));
  for (unsigned round = 0; round < 5; ++round) {
    OUTBOARD_TRY(auto disk, start(arguments));
    OUTBOARD_CHECK(disk.node().map({own_place, mebibyte}, file->bytes().data(), spec::perm::read_write));
    Reads reads;
    OUTBOARD_CHECK(reads.send(*disk.driver, 32, own_place, mebibyte));
    OUTBOARD_CHECK(disk.node().unmap({own_place, mebibyte}));
    // Nobody but us writes here once the kernel has come back.
    std::ranges::fill(file->bytes(), std::byte{0x5a});
    OUTBOARD_CHECK(reads.finish(disk));
    OUTBOARD_CHECK(expect(is_all(file->bytes(), std::byte{0x5a}), "the disk wrote to memory that was taken from it"));
  }
  return data_survive(arguments);
}

Status a_hole_is_not_read_into(const Arguments& arguments) {
  {
    OUTBOARD_TRY(auto disk, start(arguments));
    Reads reads;
    OUTBOARD_CHECK(reads.send(*disk.driver, 4, own_place, 4096));
    OUTBOARD_CHECK(reads.finish(disk));
    OUTBOARD_CHECK(expect(reads.failed == 4, "reading into a hole should fail"));
  }
  return data_survive(arguments);
}

Status read_only_memory_is_not_written(const Arguments& arguments) {
  OUTBOARD_TRY(const auto file, MemoryFile::create(mebibyte));
  std::ranges::fill(file->bytes(), std::byte{0x5a});
  {
    OUTBOARD_TRY(auto disk, start(arguments));
    OUTBOARD_CHECK(disk.node().map({own_place, mebibyte}, file->bytes().data(), spec::perm::read));
    const virtio::Element source{own_place, 4096};
    OUTBOARD_CHECK(disk.driver->write(blk::Sector{0}, {&source, 1}));
    OUTBOARD_TRY(const auto buffer, disk.driver->dma().allocate(4096));
    OUTBOARD_CHECK(disk.driver->read(blk::Sector{0}, buffer));
    OUTBOARD_CHECK(expect(is_all(buffer.bytes(), std::byte{0x5a}), "read-only memory was not read"));
  }
  {
    OUTBOARD_TRY(auto disk, start(arguments));
    OUTBOARD_CHECK(disk.node().map({own_place + mebibyte, mebibyte}, file->bytes().data(), spec::perm::read));
    Reads reads;
    OUTBOARD_CHECK(reads.send(*disk.driver, 4, own_place + mebibyte, 4096));
    OUTBOARD_CHECK(reads.finish(disk));
    OUTBOARD_CHECK(expect(reads.failed == 4, "reading into read-only memory should fail"));
    OUTBOARD_CHECK(expect(is_all(file->bytes(), std::byte{0x5a}), "the disk wrote to read-only memory"));
  }
  return data_survive(arguments);
}

Status truncated_memory_is_survived(const Arguments& arguments) {
  {
    OUTBOARD_TRY(auto disk, start(arguments));
    OUTBOARD_TRY(const auto file, MemoryFile::create(mebibyte));
    OUTBOARD_CHECK(disk.node().map({own_place, mebibyte}, file->bytes().data(), spec::perm::read_write));
    Reads reads;
    OUTBOARD_CHECK(reads.send(*disk.driver, 4, own_place, mebibyte));
    OUTBOARD_CHECK(reads.finish(disk));
    OUTBOARD_CHECK(expect(reads.failed == 0, "reading into memory of a file failed"));
    OUTBOARD_CHECK(file->truncate(0));
    OUTBOARD_CHECK(reads.send(*disk.driver, 4, own_place, mebibyte));
    OUTBOARD_CHECK(reads.finish(disk));
    OUTBOARD_CHECK(expect(reads.failed == 4, "reading into memory beyond the end of its file should fail"));
  }
  return data_survive(arguments);
}

/// I/O addresses, file offsets and lengths that are no multiples of a page.
Status unaligned_maps_work(const Arguments& arguments) {
  OUTBOARD_TRY(auto disk, start(arguments));
  OUTBOARD_TRY(const auto file, MemoryFile::create(mebibyte));
  const Iova place = own_place + 0x123;
  std::byte* const memory = file->bytes().data() + 0x3123;
  OUTBOARD_CHECK(disk.node().map({place, 0x8765}, memory, spec::perm::read_write));
  const virtio::Element element{place + 0x11, 4096};
  for (unsigned i = 0; i < 4096; ++i) memory[0x11 + i] = static_cast<std::byte>(i * 7 + i / 256);
  const std::vector<std::byte> written(memory + 0x11, memory + 0x11 + 4096);
  OUTBOARD_CHECK(disk.driver->write(blk::Sector{8}, {&element, 1}));
  std::ranges::fill(file->bytes(), std::byte{0});
  OUTBOARD_CHECK(disk.driver->read(blk::Sector{8}, {&element, 1}));
  OUTBOARD_CHECK(expect(std::ranges::equal(written, MutableBytes(memory + 0x11, 4096)), "other data came back"));
  OUTBOARD_CHECK(expect(memory[0x10] == std::byte{0} && memory[0x11 + 4096] == std::byte{0}, "more was written"));
  return check_undisturbed(disk);
}

// --- life cycle ---------------------------------------------------------------------------------------------------------

/// A queue at rest says how far it has come.
Status vring_base_counts(const Arguments& arguments) {
  OUTBOARD_TRY(auto disk, start(arguments));
  constexpr unsigned reads = 40;
  OUTBOARD_TRY(const auto buffer, disk.driver->dma().allocate(512));
  for (unsigned i = 0; i < reads; ++i) OUTBOARD_CHECK(disk.driver->read(blk::Sector{i}, buffer));
  OUTBOARD_TRY(const auto base,
               disk.node().get(spec::ioctl::get_vring_base, spec::VringState{0, 0}, "VHOST_GET_VRING_BASE"));
  fmt::print("base {:#x}\n", base.num);
  if (!arguments.packed) return expect(base.num == reads, fmt::format("base {} after {} requests", base.num, reads));
  const std::uint32_t next_available = base.num & 0xffff, next_used = base.num >> 16;
  return expect(next_available == next_used && next_available != 0x8000,
                fmt::format("base {:#x}: the queue is at rest, so both ends meet", base.num));
}

Status reset_with_requests_in_flight(const Arguments& arguments) {
  for (unsigned round = 0; round < 10; ++round) {
    OUTBOARD_TRY(auto disk, start(arguments));
    OUTBOARD_TRY(const auto load, Load::create(*disk.driver, 32));
    OUTBOARD_CHECK(load->begin());
    OUTBOARD_CHECK(disk.node().set_status(0));
    OUTBOARD_TRY(const auto now, disk.node().status());
    OUTBOARD_CHECK(expect(now == 0, "it is not reset"));
    disk.driver.reset();  // ends what is in flight, before the load goes
  }
  return data_survive(arguments);
}

/// The kernel resets the device when the node is closed.
Status closed_with_requests_in_flight(const Arguments& arguments) {
  for (unsigned round = 0; round < 3; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      const auto disk = start(arguments);
      if (!disk) ::_exit(1);
      const auto load = Load::create(*disk->driver, 32);
      ::_exit(load && (*load)->begin() ? 0 : 1);
    }
    int ended = 0;
    if (child < 0 || ::waitpid(child, &ended, 0) < 0) return Error::from_errno("another process");
    OUTBOARD_CHECK(expect(ended == 0, "it could not begin"));
  }
  return data_survive(arguments);
}

Status second_opener_is_refused(const Arguments& arguments) {
  OUTBOARD_TRY(auto disk, start(arguments));
  const auto second = Node::open(arguments.node);
  OUTBOARD_CHECK(expect(!second && second.error().code() == EBUSY, "a second opener should be told EBUSY"));
  OUTBOARD_TRY(const auto load, Load::create(*disk.driver, 8));
  return load->run(200);
}

/// Sets features that were never offered, or leaves out what is needed; the device must not say FEATURES_OK.
Status check_refused(const Node& node, std::uint64_t features) {
  OUTBOARD_CHECK(node.set_status(0));
  OUTBOARD_CHECK(node.set_status(status::acknowledge));
  OUTBOARD_CHECK(node.set_status(status::acknowledge | status::driver));
  OUTBOARD_CHECK(node.set(spec::ioctl::set_features, features, "VHOST_SET_FEATURES"));
  OUTBOARD_CHECK(node.set_status(status::acknowledge | status::driver | status::features_ok));
  OUTBOARD_TRY(const auto now, node.status());
  OUTBOARD_CHECK(node.set_status(0));
  return expect((now & status::features_ok) == 0, fmt::format("{:#x} was accepted", features));
}

Status bad_features_are_refused(const Arguments& arguments) {
  OUTBOARD_TRY(const auto node, Node::open(arguments.node));
  OUTBOARD_TRY(const auto offered, node.get(spec::ioctl::get_features, std::uint64_t{0}, "VHOST_GET_FEATURES"));
  OUTBOARD_CHECK(check_refused(node, ~UINT64_C(0)));
  OUTBOARD_CHECK(check_refused(node, offered & ~(UINT64_C(1) << 32)));  // VERSION_1
  OUTBOARD_CHECK(check_refused(node, offered & ~(UINT64_C(1) << 33)));  // ACCESS_PLATFORM
  return check_refused(node, 0);
}

// --- rings that no driver should have -----------------------------------------------------------------------------------

/// A device up to where its queues can be set up, without a driver.
Result<std::unique_ptr<Transport>> negotiated(const Arguments& arguments) {
  OUTBOARD_TRY(auto transport, Transport::open(arguments.node));
  virtio::Features wanted;
  if (arguments.packed) wanted.set(virtio::Feature::ring_packed);
  OUTBOARD_CHECK(virtio::negotiate(*transport, wanted));
  return transport;
}

/// DRIVER_OK must be accepted whatever the rings are (a refusal would hang a kernel driver), and a reset must mend it.
Status accepts_driver_ok_and_a_reset(Transport& transport) {
  OUTBOARD_TRY(const auto before, transport.status());
  OUTBOARD_CHECK(transport.write_status(before | status::driver_ok));
  OUTBOARD_TRY(const auto now, transport.status());
  OUTBOARD_CHECK(expect((now & status::driver_ok) != 0, "DRIVER_OK was refused"));
  return transport.reset();
}

Status rings_in_a_hole(const Arguments& arguments) {
  {
    OUTBOARD_TRY(const auto transport, negotiated(arguments));
    OUTBOARD_CHECK(transport->setup_queue(
        0, {.size = 128, .descriptors = own_place, .driver = own_place + 0x1000, .device = own_place + 0x2000}));
    OUTBOARD_CHECK(accepts_driver_ok_and_a_reset(*transport));
  }
  return data_survive(arguments);
}

Status misplaced_rings(const Arguments& arguments) {
  constexpr std::uint64_t top = UINT64_MAX - 0xfff;
  for (const auto& [descriptors, device] :
       {std::pair<std::uint64_t, std::uint64_t>{8, 0x2000}, {0, 0}, {0, 16}, {top, 0x2000}}) {
    OUTBOARD_TRY(const auto transport, negotiated(arguments));
    OUTBOARD_TRY(const auto memory, transport->dma().allocate(65536, {.alignment = 4096}));
    const Iova start = descriptors == top ? Iova{top} : memory.iova() + descriptors;
    OUTBOARD_CHECK(transport->setup_queue(
        0, {.size = 256, .descriptors = start, .driver = memory.iova() + 0x8000, .device = memory.iova() + device}));
    OUTBOARD_CHECK(accepts_driver_ok_and_a_reset(*transport));
  }
  return data_survive(arguments);
}

/// Queues of other sizes than the device's maximum, which the kernel compares with the largest queue's only.
Status rings_full_of_nonsense(const Arguments& arguments) {
  for (unsigned round = 0; round < 8; ++round) {
    OUTBOARD_TRY(const auto transport, negotiated(arguments));
    OUTBOARD_TRY(const auto memory, transport->dma().allocate(65536, {.alignment = 4096}));
    OUTBOARD_TRY(const auto bell, transport->setup_queue(0, {.size = 128,
                                                             .descriptors = memory.iova(),
                                                             .driver = memory.iova() + 0x8000,
                                                             .device = memory.iova() + 0xc000}));
    OUTBOARD_TRY(const auto before, transport->status());
    OUTBOARD_CHECK(transport->write_status(before | status::driver_ok));
    for (std::size_t i = 0; i < memory.size(); ++i)
      memory.data()[i] = static_cast<std::byte>((i * 31 + round * 7) >> round);
    bell.ring(0);
    // Answered at once, whatever the queue is doing with it.
    OUTBOARD_CHECK(transport->node().get(spec::ioctl::get_vring_base, spec::VringState{0, 0}, "VHOST_GET_VRING_BASE"));
    OUTBOARD_CHECK(transport->reset());
  }
  return data_survive(arguments);
}

constexpr std::array all = {
    Case{"data_survive", data_survive},
    Case{"data_survive_a_dying_server", data_survive_a_dying_server},
    Case{"other_memory_comes_and_goes", other_memory_comes_and_goes},
    Case{"memory_comes_and_goes_under_a_dying_server", memory_comes_and_goes_under_a_dying_server},
    Case{"memory_goes_while_it_is_used", memory_goes_while_it_is_used},
    Case{"a_hole_is_not_read_into", a_hole_is_not_read_into},
    Case{"read_only_memory_is_not_written", read_only_memory_is_not_written},
    Case{"truncated_memory_is_survived", truncated_memory_is_survived},
    Case{"unaligned_maps_work", unaligned_maps_work},
    Case{"vring_base_counts", vring_base_counts},
    Case{"reset_with_requests_in_flight", reset_with_requests_in_flight},
    Case{"closed_with_requests_in_flight", closed_with_requests_in_flight},
    Case{"second_opener_is_refused", second_opener_is_refused},
    Case{"bad_features_are_refused", bad_features_are_refused},
    Case{"rings_in_a_hole", rings_in_a_hole},
    Case{"misplaced_rings", misplaced_rings},
    Case{"rings_full_of_nonsense", rings_full_of_nonsense},
};

}  // namespace

std::span<const Case> cases() { return all; }

}  // namespace outboard::vhost
