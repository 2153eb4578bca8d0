// States that earlier versions have saved. Each version of a format leaves a sample of each device in tests/states, and every later
// one reads them: a device must be able to go from the old program to the new one.
//
// A change of a format raises its version (base/state.hpp) and adds samples: run this test with OUTBOARD_KEEP_STATES=1 in the
// environment, which writes those that are missing, under the next number in `kept`.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/devices/blk/driver.hpp>
#include <outboard/devices/edu/driver.hpp>
#include <outboard/devices/example/driver.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/pci/migratable.hpp>
#include <outboard/targets/target.hpp>
#include <outboard/targets/transport_options.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio_pci/transport.hpp>

namespace outboard::targets {
namespace {

struct KeptState {
  const char* name;
  const char* device;  ///< with its options, as behind `local:`
};

/// A sample is tests/states/NAME.NUMBER, and the newest number of each is what this version writes.
constexpr KeptState kept[] = {
    {"blk-split.1", "blk,ram,size=1M"},
    {"blk-packed.1", "blk,ram,size=1M,packed,queues=3"},
    {"blk-read-only.1", "blk,null,size=2M,read-only,in-order"},
    {"example-split.1", "example"},
    {"example-packed.1", "example,packed"},
    {"edu.1", "edu"},
};

std::filesystem::path path_of(const KeptState& state) {
  return std::filesystem::path(__FILE__).parent_path().parent_path().parent_path() / "tests" / "states" / state.name;
}

std::vector<std::byte> read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

void write_file(const std::filesystem::path& path, Bytes bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

/// A function of one of the devices, on a loop that the test pumps.
class Kept {
 public:
  explicit Kept(const char* device) {
    const auto local = parse_local(device).value();
    auto plan = plan_function(*find_device(local.device).value(), local.options).value();
    auto made = plan.factory(loop, Log()).value();
    function = made.get();
    handle = pci::LocalHandle::over(std::move(made), [this] { loop.run_until_idle(); }, "local").value();
  }

  Status stop() {
    Status done = Error(EINPROGRESS, "it has not stopped");
    function->migratable()->stop([&](const Status& stopped) { done = stopped; });
    loop.run_until_idle();
    return done;
  }
  Status load(const std::vector<std::byte>& state) {
    Status done = Error(EINPROGRESS, "it has not been loaded");
    function->migratable()->load(state, [&](const Status& loaded) { done = loaded; });
    loop.run_until_idle();
    return done;
  }
  Result<std::vector<std::byte>> save() const { return function->migratable()->save(); }
  std::unique_ptr<virtio::Transport> transport() {
    return virtio_pci::Transport::open(*handle, {.wait = [this](Duration) { loop.run_until_idle(); }}).value();
  }

  testing::ManualLoop loop;
  pci::Function* function = nullptr;
  std::unique_ptr<pci::LocalHandle> handle;
};

/// The state of a device that its driver has used.
std::vector<std::byte> used_state(const KeptState& state) {
  Kept device(state.device);
  const std::string name = state.device;
  std::optional<blk::Driver> disk;
  std::optional<example::Driver> adder;
  std::optional<edu::Driver> edu;
  if (name.starts_with("blk"))
    disk = blk::Driver::start(device.transport(), {.queues = 2, .loop = &device.loop}).value();
  if (name.starts_with("example")) adder = example::Driver::start(device.transport(), {.loop = &device.loop}).value();
  if (name.starts_with("edu")) edu = edu::Driver::start(*device.handle, {}).value();
  device.loop.run_until_idle();
  EXPECT_TRUE(device.stop());
  auto saved = device.save();
  EXPECT_TRUE(saved);
  EXPECT_TRUE(device.function->migratable()->run());
  device.loop.run_until_idle();
  return saved ? *saved : std::vector<std::byte>();
}

class KeptStates : public ::testing::TestWithParam<KeptState> {};
INSTANTIATE_TEST_SUITE_P(, KeptStates, ::testing::ValuesIn(kept), [](const auto& each) {
  std::string name = each.param.name;
  std::replace_if(name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
  return name;
});

TEST_P(KeptStates, AreReadByThisVersion) {
  const auto path = path_of(GetParam());
  if (!std::filesystem::exists(path) && std::getenv("OUTBOARD_KEEP_STATES") != nullptr)
    write_file(path, used_state(GetParam()));
  const auto state = read_file(path);
  ASSERT_FALSE(state.empty()) << path;
  Kept device(GetParam().device);
  ASSERT_TRUE(device.stop());
  const Status loaded = device.load(state);
  ASSERT_TRUE(loaded) << loaded.error().message();
  EXPECT_EQ(device.save().value(), state) << "what is read is written again, as long as this is the newest version";
}

/// The sample is what this version writes: a format that changes without a new number is found here.
TEST_P(KeptStates, AreWhatThisVersionWrites) {
  const auto state = read_file(path_of(GetParam()));
  ASSERT_FALSE(state.empty());
  EXPECT_EQ(used_state(GetParam()), state);
}

/// Each byte of a state may be wrong, and each state may end anywhere.
TEST_P(KeptStates, SpoiledOrCutChangeNothing) {
  const auto state = read_file(path_of(GetParam()));
  ASSERT_FALSE(state.empty());
  Kept device(GetParam().device);
  ASSERT_TRUE(device.stop());
  const auto before = device.save().value();
  for (std::size_t size = 0; size < state.size(); ++size) {
    ASSERT_FALSE(device.load({state.begin(), state.begin() + static_cast<std::ptrdiff_t>(size)})) << size;
    ASSERT_EQ(device.save().value(), before) << size;
  }
  unsigned taken = 0;
  for (std::size_t at = 0; at < state.size(); ++at) {
    auto spoiled = state;
    spoiled[at] ^= std::byte{0x81};
    if (!device.load(spoiled)) {
      ASSERT_EQ(device.save().value(), before) << at;
      continue;
    }
    // Bytes that may have any value: what was taken is what is there.
    ++taken;
    ASSERT_EQ(device.save().value(), spoiled) << at;
    ASSERT_TRUE(device.load(before)) << at;
    ASSERT_EQ(device.save().value(), before) << at;
  }
  EXPECT_LT(taken, state.size()) << "nothing was checked";
}

}  // namespace
}  // namespace outboard::targets
