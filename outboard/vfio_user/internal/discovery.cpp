#include <outboard/vfio_user/internal/discovery.hpp>

#include <sys/socket.h>

#include <algorithm>

#include <outboard/pci/registers.hpp>
#include <outboard/vfio_user/internal/region_info.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using spec::Command;

// Beyond these limits the server's values are refused. QEMU has the same ones.
constexpr std::uint64_t max_usable_transfer = UINT64_C(64) << 20;
constexpr std::uint64_t max_claimed_fds = 1024;
constexpr std::uint32_t min_regions = 8, max_regions = 100;
constexpr std::uint32_t min_irqs = 3, max_irqs = 50;
constexpr std::array<std::uint32_t, pci::interrupt_kind_count> max_vectors{1, pci::MsiControl::max_vectors,
                                                                           pci::MsixControl::max_vectors, 1, 1};

/// Bytes of a reply: enough for dozens of areas at the first try, and for the second try at most.
constexpr std::uint32_t usual_argsz = 1024;
constexpr std::uint32_t max_argsz = 65536;

Error unusable(std::string what) { return Error(EPROTO, "the server " + std::move(what)); }

Status check_capabilities(const Capabilities& server) {
  if (server.max_msg_fds > max_claimed_fds) return unusable("claims to take too many file descriptors");
  if (server.max_data_xfer_size == 0 || server.max_data_xfer_size > max_usable_transfer) {
    return unusable("claims a transfer size of " + std::to_string(server.max_data_xfer_size));
  }
  if (server.max_dma_maps > spec::default_max_dma_maps) return unusable("claims too many DMA windows");
  if (server.pgsizes == 0 || server.pgsizes % 4096 != 0) return unusable("claims page sizes that are none");
  return {};
}

Result<Capabilities> read_version(Bytes payload) {
  auto message = parse_version(payload);
  if (!message) return Error(EPROTO, message.error().what());
  if (message->version.major != spec::version_major || message->version.minor > spec::version_minor) {
    return unusable("speaks version " + std::to_string(message->version.major) + "." +
                    std::to_string(message->version.minor) + " of vfio-user, not " +
                    std::to_string(spec::version_major) + "." + std::to_string(spec::version_minor));
  }
  OUTBOARD_CHECK(check_capabilities(message->capabilities));
  return message->capabilities;
}

/// The end of a second socket that came with the reply; none: there is no such socket.
Result<UniqueFd> take_twin(const Capabilities& ours, const Capabilities& server, Requests::Reply& reply) {
  if (!server.twin_socket) return UniqueFd();
  if (!ours.twin_socket) return unusable("insists on a second socket, which was not offered");
  // vfio-user, Version: a server that supports the twin socket names its descriptor, or the client "must abort".
  const std::uint64_t index = server.twin_socket_fd_index.value_or(reply.fds.size());
  if (index >= reply.fds.size()) return unusable("names a second socket that it has not sent");
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(reply.fds[index].get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM)
    return unusable("sent a second socket that is none");
  return std::move(reply.fds[index]);
}

Status get_device_info(Requests& requests, Description& description) {
  const abi::DeviceInfo question{.argsz = sizeof(abi::DeviceInfo), .flags = 0, .num_regions = 0, .num_irqs = 0};
  return ask(requests,
             {.command = Command::device_get_info,
              .head = as_bytes_of(question),
              .min_reply = sizeof question,
              .max_reply = sizeof question},
             [&](const Requests::Reply& reply) -> Status {
               OUTBOARD_TRY(const auto info, ByteReader(reply.payload).read<abi::DeviceInfo>());
               if ((info.flags & abi::device_flag::pci) == 0)
                 return unusable("serves something that is no PCI function");
               if (info.num_regions < min_regions || info.num_regions > max_regions || info.num_irqs < min_irqs ||
                   info.num_irqs > max_irqs) {
                 return unusable("claims " + std::to_string(info.num_regions) + " regions and " +
                                 std::to_string(info.num_irqs) + " interrupt indexes");
               }
               description.resettable = (info.flags & abi::device_flag::reset) != 0;
               return {};
             });
}

Requests::Request region_request(const abi::RegionInfo& question) {
  return {.command = Command::device_get_region_info,
          .head = as_bytes_of(question),
          .min_reply = sizeof question,
          .max_reply = question.argsz,
          .reply_has_fds = true};
}

abi::RegionInfo region_question(unsigned index, std::uint32_t argsz) {
  return {.argsz = argsz, .flags = 0, .index = index, .cap_offset = 0, .size = 0, .offset = 0};
}

