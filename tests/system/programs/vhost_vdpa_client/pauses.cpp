#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "cases.hpp"
#include "disk.hpp"
#include "load.hpp"

namespace outboard::vhost {

namespace {

/// Reads of 4 KiB on queue 0. Ends the disk's driver with them if they are still under way.
class Reads {
 public:
  static Result<std::unique_ptr<Reads>> create(Disk& disk, unsigned count) {
    OUTBOARD_TRY(auto buffer, disk.driver->dma().allocate(std::size_t{count} * bytes));
    return std::unique_ptr<Reads>(new Reads(disk, count, std::move(buffer)));
  }
  ~Reads() {
    if (open_ != 0) disk_.driver.reset();
  }
  Reads(const Reads&) = delete;
  Reads& operator=(const Reads&) = delete;

  Status send() {
    for (std::size_t i = 0; i < ios_.size(); ++i) {
      elements_[i] = {buffer_.iova() + i * bytes, bytes};
      ios_[i] = {.data = {&elements_[i], 1}, .done = done, .context = this};
      OUTBOARD_CHECK(disk_.driver->queue(0).submit(ios_[i]));
      ++open_;
    }
    disk_.driver->queue(0).publish();
    return {};
  }
  /// Takes what the device has answered, without waiting for an interrupt: a suspended device sends none.
  unsigned open() {
    disk_.driver->queue(0).poll();
    return open_;
  }
  unsigned failed() const { return failed_; }

 private:
  static constexpr std::uint32_t bytes = 4096;

  Reads(Disk& disk, unsigned count, memory::DmaBuffer buffer)
      : disk_(disk), buffer_(std::move(buffer)), ios_(count), elements_(count) {}
  static void done(blk::Io& io) {
    auto& reads = *static_cast<Reads*>(io.context);
    --reads.open_;
    reads.failed_ += io.error != 0;
  }

  Disk& disk_;
  memory::DmaBuffer buffer_;
  std::vector<blk::Io> ios_;
  std::vector<virtio::Element> elements_;
  unsigned open_ = 0;
  unsigned failed_ = 0;
};

Status expect(bool condition, std::string what) {
  return condition ? Status() : Status(Error(EPROTO, std::move(what)));
}

Status enable(const Node& node, bool enabled) {
  return node.set(spec::ioctl::set_vring_enable, spec::VringState{0, enabled}, "VDPA_SET_VRING_ENABLE");
}

Result<std::uint32_t> base(const Node& node) {
  OUTBOARD_TRY(const auto state, node.get(spec::ioctl::get_vring_base, spec::VringState{0, 0}, "VHOST_GET_VRING_BASE"));
  return state.num;
}

/// What is in flight is finished before the device says that it rests; what comes afterwards is left alone.
Status a_suspended_device_rests(const Arguments& arguments) {
  {
    OUTBOARD_TRY(auto disk, start(arguments));
    OUTBOARD_TRY(const auto before, Reads::create(disk, 16));
    OUTBOARD_TRY(const auto after, Reads::create(disk, 16));
    OUTBOARD_CHECK(before->send());
    OUTBOARD_CHECK(disk.node().suspend());
    const unsigned answered = 16 - before->open();
    OUTBOARD_TRY(const auto rest, base(disk.node()));
    if (!arguments.packed)
      OUTBOARD_CHECK(expect(rest == answered, fmt::format("base {} after {} answers", rest, answered)));
    OUTBOARD_CHECK(after->send());
    OUTBOARD_TRY(const auto later, base(disk.node()));
    OUTBOARD_CHECK(expect(later == rest && after->open() == 16, "it works while it is suspended"));
    OUTBOARD_CHECK(expect(before->failed() == 0, "what was in flight failed"));
  }
  // The reset that comes with the next driver ends the rest.
  OUTBOARD_TRY(auto disk, start(arguments));
  OUTBOARD_TRY(const auto load, Load::create(*disk.driver, 8));
  return load->run(200);
}

/// A queue that is switched off takes nothing more, finishes what it has, and goes on when it is switched on.
Status a_queue_is_switched_off_and_on(const Arguments& arguments) {
  OUTBOARD_TRY(auto disk, start(arguments));
  for (unsigned round = 0; round < 20; ++round) {
    OUTBOARD_TRY(const auto before, Reads::create(disk, 8));
    OUTBOARD_TRY(const auto off, Reads::create(disk, 8));
    OUTBOARD_CHECK(before->send());
    OUTBOARD_CHECK(enable(disk.node(), false));
    OUTBOARD_CHECK(off->send());
    OUTBOARD_TRY(const auto rest, base(disk.node()));
    OUTBOARD_TRY(const auto later, base(disk.node()));
    OUTBOARD_CHECK(expect(later == rest && off->open() == 8, "it takes requests while it is switched off"));
    OUTBOARD_CHECK(enable(disk.node(), true));
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (before->open() + off->open() != 0 && std::chrono::steady_clock::now() < end)
      OUTBOARD_CHECK(pump(*disk.driver));
    const unsigned open = before->open() + off->open();
    OUTBOARD_CHECK(expect(open == 0, fmt::format("round {}: requests have not ended after it was switched on", round)));
    OUTBOARD_CHECK(expect(before->failed() + off->failed() == 0, "requests failed"));
  }
  return check_undisturbed(disk);
}

constexpr std::array all = {
    Case{"a_suspended_device_rests", a_suspended_device_rests},
    Case{"a_queue_is_switched_off_and_on", a_queue_is_switched_off_and_on},
};

}  // namespace

std::span<const Case> pause_cases() { return all; }

}  // namespace outboard::vhost
