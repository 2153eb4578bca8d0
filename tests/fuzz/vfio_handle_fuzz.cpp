// A kernel, or a device behind it, that lies to vfio::Handle: the answers about regions, interrupts and the IOMMU, and what
// configuration space reads as. Whatever it says, opening ends, and what can be opened can be used and closed.

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/fake_vfio.hpp>
#include <tests/support/plain_function.hpp>

#include "input.hpp"

namespace {

using namespace outboard;
using testing::FakeVfio;
using testing::PlainFunction;

unsigned below(fuzz::Input& input, unsigned limit) { return input.number(limit > 256 ? 4 : 1) % limit; }

/// Writes over a structure that was true; the first word, its size, stays.
void spoil(std::vector<std::byte>& answer, fuzz::Input& input) {
  for (unsigned changes = below(input, 4); changes != 0 && answer.size() > 8; --changes) {
    const std::size_t at = 4 + below(input, static_cast<unsigned>(answer.size() - 4));
    answer[at] = static_cast<std::byte>(below(input, 256));
  }
  if (below(input, 8) == 0) answer.resize(answer.size() + below(input, 4096));
}

void use(vfio::Handle& handle, fuzz::Input& input) {
  (void)handle.capabilities();
  (void)handle.msix_vector_count();
  (void)handle.identity();
  for (unsigned i = 0; i < pci::region::count; ++i) {
    const auto region = handle.region(i);
    if (!region || region->size == 0) continue;
    std::byte bytes[8];
    (void)handle.read_region(i, below(input, 0x40000), MutableBytes(bytes).first(1 + below(input, 8)));
    // A window that is given can be looked through.
    const auto window = handle.map_window(i, below(input, 0x40) * 0x1000, 4096);
    if (window) (void)window->read<std::uint32_t>(0);
  }
  (void)handle.enable_interrupts_up_to(pci::InterruptKind::msix, 1 + below(input, 8));
  (void)handle.dma().allocate(4096);
  (void)handle.reset();
  (void)handle.process();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::ManualLoop loop;
  FakeVfio kernel;
  auto made = PlainFunction::create(loop, Log(), {});
  PlainFunction* const function = made->get();
  testing::FakeVfioDevice& device =
      kernel.add({.cdev = "vfio0", .dynamic_msix = below(input, 2) != 0, .msix_mappable = below(input, 2) != 0},
                 std::move(*made), [&loop] { loop.run_until_idle(); });
  device.change_region_info = [&input](unsigned, std::vector<std::byte>& answer) { spoil(answer, input); };
  kernel.change_iommu_info = [&input](std::vector<std::byte>& answer) { spoil(answer, input); };
  // A device whose capabilities lead anywhere.
  for (unsigned changes = below(input, 4); changes != 0; --changes) {
    function->config().set(pci::ConfigOffset{static_cast<std::uint16_t>(below(input, 0x140))}, 1, below(input, 256));
  }
  auto options = kernel.options();
  options.interface.interface = below(input, 2) != 0 ? vfio::Interface::group : vfio::Interface::cdev;
  if (auto handle = vfio::Handle::open({0, 0, 4, 0}, options)) use(**handle, input);
  fuzz::require(!kernel.in_use({0, 0, 4, 0}), "the device is closed");
  fuzz::require(kernel.violations().empty(), "no rule of the kernel's was broken");
  return 0;
}
