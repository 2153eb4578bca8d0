#include <outboard/pci/local_handle.hpp>

#include <array>
#include <map>
#include <optional>
#include <utility>

#include <outboard/base/internal/eventfds.hpp>
#include <outboard/memory/host_memory.hpp>
#include <outboard/memory/internal/all_ones.hpp>
#include <outboard/pci/internal/event_set.hpp>
#include <outboard/pci/internal/function_host.hpp>

namespace outboard::pci {

namespace {

/// Makes memory of this process reachable for a function of this process.
class LocalMapper final : public memory::DmaMapper {
 public:
  explicit LocalMapper(FunctionHost& host) : host_(host) {}

  Status map(memory::IovaRange range, MutableBytes bytes, memory::Access access, const UniqueFd* /*fd*/,
             std::uint64_t /*offset*/) override {
    Status mapped;
    OUTBOARD_CHECK(host_.run([&](Function& function) {
      mapped = function.map({.range = range,
                             .access = access,
                             .memory = memory::HostMemory::borrowed(bytes),
                             .offset = 0,
                             .port = nullptr});
    }));
    return mapped;
  }

  Status unmap(memory::IovaRange range) override {
    const Status unmapped =
        host_.await([range](Function& function, Function::Completion done) { function.unmap(range, std::move(done)); });
    // The function has ended before its driver's buffers: nobody can reach them any more.
    if (!unmapped && unmapped.error().code() == ENODEV) return {};
    if (!unmapped && unmapped.error().code() == ETIMEDOUT) {
      [[maybe_unused]] const Status told = host_.run([](Function& function) {
        function.unmap_is_late("requests did not let go of memory that the driver unmaps");
      });
    }
    return unmapped;
  }

  memory::DmaSpace::Limits limits() const override {
    return {.page_size = 4096, .max_mappings = 65535, .valid = memory::DmaSpace::Limits::all_but_first_page()};
  }

 private:
  FunctionHost& host_;
};

}  // namespace

struct LocalHandle::State {
  State(std::unique_ptr<FunctionHost> the_host, std::string the_name)
      : name(std::move(the_name)), host(std::move(the_host)), mapper(*host), pool(mapper) {}

  Error let_go() const { return Error(ENODEV, "the function has been released").on(name); }

  /// The host's thread answers `call`, which returns a Result or Status.
  template <typename Call>
  auto ask(Call call) -> std::invoke_result_t<Call, Function&> {
    if (gone) return let_go();
    std::optional<std::invoke_result_t<Call, Function&>> answer;
    OUTBOARD_CHECK(host->run([&](Function& function) { answer = call(function); }));
    return std::move(*answer);
  }

  /// The same for an access to a region, which the function checks.
  template <typename Access>
  Status access(Access call) {
    auto done = ask(std::move(call));
    if (!done && done.error().subject().empty()) return Error(done.error()).on(name);
    return done;
  }

  Status check_window(unsigned index, std::uint64_t offset, std::uint64_t length) const {
    if (gone) return let_go();
    if (index >= region::count || regions[index].size == 0) return Error(EINVAL, "no such region").on(name);
    const RegionInfo& info = regions[index];
    if (!range_within(offset, length, info.size)) return Error(EINVAL, "the window extends beyond the region").on(name);
    if (!info.writable) return Error(EACCES, "the region is not writable").on(name);
    return {};
  }

