// A disk on an image whose storage misbehaves: what the driver is told is what became of its data.

#include <outboard/devices/blk/device.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/storage/raw_file.hpp>
#include <outboard/testing/hand_driver.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/faulty_engine.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::blk {
namespace {

using testing::Fault;
using testing::FaultyStorage;
using testing::HandDriver;

constexpr std::uint64_t sectors = 256;
constexpr std::size_t at_once = 4;
constexpr std::uint64_t part = sectors / at_once;  // of each of the requests that are under way together

class Rig final : public virtio::TransportEvents {
 public:
  Rig() {
    static_cast<void>(dir_.make_file("disk.raw", sectors * sector_size));
    device_ = Device::create(
                  storage::RawFile::open(loop, {.path = dir_.path("disk.raw"), .make_engine = storage.factory()}, Log())
                      .value(),
                  {})
                  .value();
    core = virtio::DeviceCore::create(*device_, map_, loop, *this, {}).value();
    EXPECT_TRUE(map_.map(driver.mapping()));
    driver.initialise(*core);
  }

  struct Sent {
    HandDriver::Chain chain;
    bool write;
    std::uint64_t sector;
    std::uint64_t count;
    char value;
    std::size_t status;  ///< element
  };
  Sent send(bool write, std::uint64_t sector, std::uint64_t count, char value) {
    const spec::RequestHeader header{write ? spec::type::out : spec::type::in, 0, sector};
    auto chain = driver.chain();
    chain.readable({reinterpret_cast<const char*>(&header), sizeof header});
    // In two pieces that end in the middle of a sector.
    const auto first = static_cast<std::uint32_t>(count * sector_size / 2 + 100);
    const auto rest = static_cast<std::uint32_t>(count * sector_size) - first;
    for (const std::uint32_t size : {first, rest}) {
      write ? chain.readable(std::string(size, value)) : chain.writable(size);
    }
    chain.writable(1);
    chain.publish();
    return {chain, write, sector, count, value, 3};
  }
  int status(const Sent& sent) { return std::to_integer<int>(*driver.at(sent.chain.at(sent.status))); }
  std::string data(const Sent& sent) {
    const std::size_t first = sent.count * sector_size / 2 + 100;
    const std::string_view one = driver.text(sent.chain.at(1), first);
    return std::string(one) + std::string(driver.text(sent.chain.at(2), sent.count * sector_size - first));
  }
  void process() {
    core->kick(0);
    loop.run_until_idle();
  }
  void notify_queue(unsigned) override {}
  void notify_config() override {}

  FaultyStorage storage;
  testing::ManualLoop loop;
  HandDriver driver{{.size = 32}};

 private:
  testing::TempDir dir_;
  memory::AddressMap map_{loop};
  std::unique_ptr<Device> device_;

 public:
  std::unique_ptr<virtio::DeviceCore> core;
};

/// What may lie on the disk: the bytes that may be found in each sector.
class Model {
 public:
  void ended(const Rig::Sent& sent, int status) {
    for (std::uint64_t i = sent.sector; i < sent.sector + sent.count; ++i) {
      if (status == spec::status::ok) may_[i].clear();
      may_[i].insert(sent.value);
    }
  }
  void check(const Rig::Sent& sent, const std::string& data) const {
    for (std::size_t i = 0; i < data.size(); ++i) {
      const std::uint64_t sector = sent.sector + i / sector_size;
      ASSERT_TRUE(may_[sector].contains(data[i])) << "sector " << sector << " has byte " << int(data[i]);
    }
  }

 private:
  std::array<std::set<char>, sectors> may_ = [] {
    std::array<std::set<char>, sectors> all;
    for (auto& each : all) each = {'\0'};
    return all;
  }();
};

void run_against_model(Rig& rig, unsigned seed, unsigned& failures) {
  Model model;
  std::minstd_rand random(seed);
  const auto below = [&random](std::uint64_t limit) { return random() % limit; };
  for (unsigned round = 0; round < 60; ++round) {
    std::vector<Rig::Sent> sent;
    for (std::size_t i = 0; i < at_once; ++i) {
      const std::uint64_t count = 1 + below(8);
      const std::uint64_t sector = i * part + below(part - count);
      sent.push_back(rig.send(below(2) == 0, sector, count, static_cast<char>(1 + below(250))));
    }
    rig.process();
    ASSERT_EQ(rig.driver.take_used().size(), at_once);
    ASSERT_FALSE(rig.core->broken());
    for (const Rig::Sent& each : sent) {
      const int status = rig.status(each);
      if (status != spec::status::ok) {
        ++failures;
        ASSERT_EQ(status, spec::status::ioerr);
      }
      if (each.write) {
        model.ended(each, status);
      } else if (status == spec::status::ok) {
        model.check(each, rig.data(each));
      } else {
        ASSERT_EQ(rig.data(each), std::string(each.count * sector_size, '\0')) << "nothing unread is told";
      }
    }
  }
}

TEST(BlkOnStorageThatIsDifficult, LosesNothingAndFailsNothing) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    Rig rig;
    rig.storage.be_difficult(seed);
    unsigned failures = 0;
    run_against_model(rig, seed, failures);
    EXPECT_EQ(failures, 0U) << "seed " << seed;
  }
}

TEST(BlkOnStorageThatFails, SaysOkOnlyOfWhatIsOnTheDisk) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    Rig rig;
    rig.storage.plan = [random = std::minstd_rand(seed)](const FaultyStorage::Seen& op) mutable {
      switch (random() % 6) {
        case 0:
          return Fault::torn(random() % op.length, EIO);
        case 1:
          return Fault::fails(random() % 2 == 0 ? ENOSPC : EIO);
        case 2:
          return Fault::part(1 + random() % op.length);
        default:
          return Fault();
      }
    };
    unsigned failures = 0;
    run_against_model(rig, seed, failures);
    EXPECT_GT(failures, 20U) << "seed " << seed;
  }
}

TEST(BlkOnStorageThatHangs, AnswersTheOthers) {
  Rig rig;
  rig.storage.plan = [](const FaultyStorage::Seen& op) { return op.offset == 0 ? Fault::hang() : Fault(); };
  const auto stuck = rig.send(false, 0, 1, 'x');
  const auto other = rig.send(true, 8, 1, 'y');
  rig.process();
  ASSERT_EQ(rig.driver.take_used().size(), 1U);
  EXPECT_EQ(rig.status(other), spec::status::ok);
  rig.storage.release();
  rig.loop.run_until_idle();
  ASSERT_EQ(rig.driver.take_used().size(), 1U);
  EXPECT_EQ(rig.status(stuck), spec::status::ok);
}

}  // namespace
}  // namespace outboard::blk
