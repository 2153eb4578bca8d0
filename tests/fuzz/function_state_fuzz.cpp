// The saved state of a function, as a peer may send it: any bytes. What is refused changes nothing; what is taken is what is saved
// again, and the function runs with it or says why not, whatever memory is there. A reset brings it back.
//
// Input: a byte that selects the device and its options, then the state.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/pci/local_handle.hpp>
#include <outboard/pci/migratable.hpp>
#include <outboard/targets/target.hpp>
#include <outboard/targets/transport_options.hpp>
#include <outboard/testing/manual_loop.hpp>
#include "input.hpp"

namespace {

using namespace outboard;
using fuzz::require;

constexpr std::array devices{"blk,null,size=1M", "blk,null,size=1M,packed,queues=3", "example", "example,packed",
                             "edu"};

class Game {
 public:
  explicit Game(unsigned device) {
    const auto local = targets::parse_local(devices[device % devices.size()]).value();
    auto plan = targets::plan_function(*targets::find_device(local.device).value(), local.options).value();
    auto made = plan.factory(loop_, Log()).value();
    function_ = made.get();
    handle_ = pci::LocalHandle::over(std::move(made), [this] { loop_.run_until_idle(); }, "fuzz").value();
    // Where the drivers of the samples had their rings, and a hole behind it.
    memory_ = handle_->dma().allocate(std::uint64_t{2} << 20).value();
  }

  void play(Bytes state) {
    require(stop(), "it stops");
    const auto before = function_->migratable()->save().value();
    const bool taken = load({state.begin(), state.end()});
    const auto after = function_->migratable()->save();
    require(after.has_value(), "it can be saved");
    const Bytes wanted = taken ? state : Bytes(before);
    require(std::ranges::equal(*after, wanted), taken ? "it is what was loaded" : "nothing has changed");
    const bool runs = function_->migratable()->run().has_value();
    loop_.run_until_idle();
    if (runs) require(stop(), "it stops again");
    require(handle_->reset().has_value(), "a reset");
    require(!function_->migratable()->is_stopped(), "a reset ends being stopped");
    require(handle_->identity().has_value(), "it answers");
  }

 private:
  bool stop() {
    bool stopped = false;
    function_->migratable()->stop([&](const Status& done) { stopped = done.has_value(); });
    loop_.run_until_idle();
    return stopped;
  }
  bool load(std::vector<std::byte> state) {
    bool loaded = false;
    function_->migratable()->load(std::move(state), [&](const Status& done) { loaded = done.has_value(); });
    loop_.run_until_idle();
    return loaded;
  }

  testing::ManualLoop loop_;
  pci::Function* function_ = nullptr;
  std::unique_ptr<pci::LocalHandle> handle_;
  memory::DmaBuffer memory_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  Game game(input.byte());
  game.play(input.rest());
  return 0;
}
