#include <tools/outboard/vduse/list.hpp>

#include <unistd.h>

#include <fstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <tools/outboard/json.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/vduse/places.hpp>

namespace outboard::command {

namespace {

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
                       : "no server visible";
}

Json as_json(const VduseDevice& device) {
  Json json{{"name", device.name},    {"attached", device.attached},
            {"driver", nullptr},      {"child", nullptr},
            {"made", nullptr},        {"users", device.users},
            {"server", nullptr},      {"journal", !device.journal.empty()},
            {"journal_path", nullptr}};
  if (device.child) {
    json.set("driver", vduse::name_of(device.child->driver));
    json.set("child", device.child->name);
    if (!device.child->made.empty()) json.set("made", device.child->made);
  }
  if (!device.journal.empty()) json.set("journal_path", device.journal);
  if (device.server) json.set("server", {{"pid", device.server->pid}, {"command", device.server->command}});
  return json;
}

/// The value of an option among a process's arguments. Nothing: it was not given, or this user may not see that.
std::optional<std::string> argument_of(const std::string& proc, int pid, const std::string& option) {
  std::ifstream arguments(fmt::format("{}/{}/cmdline", proc, pid));
  for (std::string word; std::getline(arguments, word, '\0');) {
    if (word == option && std::getline(arguments, word, '\0')) return word;
    if (word.starts_with(option + "=")) return word.substr(option.size() + 1);
  }
  return std::nullopt;
}

std::string journal_of(const VduseDevice& device, const vduse::Bus::Options& places) {
  if (device.server) {
    if (const auto path = argument_of(places.proc, device.server->pid, "--journal")) return *path;
  }
  const std::string usual = vduse_journal(device.name, places.run);
  return ::access(usual.c_str(), F_OK) == 0 ? usual : "";
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
    device.journal = journal_of(device, places);
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
                        device.journal.empty() ? "no journal" : "journal " + device.journal);
  }
  return text;
}

std::string vduse_json(const std::vector<VduseDevice>& devices) {
  Json list = Json::array();
  for (const auto& device : devices) list.push_back(as_json(device));
  return Json({{"devices", list}}).text();
}

}  // namespace outboard::command
