#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/discovery.hpp>
#include <outboard/vfio_user/region_info.hpp>
#include <outboard/vfio_user/served_memory.hpp>

namespace outboard::vfio_user {

/// What is behind a Client: the connection, what has been learned of the function, and what has been made of it. For
/// client.cpp only.
class Client::State final : public memory::DmaMapper {
 public:
  State(UniqueFd socket, std::string given_name, Options given_options);

  Status start();

  Error named(const Error& error) const { return Error(error).on(name_); }
  /// What keeps a call from waiting for the server.
  Status may_wait() const;
  Status ask_named(const Requests::Request& request);

  // memory::DmaMapper
  Status map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
             std::uint64_t offset) override;
  Status unmap(memory::IovaRange range) override;
  memory::DmaSpace::Limits limits() const override;
  /// The client ends: takes all memory back with one message, where that saves any. What a server does not take that way
  /// goes window by window.
  void unmap_all();

  Status check_access(unsigned region, std::uint64_t offset, std::uint64_t size) const;
  Status read(const spec::RegionAccess& access, MutableBytes into);
  Status write(const spec::RegionAccess& access, Bytes from);
  std::uint64_t max_transfer() const;
  Result<pci::Window> window(unsigned region, std::uint64_t offset, std::uint64_t length);

  Status get_doorbells(unsigned region);
  Result<std::uint32_t> take_doorbells(unsigned region, Requests::Reply& reply, std::uint32_t asked);
  Status set_irqs(const vfio_abi::IrqSet& set, std::span<const int> fds);
  /// SET_IRQS with an action (vfio_abi::irq_set_flag) and no data.
  Status act_on_irqs(std::uint32_t action, pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status bind(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds);

  int poll_fd();
  Status watch_events();
  void update_poll();
  void revoke();

  Options options_;
  std::string name_;
  ServedMemory served_;
  Requests requests_;
  Description description_;

  struct Doorbells {
    bool known = false;
    std::vector<EventFd> fds;
    std::vector<pci::IoEventFd> list;
  };
  std::array<std::vector<MappedArea>, pci::region::count> mapped_;
  std::array<Doorbells, pci::region::count> doorbells_;

  UniqueFd poll_;  // made when somebody wants to watch us
  bool poll_writes_ = false;
  bool events_bound_ = false;
  EventFd error_event_, request_event_;
  bool in_handler_ = false;
  bool told_gone_ = false;
  bool all_unmapped_ = false;
  Registration watch_;

  std::optional<memory::DmaPool> dma_;  // last: it unmaps when it goes
};

}  // namespace outboard::vfio_user
