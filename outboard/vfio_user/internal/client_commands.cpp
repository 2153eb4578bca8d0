#include <outboard/vfio_user/internal/client_commands.hpp>

#include <algorithm>
#include <string>

#include <outboard/vfio_user/internal/dma_commands.hpp>
#include <outboard/vfio_user/internal/info_commands.hpp>
#include <outboard/vfio_user/internal/region_commands.hpp>

namespace outboard::vfio_user {
namespace {

using spec::Command;

bool is_known(std::uint16_t command) {
  return command >= static_cast<std::uint16_t>(Command::version) &&
         command <= static_cast<std::uint16_t>(Command::mig_data_write) && command != 14;
}

/// SPDK's client sends the file of the memory with DMA_UNMAP, too: it is not needed, and is closed.
bool takes_fds(Command command) {
  return command == Command::dma_map || command == Command::dma_unmap || command == Command::device_set_irqs;
}

Error not_offered(std::uint16_t command) {
  return Error(ENOTSUP, "command " + std::to_string(command) + " is not offered");
}

template <typename Reply>
Status reply_with(Replies& replies, const spec::Header& request, const Result<Reply>& reply) {
  return reply ? replies.send(request, as_bytes_of(*reply)) : replies.refuse(request, reply.error());
}

}  // namespace

Status check_command(const Message& message) {
  const std::uint16_t number = message.header.command;
  if (message.fds_lost) return Error(EINVAL, "more file descriptors than are taken");
  if (!is_known(number)) return Error(ENOSYS, "unknown command " + std::to_string(number));
  if (!message.fds.empty() && !takes_fds(static_cast<Command>(number))) {
    return Error(EINVAL, "file descriptors with a command that takes none");
  }
  return {};
}

ClientCommands::ClientCommands(pci::Function& function, Replies& replies, std::shared_ptr<MessageDma> messages, Log log,
                               Options options)
    : function_(function),
      replies_(replies),
      messages_(std::move(messages)),
      log_(std::move(log)),
      options_(std::move(options)),
      max_reply_fds_(static_cast<unsigned>(std::min<std::uint64_t>(options_.client.max_msg_fds, spec::kernel_max_fds))),
      files_(options_.share) {}

Status ClientCommands::handle(Message& message) {
  const spec::Header& header = message.header;
  switch (static_cast<Command>(header.command)) {
    case Command::region_read:
      return region_read(message);
    case Command::region_write:
      return reply_with(replies_, header, region_write(function_, message.payload, options_.max_data_transfer));
    case Command::region_write_multi:
      if (!options_.client.write_multiple) return replies_.refuse(header, not_offered(header.command));
      return reply_with(replies_, header, region_write_multi(function_, message.payload));
    case Command::dma_map:
      return dma_map(message);
    case Command::device_get_info:
      return replies_.answer(header, get_device_info(function_, message.payload));
    case Command::device_get_region_info:
      return replies_.answer(header, get_region_info(function_, message.payload, max_reply_fds_));
    case Command::device_get_region_io_fds:
      return replies_.answer(header, get_region_io_fds(function_, message.payload, max_reply_fds_));
    case Command::device_get_irq_info:
      return replies_.answer(header, get_irq_info(function_, message.payload));
    case Command::device_set_irqs:
      return set_irqs(message);
    case Command::version:
      return replies_.refuse(header, Error(EINVAL, "VERSION has been negotiated already"));
    case Command::dma_read:
    case Command::dma_write:
      return replies_.refuse(header, Error(EINVAL, "DMA_READ and DMA_WRITE are commands for the client"));
    case Command::dma_unmap:
    case Command::device_reset:  // both are the session's
    case Command::device_feature:
    case Command::mig_data_read:
    case Command::mig_data_write:
      break;
  }
  return replies_.refuse(header, not_offered(header.command));
}

Status ClientCommands::region_read(const Message& message) {
  const auto access = parse_region_read(message.payload, options_.max_data_transfer);
  if (!access) return replies_.refuse(message.header, access.error());
  // A reply begins as zeros: a few bytes of a client that may not read must not cost as many as it asks for.
  const auto allowed = function_.check_read(access->region, access->offset, access->count);
  if (!allowed) return replies_.refuse(message.header, allowed.error());
  return replies_.send_filled(message.header, as_bytes_of(*access), access->count, [&](MutableBytes data) {
    return function_.read_region(access->region, access->offset, data);
  });
}

Status ClientCommands::dma_map(Message& message) {
  auto mapping = mapping_for(message.payload, std::move(message.fds), files_, messages_);
  const auto mapped = mapping ? function_.map(std::move(*mapping)) : Status(mapping.error());
  // Without its memory a device does not work, and most clients go on as if nothing were wrong.
  const int code = mapped ? 0 : mapped.error().code();
  if (code == ENOTSUP || code == ENOSPC) {
    const std::string& cure = mapped.error().cure();
    log_.error("memory of the client cannot be used: {}{}{}", mapped.error().message(), cure.empty() ? "" : "; ", cure);
  }
  return replies_.answer(message.header, mapped);
}

Status ClientCommands::set_irqs(Message& message) {
  const auto set = vfio_user::set_irqs(function_, message.payload, std::move(message.fds), bindings_);
  count_eventfds();
  return replies_.answer(message.header, set);
}

void ClientCommands::count_eventfds() {
  if (options_.eventfds) options_.eventfds->set(function_.held_eventfds());
}

}  // namespace outboard::vfio_user
