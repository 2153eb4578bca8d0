#include <outboard/targets/internal/vfio_target.hpp>

#include <algorithm>
#include <array>

#include <outboard/pci/address.hpp>
#include <outboard/vfio/handle.hpp>

namespace outboard::targets {
namespace {

constexpr std::array<OptionHelp, 3> vfio_table{{
    {"interface", "group|cdev|no-iommu",
     "interface of the kernel (default: cdev if the kernel has iommufd, else group)"},
    {"vf-token", "UUID", "token of a virtual function whose physical function is driven in user space"},
    {"huge-pages", "", "allocate memory for DMA in huge pages if some are free"},
}};

constexpr std::array<std::string_view, 4> interfaces{"automatic", "group", "cdev", "no-iommu"};

vfio::Interface interface_of(std::string_view name) {
  return static_cast<vfio::Interface>(std::ranges::find(interfaces, name) - interfaces.begin());
}
static_assert(static_cast<int>(vfio::Interface::automatic) == 0 && static_cast<int>(vfio::Interface::no_iommu) == 3);

Result<vfio::InterfaceOptions> interface_options(OptionSet& set) {
  vfio::InterfaceOptions options;
  OUTBOARD_TRY(const auto interface, set.choice("interface", interfaces, interfaces[0]));
  options.interface = interface_of(interface);
  if (set.has("vf-token")) {
    OUTBOARD_TRY(options.vf_token, set.text("vf-token", ""));
  }
  return options;
}

}  // namespace

std::span<const OptionHelp> vfio_options() { return vfio_table; }

Result<std::unique_ptr<pci::Handle>> open_vfio(std::string_view text, const Log& log) {
  const std::size_t comma = std::min(text.find(','), text.size());
  OUTBOARD_TRY(const auto address, pci::Address::parse(text.substr(0, comma)));
  OptionSet set;
  if (comma < text.size()) {
    OUTBOARD_TRY(set, OptionSet::parse(text.substr(comma + 1)));
  }
  vfio::Handle::Options options{.log = log};
  OUTBOARD_TRY(options.interface, interface_options(set));
  OUTBOARD_TRY(options.huge_pages, set.flag("huge-pages", false));
  OUTBOARD_CHECK(set.finish(vfio_table));
  return vfio::Handle::open(address, options);
}

}  // namespace outboard::targets