  std::string name;
  std::unique_ptr<FunctionHost> host;
  std::array<RegionInfo, region::count> regions;  ///< constant for a function
  std::map<std::pair<unsigned, std::size_t>, std::shared_ptr<memory::HostMemory>> windows;  ///< by region and area
  EventSet events;
  Registration watch;
  bool resettable = true;
  bool gone = false;
  LocalMapper mapper;
  memory::DmaPool pool;
};

LocalHandle::LocalHandle(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<LocalHandle>> LocalHandle::start(FunctionFactory factory, Options options) {
  OUTBOARD_TRY(auto host, host_on_thread(std::move(factory), std::move(options.log), options.spin));
  return make(std::move(host), std::move(options.name));
}

Result<std::unique_ptr<LocalHandle>> LocalHandle::over(std::unique_ptr<Function> function, Loop::Task pump,
                                                       std::string name) {
  return make(host_pumped(std::move(function), std::move(pump)), std::move(name));
}

Result<std::unique_ptr<LocalHandle>> LocalHandle::make(std::unique_ptr<FunctionHost> host, std::string name) {
  auto state = std::make_unique<State>(std::move(host), std::move(name));
  OUTBOARD_CHECK(state->host->run([&](Function& function) {
    for (unsigned i = 0; i < region::count; ++i) state->regions[i] = function.region(i);
    state->resettable = function.resettable();
  }));
  return std::unique_ptr<LocalHandle>(new LocalHandle(std::move(state)));
}

/// The function lets go of what is the driver's before it ends: it must not find the driver's memory gone.
void LocalHandle::end_function() {
  state_->watch.reset();
  [[maybe_unused]] const Status released = state_->host->await(
      [](Function& function, Function::Completion done) { function.release_client(std::move(done)); });
  state_->host->end();
}

LocalHandle::~LocalHandle() {
  if (!state_->gone) end_function();
}

void LocalHandle::revoke() {
  if (std::exchange(state_->gone, true)) return;
  // In this order: what looks at the windows must not find registers of a function that is ending.
  for (const auto& [key, window] : state_->windows) {
    [[maybe_unused]] const bool covered = memory::cover_with_ones({window->data(), window->size()});
  }
  end_function();
  raise(Event::gone);
}

bool LocalHandle::gone() const { return state_->gone; }

std::string LocalHandle::name() const { return state_->name; }

Result<RegionInfo> LocalHandle::region(unsigned index) {
  if (index >= region::count) return Error(EINVAL, "no such region").on(state_->name);
  return state_->regions[index];
}

Result<InterruptInfo> LocalHandle::interrupts(InterruptKind kind) {
  return state_->ask([&](Function& function) { return Result<InterruptInfo>(function.interrupts(kind)); });
}

Status LocalHandle::read_region(unsigned region, std::uint64_t offset, MutableBytes into) {
  return state_->access([&](Function& function) { return function.read_region(region, offset, into); });
}

Status LocalHandle::write_region(unsigned region, std::uint64_t offset, Bytes from) {
  return state_->access([&](Function& function) { return function.write_region(region, offset, from); });
}

Result<Window> LocalHandle::map_window(unsigned region, std::uint64_t offset, std::uint64_t length) {
  OUTBOARD_CHECK(state_->check_window(region, offset, length));
  const RegionInfo& info = state_->regions[region];
  for (std::size_t i = 0; i < info.areas.size(); ++i) {
    const MmapArea& area = info.areas[i];
    if (info.fd == nullptr || offset < area.offset || !range_within(offset - area.offset, length, area.size)) continue;
    auto& memory = state_->windows[{region, i}];
    if (!memory) {
      OUTBOARD_TRY(memory, memory::HostMemory::map_file(*info.fd, info.fd_offset + area.offset, area.size,
                                                        memory::Access::read_write));
    }
    return Window(memory->data() + (offset - area.offset), length);
  }
  return Error(ENOTSUP, "this part of the BAR is not mapped").on(state_->name);
}

Result<std::vector<IoEventFd>> LocalHandle::io_eventfds(unsigned region) {
  return state_->ask([&](Function& function) { return Result<std::vector<IoEventFd>>(function.io_eventfds(region)); });
}

memory::DmaSpace& LocalHandle::dma() { return state_->pool; }

memory::DmaMapper& LocalHandle::dma_mapper() { return state_->mapper; }

bool LocalHandle::resettable() const { return state_->resettable; }

Status LocalHandle::reset() {
  if (state_->gone) return state_->let_go();
  if (!state_->resettable) return Error(ENOTSUP, "the function has no reset").on(state_->name);
  return keep_config_across([this] {
    return state_->host->await([](Function& function, Function::Completion done) { function.reset(std::move(done)); });
  });
}

// Events: a function that has any raises them as VFIO's do, by an interrupt of a kind of their own.

Status LocalHandle::watch_events() {
  if (state_->gone || !state_->events.empty()) return {};
  for (const auto& [kind, event] :
       {std::pair{InterruptKind::error, Event::error}, std::pair{InterruptKind::request, Event::unplug_requested}}) {
    OUTBOARD_TRY(const InterruptInfo info, interrupts(kind));
    if (info.count == 0) continue;
    OUTBOARD_TRY(const EventFd* eventfd, state_->events.add(event));
    std::vector<EventFd> bound(1);
    OUTBOARD_TRY(bound[0], eventfd->duplicate());
    OUTBOARD_CHECK(bind_interrupts(kind, 0, bound));
  }
  return {};
}

Status LocalHandle::attach(Loop& loop) {
  OUTBOARD_CHECK(watch_events());
  if (state_->events.empty()) return {};
  OUTBOARD_TRY(state_->watch, loop.watch(state_->events.fd(), Ready::readable,
                                         [this](Ready) { [[maybe_unused]] const Status done = process(); }));
  return {};
}

void LocalHandle::detach() { state_->watch.reset(); }

int LocalHandle::fd() const { return state_->events.fd(); }

Status LocalHandle::process() {
  OUTBOARD_CHECK(watch_events());
  for (const Event event : state_->events.take()) {
    if (state_->gone || !raise(event)) break;
  }
  return {};
}

Status LocalHandle::bind_interrupts(InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  OUTBOARD_TRY(auto copies, duplicate(eventfds));
  return state_->ask([&](Function& function) { return function.bind_interrupts(kind, start, std::move(copies)); });
}

Status LocalHandle::bind_unmask(const EventFd& eventfd) {
  OUTBOARD_TRY(EventFd copy, eventfd.duplicate());
  return state_->ask([&](Function& function) { return function.bind_unmask(std::move(copy)); });
}

Status LocalHandle::disable_interrupts(InterruptKind kind) {
  return state_->ask([&](Function& function) { return function.disable_interrupts(kind); });
}

Status LocalHandle::mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->ask([&](Function& function) { return function.mask_interrupts(kind, start, count); });
}

Status LocalHandle::trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->ask([&](Function& function) { return function.trigger_interrupts(kind, start, count); });
}

Status LocalHandle::unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->ask([&](Function& function) { return function.unmask_interrupts(kind, start, count); });
}

}  // namespace outboard::pci
