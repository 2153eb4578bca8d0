#include <tools/outboard/vduse_list.hpp>

#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <tools/outboard/text.hpp>
#include <tools/outboard/vduse_places.hpp>

namespace outboard::command {

namespace {

using nlohmann::ordered_json;

std::string bus_text(const VduseDevice& device) {
  if (!device.attached) return "not attached";
  if (!device.child) return "attached, no driver";
  const std::string driver = vduse::name_of(device.child->driver);
  if (device.child->driver == vduse::BusDriver::vhost) return fmt::format("{} /dev/{}", driver, device.child->name);
  return fmt::format(
      "{} {}", driver,
      device.child->made.empty() ? device.child->name + " without a disk" : "/dev/" + device.child->made);
}

std::string server_text(const VduseDevice& device) {
  return device.server ? fmt::format("served by {} ({})", device.server->pid, device.server->command)
                       : "no server seen";
}

ordered_json as_json(const VduseDevice& device) {
  ordered_json json{
      {"name", device.name}, {"attached", device.attached}, {"driver", nullptr}, {"child", nullptr},
      {"made", nullptr},     {"users", device.users},       {"server", nullptr}, {"journal", device.journal}};
  if (device.child) {
    json["driver"] = vduse::name_of(device.child->driver);
    json["child"] = device.child->name;
    if (!device.child->made.empty()) json["made"] = device.child->made;
  }
  if (device.server) json["server"] = {{"pid", device.server->pid}, {"command", device.server->command}};
  return json;
}

}  // namespace

std::vector<VduseDevice> vduse_devices(const std::string& root) {
  vduse::Bus::Options places;
  places.sysfs = root + "/sys";
  places.proc = root + "/proc";
  places.dev = root + "/dev";
  places.run = root + "/run/outboard";
  const vduse::Bus bus(places);
  std::vector<VduseDevice> devices;
  for (const std::string& name : bus.devices()) {
    VduseDevice device{.name = name, .attached = bus.attached(name), .child = bus.child(name)};
    if (device.child && device.child->driver == vduse::BusDriver::virtio && !device.child->made.empty())
      device.users = bus.users_of(device.child->made);
    device.server = holder_of(fmt::format("{}/vduse/{}", places.dev, name), places.proc);
    device.journal = ::access(vduse_journal(name, places.run).c_str(), F_OK) == 0;
    devices.push_back(std::move(device));
  }
  return devices;
}

std::string vduse_text(const std::vector<VduseDevice>& devices) {
  if (devices.empty()) return "no VDUSE devices\n";
  std::string text;
  for (const auto& device : devices) {
    const std::string use = device.users.empty() ? "" : fmt::format(", used: {}", fmt::join(device.users, " "));
    text += fmt::format("{:<16} {}{}, {}, {}\n", device.name, bus_text(device), use, server_text(device),
                        device.journal ? "journal" : "no journal");
  }
  return text;
}

std::string vduse_json(const std::vector<VduseDevice>& devices) {
  auto list = ordered_json::array();
  for (const auto& device : devices) list.push_back(as_json(device));
  return json_text({{"devices", list}});
}

}  // namespace outboard::command
