#include <outboard/targets/vfio_target.hpp>

#include <algorithm>
#include <array>

#include <outboard/pci/address.hpp>
#include <outboard/vfio/handle.hpp>

namespace outboard::targets {
namespace {

constexpr std::array<OptionHelp, 3> words_of_vfio{{
    {"door", "group|cdev|no-iommu", "how the kernel is asked for it (cdev where there is iommufd, else group)"},
    {"vf-token", "UUID", "of a virtual function whose physical one is driven in user space"},
    {"huge-pages", "", "memory for DMA in huge pages, where some are free"},
}};

constexpr std::array<std::string_view, 4> doors{"automatic", "group", "cdev", "no-iommu"};

vfio::Door door_of(std::string_view name) {
  return static_cast<vfio::Door>(std::ranges::find(doors, name) - doors.begin());
}
static_assert(static_cast<int>(vfio::Door::automatic) == 0 && static_cast<int>(vfio::Door::no_iommu) == 3);

Result<vfio::DoorOptions> door_options(OptionSet& words) {
  vfio::DoorOptions options;
  OUTBOARD_TRY(const auto door, words.choice("door", doors, doors[0]));
  options.door = door_of(door);
  if (words.has("vf-token")) {
    OUTBOARD_TRY(options.vf_token, words.text("vf-token", ""));
  }
  return options;
}

}  // namespace

std::span<const OptionHelp> vfio_words() { return words_of_vfio; }

Result<std::unique_ptr<pci::Handle>> open_vfio(std::string_view text, const Log& log) {
  const std::size_t comma = std::min(text.find(','), text.size());
  OUTBOARD_TRY(const auto address, pci::Address::parse(text.substr(0, comma)));
  OptionSet words;
  if (comma < text.size()) {
    OUTBOARD_TRY(words, OptionSet::parse(text.substr(comma + 1)));
  }
  vfio::Handle::Options options{.log = log};
  OUTBOARD_TRY(options.door, door_options(words));
  OUTBOARD_TRY(options.huge_pages, words.flag("huge-pages", false));
  OUTBOARD_CHECK(words.finish(words_of_vfio));
  return vfio::Handle::open(address, options);
}

}  // namespace outboard::targets
