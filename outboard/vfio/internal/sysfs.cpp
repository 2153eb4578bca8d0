#include <outboard/vfio/internal/sysfs.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <system_error>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>

namespace outboard::vfio {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t attribute_size = 4096;          // sysfs: one page
constexpr std::uint32_t highest_class = 0xffffff;     // three bytes
constexpr std::size_t max_functions = 256 * 32 * 8;  // of one domain; more than a machine has in all of its domains

template <typename T>
std::optional<T> to_number(std::string_view text) {
  const bool hexadecimal = text.starts_with("0x");
  if (hexadecimal) text.remove_prefix(2);
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value, hexadecimal ? 16 : 10);
  if (code != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

template <typename T>
std::optional<T> number_in(const fs::path& path) {
  const auto text = read_attribute(path);
  return text ? to_number<T>(*text) : std::nullopt;
}

Error not_a_number(const fs::path& path) {
  return Error(EIO, "the attribute is missing, or is not a number of its size").on(path.string());
}

template <typename T>
Status require(T& value, const fs::path& path, std::uint64_t highest = std::numeric_limits<T>::max()) {
  const auto number = number_in<std::uint64_t>(path);
  if (!number || *number > highest) return not_a_number(path);
  value = static_cast<T>(*number);
  return {};
}

template <typename T>
void accept(T& value, const fs::path& path) {
  const auto number = number_in<std::uint64_t>(path);
  if (number && *number <= std::numeric_limits<T>::max()) value = static_cast<T>(*number);
}

/// The node of the device itself: FOLDER/vfio-dev/vfioN.
std::string cdev_of(const fs::path& folder) {
  std::error_code code;
  for (fs::directory_iterator at(folder / "vfio-dev", code), end; !code && at != end; at.increment(code)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with("vfio") && to_number<unsigned>(std::string_view(name).substr(4))) return name;
  }
  return {};
}

Status read_identity(FunctionFacts& facts, const fs::path& folder) {
  OUTBOARD_CHECK(require(facts.vendor, folder / "vendor"));
  OUTBOARD_CHECK(require(facts.device, folder / "device"));
  OUTBOARD_CHECK(require(facts.class_code, folder / "class", highest_class));
  accept(facts.subsystem_vendor, folder / "subsystem_vendor");
  accept(facts.subsystem, folder / "subsystem_device");
  accept(facts.revision, folder / "revision");
  return {};
}

}  // namespace

bool FunctionFacts::bound_to_vfio() const {
  // The variants are named after what they drive: mlx5_vfio_pci, hisi-acc-vfio-pci, nvgrace_gpu_vfio_pci.
  return driver == "vfio-pci" || driver.ends_with("_vfio_pci") || driver.ends_with("-vfio-pci");
}

std::optional<std::string> read_attribute(const fs::path& path) {
  // O_NONBLOCK: something that is not a regular file must not keep the caller.
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return std::nullopt;
  std::array<char, attribute_size + 1> bytes{};
  std::size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t got = ::read(file.get(), bytes.data() + size, bytes.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > attribute_size) return std::nullopt;
  std::string text(bytes.data(), size);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\0')) text.pop_back();
  return text;
}

std::string link_name(const fs::path& path) {
  std::error_code code;
  return fs::read_symlink(path, code).filename().string();
}

fs::path Sysfs::function_folder(pci::Address address) const {
  return root_ / "bus" / "pci" / "devices" / address.text();
}

std::optional<std::uint64_t> Sysfs::number(pci::Address address, const std::string& attribute) const {
  return number_in<std::uint64_t>(function_folder(address) / attribute);
}

Result<FunctionFacts> Sysfs::function(pci::Address address) const {
  const fs::path folder = function_folder(address);
  std::error_code code;
  if (!fs::is_directory(folder, code))
    return Error(ENODEV, "there is no such PCI function").on(address.text()).cure("'outboard pci list' has them all");
  FunctionFacts facts;
  facts.address = address;
  if (auto read = read_identity(facts, folder); !read) return read.error();
  facts.driver = link_name(folder / "driver");
  facts.group = to_number<unsigned>(link_name(folder / "iommu_group"));
  if (facts.group) facts.no_iommu_group = is_no_iommu_group(*facts.group);
  facts.cdev = cdev_of(folder);
  // The kernel writes -1 where the firmware does not say.
  if (const auto node = number_in<int>(folder / "numa_node"); node && *node >= 0) facts.numa_node = node;
  return facts;
}

bool Sysfs::is_no_iommu_group(unsigned group) const {
  return read_attribute(root_ / "kernel" / "iommu_groups" / std::to_string(group) / "name") == "vfio-noiommu";
}

Result<std::vector<FunctionFacts>> Sysfs::functions() const {
  const fs::path folder = root_ / "bus" / "pci" / "devices";
  std::error_code code;
  if (!fs::exists(folder, code)) return std::vector<FunctionFacts>{};
  return facts_of_folder(folder);
}

Result<std::vector<FunctionFacts>> Sysfs::group_members(unsigned group) const {
  const fs::path folder = root_ / "kernel" / "iommu_groups" / std::to_string(group) / "devices";
  std::error_code code;
  if (!fs::exists(folder, code)) return Error(ENODEV, fmt::format("there is no IOMMU group {}", group));
  return facts_of_folder(folder);
}

Result<std::vector<FunctionFacts>> Sysfs::facts_of_folder(const fs::path& folder) const {
  std::vector<FunctionFacts> all;
  std::error_code code;
  for (fs::directory_iterator at(folder, code), end; !code && at != end; at.increment(code)) {
    if (all.size() == max_functions) return Error(E2BIG, "it holds too many functions").on(folder.string());
    const auto address = pci::Address::parse(at->path().filename().string());
    if (!address) continue;
    if (auto facts = function(*address)) all.push_back(std::move(*facts));
  }
  if (code) return Error(code.value(), "reading it: " + code.message()).on(folder.string());
  std::ranges::sort(all, {}, &FunctionFacts::address);
  return all;
}

}  // namespace outboard::vfio
