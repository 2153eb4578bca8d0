#include <outboard/vfio_user/client.hpp>

#include <sys/epoll.h>

#include <algorithm>

#include <outboard/vfio_user/client_socket.hpp>
#include <outboard/vfio_user/client_state.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using spec::Command;

}  // namespace

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}

Client::~Client() {
  state_->watch_.reset();
  // Destroyed by its handler, which must not wait: this must, for the server to let go of the memory.
  state_->in_handler_ = false;
  state_->unmap_all();
  state_->dma_.reset();
}

Result<std::unique_ptr<Client>> Client::over(UniqueFd socket, std::string name, Options options) {
  auto state = std::make_unique<State>(std::move(socket), std::move(name), std::move(options));
  if (auto started = state->start(); !started) return state->named(started.error());
  return std::unique_ptr<Client>(new Client(std::move(state)));
}

Result<std::unique_ptr<Client>> Client::connect(const std::string& path, Options options) {
  OUTBOARD_TRY(UniqueFd socket, connect_socket(path, {.timeout = options.timeout, .wait = options.wait}));
  const auto server = describe_peer(socket);
  auto client = over(std::move(socket), "vfio-user:" + path, std::move(options));
  if (!client) return explain_refusal(client.error(), path, server);
  return client;
}

std::string Client::name() const { return state_->name_; }
bool Client::gone() const { return state_->requests_.broken().has_value(); }
memory::DmaSpace& Client::dma() { return *state_->dma_; }

Result<pci::RegionInfo> Client::region(unsigned index) {
  OUTBOARD_CHECK(state_->check_access(index, 0, 0));
  auto& known = state_->description_.regions[index];
  pci::RegionInfo info = known.info;
  if (known.fd) info.fd = &known.fd;
  return info;
}

Result<pci::InterruptInfo> Client::interrupts(pci::InterruptKind kind) {
  const auto index = static_cast<std::size_t>(kind);
  if (index >= pci::interrupt_kind_count) return state_->named(Error(EINVAL, "there is no such kind of interrupt"));
  return state_->description_.interrupts[index];
}

Status Client::read_region(unsigned region, std::uint64_t offset, MutableBytes into) {
  OUTBOARD_CHECK(state_->check_access(region, offset, into.size()));
  OUTBOARD_CHECK(state_->may_wait());
  const std::uint64_t most = state_->max_transfer();
  while (!into.empty()) {
    const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(into.size(), most));
    const spec::RegionAccess access{.offset = offset, .region = region, .count = count};
    if (auto read = state_->read(access, into.first(count)); !read) return state_->named(read.error());
    into = into.subspan(count);
    offset += count;
  }
  return {};
}

Status Client::write_region(unsigned region, std::uint64_t offset, Bytes from) {
  OUTBOARD_CHECK(state_->check_access(region, offset, from.size()));
  OUTBOARD_CHECK(state_->may_wait());
  const std::uint64_t most = state_->max_transfer();
  while (!from.empty()) {
    const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(from.size(), most));
    const spec::RegionAccess access{.offset = offset, .region = region, .count = count};
    if (auto written = state_->write(access, from.first(count)); !written) return state_->named(written.error());
    from = from.subspan(count);
    offset += count;
  }
  return {};
}

Status Client::post_write(unsigned region, std::uint64_t offset, Bytes from) {
  if (from.size() > state_->max_transfer()) return write_region(region, offset, from);
  OUTBOARD_CHECK(state_->check_access(region, offset, from.size()));
  OUTBOARD_CHECK(state_->may_wait());
  if (from.empty()) return {};
  const spec::RegionAccess access{.offset = offset, .region = region, .count = static_cast<std::uint32_t>(from.size())};
  if (auto posted = state_->requests_.post_write(access, from); !posted) {
    return state_->named(posted.error());
  }
  return {};
}

