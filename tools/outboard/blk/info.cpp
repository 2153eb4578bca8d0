#include <fmt/format.h>
#include <fmt/ranges.h>

#include <tools/outboard/blk/blk.hpp>
#include <tools/outboard/disk_session.hpp>
#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/virtio_names.hpp>

/// `blk info`: shows the properties of a disk.
namespace outboard::command {

namespace {

struct InfoArguments {
  TargetArguments target;
  bool json = false;
};

/// Empty: the device does not support GET_ID.
Result<std::string> id_of(DiskSession& session) {
  static constexpr int unknown = ENOTSUP;
  std::array<char, blk::spec::id_size> id{};
  blk::Io io;
  io.kind = blk::Io::Kind::get_id;
  io.id = &id;
  if (auto done = session.run(io); !done && done.error().code() != unknown)
    return Error(done.error()).while_doing("reading the id");
  return std::string(id.data(), strnlen(id.data(), id.size()));
}

std::string printable(std::string text) {
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text;
}

Json as_json(DiskSession& session, const std::string& id) {
  const blk::Driver& driver = session.driver();
  const blk::Limits& limits = driver.limits();
  return {{"target", session.handle().name()},
          {"id", id},
          {"capacity_bytes", driver.capacity()},
          {"block_size", limits.block_size},
          {"physical_block_size", limits.physical_block_size},
          {"optimal_io_size", limits.optimal_io_size},
          {"read_only", limits.read_only},
          {"flush", limits.flush},
          {"queues", limits.queues},
          {"segments", limits.seg_max},
          {"discard", limits.max_discard_sectors != 0},
          {"write_zeroes", limits.max_write_zeroes_sectors != 0},
          {"features", virtio_feature_names(blk::device_id, driver.features())}};
}

std::string as_text(DiskSession& session, const std::string& id) {
  const blk::Driver& driver = session.driver();
  const blk::Limits& limits = driver.limits();
  std::string text = fmt::format("{}: {} ({} bytes){}\n", session.handle().name(), size_text(driver.capacity()),
                                 driver.capacity(), limits.read_only ? ", read-only" : "");
  text += fmt::format("  id        {}\n", id.empty() ? "none" : id);
  text += fmt::format("  blocks    {} bytes, physical {}{}\n", limits.block_size, limits.physical_block_size,
                      limits.optimal_io_size != 0 ? fmt::format(", best {}", size_text(limits.optimal_io_size)) : "");
  text += fmt::format("  queues    {}, at most {} segments in a request\n", limits.queues, limits.seg_max);
  text += fmt::format("  flush     {}\n", limits.flush ? "yes" : "not needed");
  text += fmt::format("  discard   {}, write zeroes {}\n", limits.max_discard_sectors != 0 ? "yes" : "no",
                      limits.max_write_zeroes_sectors != 0 ? "yes" : "no");
  return text +
         fmt::format("  features  {}\n", fmt::join(virtio_feature_names(blk::device_id, driver.features()), " "));
}

Result<Exit> info(const InfoArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto session, DiskSession::open(arguments.target, context, {}));
  OUTBOARD_TRY(auto id, id_of(*session));
  id = printable(std::move(id));
  OUTBOARD_CHECK(print(arguments.json ? as_json(*session, id).text() : as_text(*session, id)));
  return Exit::done;
}

}  // namespace

void add_blk_info(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<InfoArguments>();
  const Verb verb = add_verb(
      parent, plan, "info", "show the properties of a disk", "outboard blk info vfio-user:/run/blk.sock --json",
      [arguments](Context& context) { return arguments->target.name_in(info(*arguments, context)); });
  arguments->target.add_to(verb);
  verb.add_flag("--json", arguments->json, "as JSON");
}

}  // namespace outboard::command
