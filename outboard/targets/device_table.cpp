#include <outboard/targets/device_table.hpp>

#include <algorithm>

#include <fmt/format.h>

namespace outboard::targets {

Result<const DeviceEntry*> find_device(std::string_view name) {
  const auto table = device_table();
  const auto found = std::ranges::find(table, name, &DeviceEntry::name);
  if (found != table.end()) return &*found;
  std::string known;
  for (const auto& entry : table) known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.name);
  return Error(EINVAL, fmt::format("unknown device '{}'", name)).cure("devices: " + known);
}

}  // namespace outboard::targets
