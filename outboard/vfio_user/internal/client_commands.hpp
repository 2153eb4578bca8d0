#pragma once

#include <cstddef>
#include <memory>

#include <outboard/base/internal/budget.hpp>
#include <outboard/base/log.hpp>
#include <outboard/memory/internal/shared_files.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/internal/channel.hpp>
#include <outboard/vfio_user/internal/irq_commands.hpp>
#include <outboard/vfio_user/internal/message_dma.hpp>
#include <outboard/vfio_user/internal/negotiation.hpp>
#include <outboard/vfio_user/internal/replies.hpp>

namespace outboard::vfio_user {

/// What is wrong with a command before its payload is looked at. EINVAL: with more descriptors than are taken, or with some
/// where the command takes none; ENOSYS: there is no such command.
Status check_command(const Message& message);

/// Does what a client's commands ask of the function, and replies. All commands but those that the session orders others by:
/// VERSION, DMA_UNMAP and DEVICE_RESET. One for a connection that has been negotiated, on the function's loop.
class ClientCommands {
 public:
  struct Options {
    Capabilities client;
    std::size_t max_data_transfer = spec::default_max_data_xfer_size;  ///< bytes of one region access
    std::shared_ptr<Budget::Share> share{};  ///< of the process's mappings, for the client's files; null: no limit
    std::shared_ptr<Budget::OpenDescriptors> eventfds{};  ///< those that the function holds; may be null
  };

  /// `messages`: how memory without a file is reached.
  ClientCommands(pci::Function& function, Replies& replies, std::shared_ptr<MessageDma> messages, Log log,
                 Options options);

  /// A command that check_command() takes. An error ends the connection.
  Status handle(Message& message);

  /// The client has bound the function's REQ interrupt: raising it asks for the function back.
  bool hears_requests() const { return bindings_.any(pci::InterruptKind::request); }
  /// Counts the descriptors of interrupts that the function holds now.
  void count_eventfds();

 private:
  Status region_read(const Message& message);
  Status dma_map(Message& message);
  Status set_irqs(Message& message);

  pci::Function& function_;
  Replies& replies_;
  std::shared_ptr<MessageDma> messages_;
  Log log_;
  Options options_;
  unsigned max_reply_fds_;  // that the client takes in one message
  memory::SharedFiles files_;
  IrqBindings bindings_;
};

}  // namespace outboard::vfio_user
