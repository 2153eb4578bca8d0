#include <tools/outboard/new/name.hpp>

#include <algorithm>
#include <array>
#include <span>

#include <fmt/format.h>

namespace outboard::command {

namespace {

using namespace std::string_view_literals;

constexpr std::size_t max_name_length = 32;

// ASCII, whatever the locale.
constexpr bool is_letter(char c) { return c >= 'a' && c <= 'z'; }
constexpr bool is_part(char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '_'; }
constexpr char to_upper(char c) { return is_letter(c) ? static_cast<char>(c - 'a' + 'A') : c; }

constexpr std::array keywords = {
    "alignas"sv,     "alignof"sv,  "and"sv,        "and_eq"sv,    "asm"sv,       "auto"sv,         "bitand"sv,
    "bitor"sv,       "bool"sv,     "break"sv,      "case"sv,      "catch"sv,     "char"sv,         "char16_t"sv,
    "char32_t"sv,    "char8_t"sv,  "class"sv,      "co_await"sv,  "co_return"sv, "co_yield"sv,     "compl"sv,
    "concept"sv,     "const"sv,    "const_cast"sv, "consteval"sv, "constexpr"sv, "constinit"sv,    "continue"sv,
    "decltype"sv,    "default"sv,  "delete"sv,     "do"sv,        "double"sv,    "dynamic_cast"sv, "else"sv,
    "enum"sv,        "explicit"sv, "export"sv,     "extern"sv,    "false"sv,     "float"sv,        "for"sv,
    "friend"sv,      "goto"sv,     "if"sv,         "inline"sv,    "int"sv,       "long"sv,         "mutable"sv,
    "namespace"sv,   "new"sv,      "noexcept"sv,   "not"sv,       "not_eq"sv,    "nullptr"sv,      "operator"sv,
    "or"sv,          "or_eq"sv,    "private"sv,    "protected"sv, "public"sv,    "register"sv,     "reinterpret_cast"sv,
    "requires"sv,    "return"sv,   "short"sv,      "signed"sv,    "sizeof"sv,    "static"sv,       "static_assert"sv,
    "static_cast"sv, "struct"sv,   "switch"sv,     "template"sv,  "this"sv,      "thread_local"sv, "throw"sv,
    "true"sv,        "try"sv,      "typedef"sv,    "typeid"sv,    "typename"sv,  "union"sv,        "unsigned"sv,
    "using"sv,       "virtual"sv,  "void"sv,       "volatile"sv,  "wchar_t"sv,   "while"sv,        "xor"sv,
    "xor_eq"sv};

/// Rooms, namespaces and functions of `outboard`, and namespaces and macros that the generated code or its headers use.
constexpr std::array used_names = {
    "outboard"sv, "base"sv, "memory"sv, "pci"sv, "virtio"sv, "virtio_pci"sv, "storage"sv, "vfio_abi"sv, "vfio"sv,
    "vfio_user"sv, "vduse"sv, "vhost_user"sv, "vhost_vdpa"sv, "devices"sv, "targets"sv, "testing"sv, "command"sv,
    "tools"sv, "std"sv, "fmt"sv, "spec"sv, "feature"sv, "status"sv, "detail"sv, "has"sv, "parse_size"sv,
    "checked_add"sv, "checked_multiply"sv, "range_within"sv, "as_bytes_of"sv, "as_writable_bytes_of"sv,
    "drain_eventfd"sv, "le16"sv, "le32"sv, "le64"sv, "be16"sv, "be32"sv, "be64"sv, "main"sv, "test"sv, "posix"sv,
    "errno"sv, "assert"sv, "stdin"sv, "stdout"sv, "stderr"sv, "linux"sv, "unix"sv, "local"sv, "serve"sv,
    // Targets of Ninja, beside the program of a project of its own.
    "all"sv, "clean"sv, "help"sv, "install"sv, "package"sv, "edit_cache"sv, "rebuild_cache"sv};

/// Where virtio_NAME is taken in Linux: modules, headers and identifiers.
constexpr std::array linux_names = {
    "balloon"sv, "blk"sv,        "bt"sv,        "config"sv,        "console"sv, "crypto"sv, "device"sv, "device_id"sv,
    "dma_buf"sv, "driver"sv,     "fs"sv,        "gpio"sv,          "gpu"sv,     "i2c"sv,    "ids"sv,    "input"sv,
    "iommu"sv,   "mem"sv,        "mmio"sv,      "net"sv,           "pmem"sv,    "ring"sv,   "rng"sv,    "rtc"sv,
    "scsi"sv,    "snd"sv,        "spi"sv,       "types"sv,         "vdpa"sv,    "video"sv,  "vsock"sv,  "anchor"sv,
    "bus"sv,     "shm_region"sv, "admin_cmd"sv, "pci_common_cfg"sv};

bool is_one_of(std::string_view name, std::span<const std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

std::string words_of(std::string_view name, std::string_view between) {
  std::string text;
  bool first = true;  // of a word
  for (const char c : name) {
    if (c == '_') {
      first = true;
      continue;
    }
    if (first && !text.empty()) text += between;
    text += first ? to_upper(c) : c;
    first = false;
  }
  return text;
}

}  // namespace

Status check_device_name(std::string_view name) {
  const auto refuse = [name](std::string_view why) {
    return Error(EINVAL, fmt::format("'{}' cannot be the name of a device: {}", name, why))
        .cure("use lower-case letters, digits and underscores, a letter first: water_level");
  };
  if (name.empty()) return refuse("it is empty");
  if (name.size() > max_name_length) return refuse(fmt::format("it has more than {} characters", max_name_length));
  if (!is_letter(name.front())) return refuse("it does not begin with a lower-case letter");
  if (!std::ranges::all_of(name, is_part)) return refuse("only a-z, 0-9 and _ are allowed");
  if (name.ends_with('_') || name.find("__") != name.npos)
    return refuse("C++ reserves names with two underscores in a row or one at the end");
  if (is_one_of(name, keywords)) return refuse("it is a keyword of C++");
  if (is_one_of(name, used_names)) return refuse("the library or its build uses it");
  if (is_one_of(name, linux_names)) return refuse(fmt::format("Linux has a virtio_{} of its own", name));
  for (const std::string_view end : {"_test"sv, "_fuzz"sv, "_bench"sv})
    if (name.ends_with(end)) return refuse(fmt::format("the build treats files whose names end in {} specially", end));
  return {};
}

Status check_device_id(std::uint32_t id, bool assigned) {
  if (id == 0 || id > max_device_id)
    return Error(EINVAL, fmt::format("device ID {} does not fit into a PCI device ID", id))
        .cure(fmt::format("choose one from {} to {}, which are free for experiments", max_assigned_id + 1,
                          max_device_id));
  if (id <= max_assigned_id && !assigned)
    return Error(EINVAL, fmt::format("VIRTIO 1.4 assigns device ID {} to a device type", id))
        .cure("add --assigned if this is that device type");
  return {};
}

std::string class_name(std::string_view name) { return words_of(name, ""); }
std::string title_of(std::string_view name) { return words_of(name, " "); }

std::string upper_name(std::string_view name) {
  std::string text(name);
  std::ranges::transform(text, text.begin(), to_upper);
  return text;
}

}  // namespace outboard::command
