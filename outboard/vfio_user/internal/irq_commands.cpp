#include <outboard/vfio_user/internal/irq_commands.hpp>

#include <algorithm>
#include <bit>

#include <outboard/vfio_user/internal/received_eventfd.hpp>

namespace outboard::vfio_user {
namespace {

namespace flag = vfio_abi::irq_set_flag;

struct IrqRequest {
  pci::InterruptKind kind{};
  std::uint32_t data = 0, action = 0;  // one bit each
  std::uint32_t start = 0, count = 0;
  pci::InterruptInfo info;
  Bytes bools;  // one byte for each vector, with DATA_BOOL

  bool disables() const {
    return data == flag::data_none && action == flag::action_trigger && count == 0 && start == 0;
  }
};

Error invalid_irqs(const char* why) { return Error(EINVAL, "SET_IRQS: " + std::string(why)); }

Status check_range(const IrqRequest& request) {
  // Turning off works for a kind that the function does not have, too.
  if (request.disables()) return {};
  if (request.count == 0) return invalid_irqs("no vectors are named");
  if (!range_within(request.start, request.count, request.info.count))
    return invalid_irqs("there are not so many vectors");
  return {};
}

Status check_data(IrqRequest& request, Bytes rest, std::size_t fd_count) {
  if (fd_count != 0 && (request.data != flag::data_eventfd || fd_count != request.count)) {
    return invalid_irqs("the number of file descriptors is not that of the vectors");
  }
  if (request.data != flag::data_bool) return {};
  if (rest.size() != request.count) return invalid_irqs("not one byte for each vector");
  request.bools = rest;
  return {};
}

Result<IrqRequest> parse(const pci::Function& function, Bytes payload, std::size_t fd_count) {
  ByteReader reader(payload);
  OUTBOARD_TRY(const auto set, reader.read<vfio_abi::IrqSet>());
  if (set.argsz < sizeof set) return invalid_irqs("argsz is too small");
  if ((set.flags & ~(flag::data_bits | flag::action_bits)) != 0) return invalid_irqs("unknown flags");
  IrqRequest request{.data = set.flags & flag::data_bits,
                     .action = set.flags & flag::action_bits,
                     .start = set.start,
                     .count = set.count};
  if (!std::has_single_bit(request.data) || !std::has_single_bit(request.action)) {
    return invalid_irqs("not exactly one kind of data and one action");
  }
  if (set.index >= pci::interrupt_kind_count) return invalid_irqs("there is no such interrupt index");
  request.kind = static_cast<pci::InterruptKind>(set.index);
  request.info = function.interrupts(request.kind);
  OUTBOARD_CHECK(check_range(request));
  OUTBOARD_CHECK(check_data(request, reader.rest(), fd_count));
  if (request.action != flag::action_trigger && !request.info.maskable) {
    return Error(ENOTTY, "SET_IRQS: these interrupts cannot be masked");
  }
  return request;
}

Result<std::vector<EventFd>> adopt_all(std::vector<UniqueFd> fds, std::uint32_t count) {
  std::vector<EventFd> eventfds(count);
  for (std::size_t i = 0; i < fds.size(); ++i) {
    OUTBOARD_TRY(eventfds[i], adopt_eventfd(std::move(fds[i])));
  }
  return eventfds;
}

Status bind(pci::Function& function, const IrqRequest& request, std::vector<UniqueFd> fds) {
  if (request.action == flag::action_mask ||
      (request.action == flag::action_unmask && request.kind != pci::InterruptKind::intx)) {
    return Error(ENOTTY, "SET_IRQS: an eventfd can trigger, or unmask INTx");
  }
  OUTBOARD_TRY(auto eventfds, adopt_all(std::move(fds), request.count));
  if (request.action == flag::action_unmask) return function.bind_unmask(std::move(eventfds.front()));
  return function.bind_interrupts(request.kind, request.start, std::move(eventfds));
}

Status act(pci::Function& function, const IrqRequest& request, std::uint32_t start, std::uint32_t count) {
  if (request.action == flag::action_mask) return function.mask_interrupts(request.kind, start, count);
  if (request.action == flag::action_unmask) return function.unmask_interrupts(request.kind, start, count);
  return function.trigger_interrupts(request.kind, start, count);
}

/// DATA_BOOL: acts on each run of vectors whose byte is not 0.
Status act_where_set(pci::Function& function, const IrqRequest& request) {
  const auto set = [&request](std::uint32_t i) { return request.bools[i] != std::byte{0}; };
  for (std::uint32_t i = 0; i < request.count;) {
    if (!set(i)) {
      ++i;
      continue;
    }
    std::uint32_t run = 1;
    while (i + run < request.count && set(i + run)) ++run;
    OUTBOARD_CHECK(act(function, request, request.start + i, run));
    i += run;
  }
  return {};
}

}  // namespace

bool IrqBindings::any(pci::InterruptKind kind) const {
  return std::ranges::count(vectors_[static_cast<unsigned>(kind)], true) != 0;
}

void IrqBindings::set(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count, bool bound) {
  auto& vectors = vectors_[static_cast<unsigned>(kind)];
  if (vectors.size() < std::size_t{start} + count) vectors.resize(std::size_t{start} + count);
  std::fill_n(vectors.begin() + start, count, bound);
}

void IrqBindings::clear(pci::InterruptKind kind) { vectors_[static_cast<unsigned>(kind)].clear(); }

Status set_irqs(pci::Function& function, Bytes payload, std::vector<UniqueFd> fds, IrqBindings& bindings) {
  OUTBOARD_TRY(const IrqRequest request, parse(function, payload, fds.size()));
  const bool binds = request.data == flag::data_eventfd;
  if (request.disables() || binds) {
    const bool bound = !fds.empty();
    OUTBOARD_CHECK(binds ? bind(function, request, std::move(fds)) : function.disable_interrupts(request.kind));
    if (!binds) {
      bindings.clear(request.kind);
    } else if (request.action == flag::action_trigger) {
      bindings.set(request.kind, request.start, request.count, bound);
    }
    return {};
  }
  if (request.data == flag::data_bool) return act_where_set(function, request);
  return act(function, request, request.start, request.count);
}

}  // namespace outboard::vfio_user
