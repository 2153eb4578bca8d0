#include <tools/outboard/new/device.hpp>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <tools/outboard/build_facts.hpp>
#include <tools/outboard/new/name.hpp>
#include <tools/outboard/new/templates.hpp>

namespace outboard::command {

namespace {

namespace fs = std::filesystem;

using Values = std::vector<std::pair<std::string_view, std::string>>;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

std::string fill(std::string_view text, const Values& values) {
  std::string filled(text);
  for (const auto& [word, value] : values) {
    // A line that holds nothing else goes with a value that is empty.
    if (value.empty()) replace_all(filled, fmt::format("{}\n", word), "");
    replace_all(filled, word, value);
  }
  return filled;
}

/// "0.1" of "0.1.0": what find_package asks for.
std::string minor_version() { return std::string(version.substr(0, version.rfind('.'))); }

/// Where a folder of templates/device goes, and what the templates' words stand for.
struct Shape {
  std::vector<std::pair<std::string_view, std::string>> folders;  ///< a file in no folder of these is not made
  std::vector<std::string> units;  ///< empty: whatever lies at the top
  Values values;
};

Values common_values(const NewDevice& device) {
  return {{"@NAME@", device.name},
          {"@CLASS@", class_name(device.name)},
          {"@UPPER@", upper_name(device.name)},
          {"@TITLE@", title_of(device.name)},
          {"@ID@", std::to_string(device.device_id)},
          {"@VERSION@", minor_version()}};
}

Shape checkout_shape(const NewDevice& device) {
  const std::string folder = "outboard/devices/" + device.name, linux = "linux/virtio_" + device.name;
  const std::string guest = fmt::format("tests/system/{}_test.py", device.name);
  Shape shape{
      .folders = {{"core/", folder + "/"}, {"linux/", linux + "/"}, {"guest/guest_test.py", guest}, {"checkout/", ""}},
      .units = {folder, linux, guest, fmt::format("examples/read_{}.cpp", device.name)},
      .values = common_values(device)};
  shape.values.insert(shape.values.end(),
                      {{"@NAMESPACE@", "outboard::" + device.name},
                       {"@USING@", ""},
                       {"@INCLUDE@", folder},
                       {"@LINUX@", linux},
                       {"@LINUX_HEADER@", fmt::format("../../../{0}/virtio_{1}.h", linux, device.name)},
                       {"@DRIVER_FROM_TEST@", "../../" + linux},
                       {"@SERVE@", fmt::format("'{}', ", device.name)}});
  return shape;
}

Shape standalone_shape(const NewDevice& device) {
  const std::string folder = "virtio_" + device.name;
  Shape shape{.folders = {{"core/", folder + "/"},
                          {"linux/", "linux/"},
                          {"guest/guest_test.py", "tests/guest_test.py"},
                          {"standalone/", ""}},
              .units = {},
              .values = common_values(device)};
  shape.values.insert(shape.values.end(),
                      {{"@NAMESPACE@", folder},
                       {"@USING@", "using namespace outboard;  // the library's: Result, le32, virtio::Device...\n"},
                       {"@INCLUDE@", folder},
                       {"@LINUX@", "linux"},
                       {"@LINUX_HEADER@", fmt::format("../linux/virtio_{}.h", device.name)},
                       {"@DRIVER_FROM_TEST@", "../linux"},
                       {"@SERVE@", ""}});
  return shape;
}

/// The path of a file, or nothing where this shape has none.
std::optional<std::string> place_of(std::string_view path, const Shape& shape) {
  for (const auto& [from, to] : shape.folders)
    if (path.starts_with(from)) return fill(to + std::string(path.substr(from.size())), shape.values);
  return std::nullopt;
}

std::vector<std::string> tops_of(const std::vector<NewFile>& files) {
  std::set<std::string> tops;
  for (const auto& file : files) tops.insert(file.path.substr(0, file.path.find('/')));
  return {tops.begin(), tops.end()};
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// The number in the first `device_id = N;`.
std::optional<std::uint32_t> device_id_in(std::string_view layout) {
  static constexpr std::string_view name = "device_id = ";
  for (std::size_t at = layout.find(name); at != layout.npos; at = layout.find(name, at + 1)) {
    if (at > 0 && is_word(layout[at - 1])) continue;
    const char* const begin = layout.data() + at + name.size();
    const char* const end = layout.data() + layout.size();
    std::uint16_t id = 0;
    const auto [stop, error] = std::from_chars(begin, end, id);
    if (error == std::errc{} && stop != end && *stop == ';') return id;
  }
  return std::nullopt;
}

}  // namespace

FileSet files_of(const NewDevice& device) {
  const Shape shape = device.form == NewDevice::Form::checkout ? checkout_shape(device) : standalone_shape(device);
  FileSet set;
  for (const auto& each : device_templates())
    if (auto path = place_of(each.path, shape)) set.files.push_back({std::move(*path), fill(each.text, shape.values)});
  std::ranges::sort(set.files, {}, &NewFile::path);
  set.units = shape.units.empty() ? tops_of(set.files) : shape.units;
  return set;
}

bool is_checkout(const fs::path& folder) {
  static constexpr std::array marks = {"cmake/OutboardRooms.cmake", "outboard/devices/CMakeLists.txt", "dev"};
  return std::ranges::all_of(marks, [&folder](const char* mark) {
    std::error_code ignored;
    return fs::is_regular_file(folder / mark, ignored);
  });
}

Result<fs::path> find_checkout(const fs::path& from) {
  for (fs::path folder = from;; folder = folder.parent_path()) {
    if (is_checkout(folder)) return folder;
    if (!folder.has_relative_path()) break;
  }
  return Error(ENOENT, "is not in a checkout of Outboard").on(from.string());
}

std::map<std::uint32_t, std::string> used_device_ids(const fs::path& checkout) {
  std::map<std::uint32_t, std::string> used;
  std::error_code ignored;
  for (fs::directory_iterator folder(checkout / "outboard/devices", ignored), end; folder != end;
       folder.increment(ignored)) {
    std::stringstream text;
    text << std::ifstream(folder->path() / "layout.hpp").rdbuf();
    if (const auto id = device_id_in(text.str())) used.emplace(*id, folder->path().filename().string());
  }
  return used;
}

Result<std::uint32_t> next_device_id(const std::map<std::uint32_t, std::string>& used) {
  for (std::uint32_t id = max_device_id; id > max_assigned_id; --id)
    if (!used.contains(id)) return id;
  return Error(ENOSPC, "every device ID for experiments is taken").cure("choose one with --device-id N");
}

}  // namespace outboard::command
