#include <outboard/targets/target.hpp>

#include <algorithm>
#include <array>
#include <thread>

#include <fmt/format.h>

#include <outboard/pci/local_handle.hpp>
#include <outboard/targets/device_table.hpp>
#include <outboard/targets/transport_words.hpp>
#include <outboard/targets/vfio_target.hpp>
#include <outboard/vfio_user/client.hpp>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 3> schemes{{
    {"vfio-user", "PATH", "the function that a server exports on this UNIX socket"},
    {"vfio", "ADDRESS[,WORD=VALUE,...]", "a PCI function of this machine that is bound to vfio-pci"},
    {"local", "DEVICE,WORD=VALUE,...", "a device made in this process"},
}};

constexpr Duration first_pause = std::chrono::milliseconds(5), longest_pause = std::chrono::milliseconds(250);

/// Between the 2 s after which a server of ours says that it is late, and the 5 s after which QEMU gives the connection up.
constexpr Duration forward_deadline = std::chrono::seconds(3);

bool sleep_for(Duration time) {
  std::this_thread::sleep_for(time);
  return true;
}

Result<std::unique_ptr<pci::Handle>> open_vfio_user(std::string_view path, const OpenOptions& options) {
  std::unique_ptr<pci::Handle> handle;
  const auto connect = [&]() -> Status {
    vfio_user::Client::Options client;
    client.log = options.log;
    if (options.purpose == Purpose::forward) {
      client.timeout = forward_deadline;
      client.on_timeout = vfio_user::Client::OnTimeout::end;
    }
    OUTBOARD_TRY(handle, vfio_user::Client::connect(std::string(path), std::move(client)));
    return {};
  };
  OUTBOARD_CHECK(retry_while_starting(options.wait, options.pause ? options.pause : sleep_for, connect));
  return handle;
}

Result<std::unique_ptr<pci::Handle>> open_local(std::string_view target, std::string_view text,
                                                const OpenOptions& options) {
  OUTBOARD_TRY(auto local, parse_local(text));
  OUTBOARD_TRY(const auto* entry, find_device(local.device));
  OUTBOARD_TRY(auto plan, plan_function(*entry, std::move(local.words)));
  return pci::LocalHandle::start(std::move(plan.factory),
                                 {.log = options.log, .spin = plan.spin, .name = std::string(target)});
}

}  // namespace

std::span<const OptionHelp> target_schemes() { return schemes; }

Result<Address> parse_address(std::string_view text, std::string_view kind, std::span<const OptionHelp> known) {
  std::string list;
  for (const auto& scheme : known) list += fmt::format("{}{}:{}", list.empty() ? "" : ", ", scheme.name, scheme.value);
  const std::string cure = fmt::format("a {} is one of {}", kind, list);
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return Error(EINVAL, fmt::format("'{}' is not a {}", text, kind)).cure(cure);
  const Address address{text.substr(0, colon), text.substr(colon + 1)};
  const auto scheme = std::ranges::find(known, address.scheme, &OptionHelp::name);
  if (scheme == known.end())
    return Error(EINVAL, fmt::format("'{}' is not a kind of {}", address.scheme, kind))
        .on(std::string(text))
        .cure(cure);
  if (address.rest.empty())
    return Error(EINVAL, fmt::format("{} is missing", scheme->value)).on(std::string(text)).cure(cure);
  return address;
}

Result<LocalTarget> parse_local(std::string_view text) {
  const std::size_t comma = std::min(text.find(','), text.size());
  LocalTarget local{text.substr(0, comma), OptionSet()};
  if (comma < text.size()) {
    OUTBOARD_TRY(local.words, OptionSet::parse(text.substr(comma + 1)));
  }
  return local;
}

Status retry_while_starting(Duration wait, const std::function<bool(Duration)>& pause,
                            const std::function<Status()>& attempt) {
  // Time is counted by what was waited, not by a clock: the attempts themselves end at once or are final.
  Duration next = first_pause;
  while (true) {
    auto done = attempt();
    if (done || (done.error().code() != ENOENT && done.error().code() != ECONNREFUSED)) return done;
    if (wait <= Duration{0}) return done;
    const Duration time = std::min(next, wait);
    if (!pause(time)) return Error(ECANCELED, "interrupted while waiting for the server");
    wait -= time;
    next = std::min(2 * next, longest_pause);
  }
}

Result<std::unique_ptr<pci::Handle>> open(std::string_view target, const OpenOptions& options) {
  OUTBOARD_TRY(const auto address, parse_address(target, "target", schemes));
  auto handle = address.scheme == "local"  ? open_local(target, address.rest, options)
                : address.scheme == "vfio" ? open_vfio(address.rest, options.log)
                                           : open_vfio_user(address.rest, options);
  // What is missing is the target's name; an error that has a subject of its own (an image) knows better.
  if (!handle && handle.error().subject().empty()) return Error(handle.error()).on(std::string(target));
  return handle;
}

}  // namespace outboard::targets