/// Takes one description. Returns the reply size that a second try needs, or 0 when the description is complete.
std::uint32_t take_region(Description::Region& region, unsigned index, Result<Requests::Reply> reply,
                          std::uint32_t asked) {
  if (!reply) {
    region.refused = reply.error();
    return 0;
  }
  const auto info = ByteReader(reply->payload).read<abi::RegionInfo>();
  const bool more = info && info->argsz > asked && reply->payload.size() < info->argsz;
  if (more && info->argsz <= max_argsz && asked == usual_argsz) return info->argsz;
  if (more) {
    region.refused = Error(EPROTO, "the server cannot say how long the description of a region is");
    return 0;
  }
  if (reply->fds.size() > 1) {
    region.refused = Error(EPROTO, "the server sent more than one file descriptor for a region");
    return 0;
  }
  if (!reply->fds.empty()) region.fd = std::move(reply->fds.front());
  auto parsed = parse_region_info(reply->payload, index, region.fd);
  if (parsed) {
    region.info = std::move(*parsed);
  } else {
    region.refused = parsed.error();
  }
  return 0;
}

void get_regions(Requests& requests, Description& description) {
  std::array<std::uint32_t, pci::region::count> again{};
  {
    Batch batch(requests);
    for (unsigned index = 0; index < pci::region::count; ++index) {
      const auto question = region_question(index, usual_argsz);
      batch.add(region_request(question), [&, index](Result<Requests::Reply> reply) {
        again[index] = take_region(description.regions[index], index, std::move(reply), usual_argsz);
      });
    }
  }
  Batch batch(requests);
  for (unsigned index = 0; index < pci::region::count; ++index) {
    if (again[index] == 0) continue;
    const auto question = region_question(index, again[index]);
    batch.add(region_request(question), [&, index](Result<Requests::Reply> reply) {
      take_region(description.regions[index], index, std::move(reply), again[index]);
    });
  }
}

void get_interrupts(Requests& requests, Description& description) {
  Batch batch(requests);
  for (unsigned index = 0; index < pci::interrupt_kind_count; ++index) {
    const abi::IrqInfo question{.argsz = sizeof(abi::IrqInfo), .flags = 0, .index = index, .count = 0};
    batch.add({.command = Command::device_get_irq_info,
               .head = as_bytes_of(question),
               .min_reply = sizeof question,
               .max_reply = sizeof question},
              [&, index](Result<Requests::Reply> reply) {
                if (!reply) return;  // a server need not know ERR and REQ
                const auto info = ByteReader(reply->payload).read<abi::IrqInfo>();
                if (!info || info->index != index || (info->flags & abi::irq_flag::eventfd) == 0) return;
                description.interrupts[index] = {.count = std::min(info->count, max_vectors[index]),
                                                 .maskable = (info->flags & abi::irq_flag::maskable) != 0,
                                                 .automasked = (info->flags & abi::irq_flag::automasked) != 0,
                                                 .resizable = (info->flags & abi::irq_flag::noresize) == 0};
              });
  }
}

}  // namespace

Status ask(Requests& requests, const Requests::Request& request) {
  return ask(requests, request, [](const Requests::Reply&) -> Status { return {}; });
}

void Batch::add(const Requests::Request& request, Requests::Completion on_reply) {
  ++left_;
  done_ = false;
  requests_.start(request, [this, call = std::move(on_reply)](Result<Requests::Reply> reply) mutable {
    call(std::move(reply));
    done_ = --left_ == 0;
  });
}

void Batch::wait() { requests_.wait(done_); }

Result<Capabilities> negotiate(Requests& requests, const Capabilities& ours) {
  const auto proposal = build_version({.version = {spec::version_major, spec::version_minor}, .capabilities = ours});
  Result<Capabilities> server = unusable("did not answer");
  UniqueFd twin;
  OUTBOARD_CHECK(ask(requests,
                     {.command = Command::version,
                      .head = proposal,
                      .min_reply = sizeof(spec::Version),
                      .max_reply = sizeof(spec::Version) + max_version_json,
                      .reply_has_fds = ours.twin_socket},
                     [&](Requests::Reply& reply) -> Status {
                       server = read_version(reply.payload);
                       if (!server) return server.error();
                       OUTBOARD_TRY(twin, take_twin(ours, *server, reply));
                       return {};
                     }));
  if (twin) requests.use_twin(std::move(twin));
  return server;
}

Status discover(Requests& requests, Description& description, const Log& log) {
  OUTBOARD_CHECK(get_device_info(requests, description));
  get_regions(requests, description);
  get_interrupts(requests, description);
  if (requests.broken()) return *requests.broken();
  // A function is of no use without its configuration space.
  if (const auto& refused = description.regions[pci::region::config].refused) return *refused;
  unsigned index = 0;
  for (const auto& region : description.regions) {
    if (region.refused) log.warning("region {} is not used: {}", index, region.refused->message());
    ++index;
  }
  return {};
}

}  // namespace outboard::vfio_user
