#include <outboard/targets/target.hpp>

#include <sys/un.h>

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include <outboard/pci/local_handle.hpp>
#include <outboard/targets/device_table.hpp>
#include <outboard/targets/internal/vfio_target.hpp>
#include <outboard/targets/transport_options.hpp>
#include <outboard/vduse/node.hpp>
#include <outboard/vfio_user/client.hpp>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 3> targets{{
    {"vfio-user", "PATH", "the function that a server exports on this UNIX socket"},
    {"vfio", "ADDRESS[,OPTION=VALUE,...]", "a PCI function of this machine that is bound to vfio-pci"},
    {"local", "DEVICE,OPTION=VALUE,...", "a device made in this process"},
}};

/// Between the 2 s after which a server of ours says that it is late, and the 5 s after which QEMU gives the connection up.
constexpr Duration forward_timeout = std::chrono::seconds(3);

Result<std::unique_ptr<pci::Handle>> open_vfio_user(std::string_view path, const OpenOptions& options) {
  vfio_user::Client::Options client;
  client.log = options.log;
  client.wait = options.wait;
  client.pause = options.pause;
  if (options.purpose == Purpose::forward) {
    client.timeout = forward_timeout;
    client.on_timeout = vfio_user::Client::OnTimeout::end;
  }
  OUTBOARD_TRY(std::unique_ptr<pci::Handle> handle, vfio_user::Client::connect(std::string(path), std::move(client)));
  options.log.debug("vfio-user:{}: connected", path);
  return handle;
}

Result<std::unique_ptr<pci::Handle>> open_local(std::string_view target, std::string_view text,
                                                const OpenOptions& options) {
  OUTBOARD_TRY(auto local, parse_local(text));
  OUTBOARD_TRY(const auto* entry, find_device(local.device));
  OUTBOARD_TRY(auto plan, plan_function(*entry, std::move(local.options)));
  options.log.debug("{}: making the device on a thread of its own", target);
  return pci::LocalHandle::start(std::move(plan.factory),
                                 {.log = options.log, .spin = plan.spin, .name = std::string(target)});
}

}  // namespace

std::span<const OptionHelp> target_schemes() { return targets; }

namespace {

/// Whether anything can have this address. Whether something has it is known only when it is used.
Status check_rest(const Address& address) {
  if (address.scheme == "vduse") return vduse::check_name(address.rest);
  static constexpr std::size_t max_path = sizeof(sockaddr_un::sun_path) - 1;
  if (address.scheme != "vfio-user" || address.rest.size() <= max_path) return {};
  return Error(EINVAL, fmt::format("the path of a UNIX socket has at most {} characters, not {}", max_path,
                                   address.rest.size()))
      .cure("use a shorter path");
}

}  // namespace

Result<Address> parse_address(std::string_view text, std::string_view kind, std::span<const OptionHelp> known) {
  std::string list;
  for (const auto& scheme : known) list += fmt::format("{}{}:{}", list.empty() ? "" : ", ", scheme.name, scheme.value);
  const std::string cure = fmt::format("a {} is one of: {}", kind, list);
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return Error(EINVAL, fmt::format("'{}' is not a {}", text, kind)).cure(cure);
  const Address address{text.substr(0, colon), text.substr(colon + 1)};
  const auto scheme = std::ranges::find(known, address.scheme, &OptionHelp::name);
  if (scheme == known.end())
    return Error(EINVAL, fmt::format("unknown kind of {}: '{}'", kind, address.scheme))
        .on(std::string(text))
        .cure(cure);
  if (address.rest.empty())
    return Error(EINVAL, fmt::format("{} is missing", scheme->value)).on(std::string(text)).cure(cure);
  if (const Status good = check_rest(address); !good) return Error(good.error()).on(std::string(text));
  return address;
}

Result<LocalTarget> parse_local(std::string_view text) {
  const std::size_t comma = std::min(text.find(','), text.size());
  LocalTarget local{text.substr(0, comma), OptionSet()};
  if (comma < text.size()) {
    OUTBOARD_TRY(local.options, OptionSet::parse(text.substr(comma + 1)));
  }
  return local;
}

Result<std::unique_ptr<pci::Handle>> open(std::string_view target, const OpenOptions& options) {
  OUTBOARD_TRY(const auto address, parse_address(target, "target", targets));
  auto handle = address.scheme == "local"  ? open_local(target, address.rest, options)
                : address.scheme == "vfio" ? open_vfio(address.rest, options.log)
                                           : open_vfio_user(address.rest, options);
  // An error that has a subject of its own, such as an image, keeps it.
  if (!handle && handle.error().subject().empty()) return Error(handle.error()).on(std::string(target));
  return handle;
}

}  // namespace outboard::targets