Result<pci::Window> Client::map_window(unsigned region, std::uint64_t offset, std::uint64_t length) {
  return state_->window(region, offset, length);
}

Result<std::vector<pci::IoEventFd>> Client::io_eventfds(unsigned region) {
  OUTBOARD_CHECK(state_->check_access(region, 0, 0));
  auto& bells = state_->doorbells_[region];
  if (!bells.known) {
    OUTBOARD_CHECK(state_->may_wait());
    OUTBOARD_CHECK(state_->get_doorbells(region));
  }
  return bells.list;
}

memory::DmaMapper& Client::dma_mapper() { return *state_; }

bool Client::resettable() const { return state_->description_.resettable; }

Status Client::reset() {
  if (!resettable()) return state_->named(Error(ENOTSUP, "the server offers no reset"));
  OUTBOARD_CHECK(state_->may_wait());
  return keep_config_across([this] {
    return state_->ask_named({.command = Command::device_reset, .timeout = state_->options_.reset_timeout});
  });
}

Status Client::bind_interrupts(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  return state_->bind(kind, start, eventfds);
}

Status Client::bind_unmask(const EventFd& eventfd) {
  const int fd = eventfd.get();
  return state_->set_irqs({.argsz = sizeof(abi::IrqSet),
                           .flags = abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_unmask,
                           .index = static_cast<std::uint32_t>(pci::InterruptKind::intx),
                           .start = 0,
                           .count = 1},
                          std::span<const int>(&fd, eventfd.valid() ? 1 : 0));
}

Status Client::disable_interrupts(pci::InterruptKind kind) {
  return state_->act_on_irqs(abi::irq_set_flag::action_trigger, kind, 0, 0);
}

Status Client::mask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->act_on_irqs(abi::irq_set_flag::action_mask, kind, start, count);
}

Status Client::unmask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->act_on_irqs(abi::irq_set_flag::action_unmask, kind, start, count);
}

Status Client::trigger_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (count == 0) return {};  // with none, the command means that the kind is to be disabled
  return state_->act_on_irqs(abi::irq_set_flag::action_trigger, kind, start, count);
}

Status Client::attach(Loop& loop) {
  OUTBOARD_CHECK(state_->may_wait());
  OUTBOARD_CHECK(state_->watch_events());
  OUTBOARD_TRY(state_->watch_, loop.watch(state_->poll_fd(), Ready::readable, [this](Ready) {
    if (auto done = process(); !done) state_->options_.log.debug("{}", done.error().message());
  }));
  return {};
}

void Client::detach() { state_->watch_.reset(); }

int Client::fd() const { return state_->poll_fd(); }

Status Client::process() {
  if (state_->in_handler_) return state_->may_wait();
  if (!state_->requests_.broken() && !state_->events_bound_) OUTBOARD_CHECK(state_->watch_events());
  state_->requests_.process();
  state_->update_poll();
  const auto tell = [this](pci::Event event) {
    state_->in_handler_ = true;
    if (!raise(event)) return false;
    state_->in_handler_ = false;
    return true;
  };
  const auto came = [](const EventFd& eventfd) { return eventfd.valid() && eventfd.drain() != 0; };
  if (came(state_->error_event_) && !tell(pci::Event::error)) return {};
  if (came(state_->request_event_) && !tell(pci::Event::unplug_requested)) return {};
  tell_gone();
  return {};
}

/// Once. From here on the socket would be readable for ever.
void Client::tell_gone() {
  if (!gone() || std::exchange(state_->told_gone_, true)) return;
  if (state_->poll_) ::epoll_ctl(state_->poll_.get(), EPOLL_CTL_DEL, state_->requests_.fd(), nullptr);
  state_->in_handler_ = true;
  if (raise(pci::Event::gone)) state_->in_handler_ = false;
}

void Client::revoke() {
  state_->requests_.end(Error(ENODEV, "the function has been let go"));
  tell_gone();
}

}  // namespace outboard::vfio_user
