#include <outboard/pci/local_handle.hpp>

#include <array>
#include <map>
#include <optional>
#include <utility>

#include <outboard/memory/host_memory.hpp>
#include <outboard/pci/function_host.hpp>

namespace outboard::pci {

namespace {

/// Makes memory of this process reachable for a function of this process.
class LocalMapper final : public memory::DmaMapper {
 public:
  explicit LocalMapper(FunctionHost& host) : host_(host) {}

  Status map(memory::IovaRange range, MutableBytes bytes, const UniqueFd* /*fd*/, std::uint64_t /*offset*/) override {
    Status mapped;
    OUTBOARD_CHECK(host_.run([&](Function& function) {
      mapped = function.map({.range = range,
                             .access = memory::Access::read_write,
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
    return unmapped;
  }

  memory::DmaSpace::Limits limits() const override {
    // Nothing below 1 MiB, so that an address a driver forgot to set (0) is caught.
    constexpr std::uint64_t lowest = UINT64_C(1) << 20, end = UINT64_C(1) << 47;
    return {.page_size = 4096, .max_mappings = 65535, .valid = {{memory::Iova{lowest}, end - lowest}}};
  }

 private:
  FunctionHost& host_;
};

}  // namespace

struct LocalHandle::State {
  State(std::unique_ptr<FunctionHost> the_host, std::string the_name)
      : name(std::move(the_name)), host(std::move(the_host)), mapper(*host), pool(mapper) {}

  /// The host's thread answers `call`, which returns a Result or Status.
  template <typename Call>
  auto ask(Call call) -> std::invoke_result_t<Call, Function&> {
    std::optional<std::invoke_result_t<Call, Function&>> answer;
    OUTBOARD_CHECK(host->run([&](Function& function) { answer = call(function); }));
    return std::move(*answer);
  }

  /// What a caller of Function has to see to before each access.
  Status check(unsigned index, std::uint64_t offset, std::uint64_t length, bool write) const {
    if (index >= region::count || regions[index].size == 0) return Error(EINVAL, "no such region").on(name);
    const RegionInfo& info = regions[index];
    if (!range_within(offset, length, info.size)) return Error(EINVAL, "the access reaches out of the region").on(name);
    if (!(write ? info.writable : info.readable)) return Error(EACCES, "the region does not allow that").on(name);
    return {};
  }

  std::string name;
  std::unique_ptr<FunctionHost> host;
  std::array<RegionInfo, region::count> regions;  ///< constant for a function
  std::map<std::pair<unsigned, std::size_t>, std::shared_ptr<memory::HostMemory>> windows;  ///< by region and area
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
  }));
  return std::unique_ptr<LocalHandle>(new LocalHandle(std::move(state)));
}

LocalHandle::~LocalHandle() {
  // The function first: it must not find the driver's memory gone.
  [[maybe_unused]] const Status released = state_->host->await(
      [](Function& function, Function::Completion done) { function.release_client(std::move(done)); });
  state_->host->end();
}

std::string LocalHandle::name() const { return state_->name; }

Result<RegionInfo> LocalHandle::region(unsigned index) {
  if (index >= region::count) return Error(EINVAL, "no such region").on(state_->name);
  return state_->regions[index];
}

Result<InterruptInfo> LocalHandle::interrupts(InterruptKind kind) {
  return state_->ask([&](Function& function) { return Result<InterruptInfo>(function.interrupts(kind)); });
}

Status LocalHandle::read_region(unsigned region, std::uint64_t offset, MutableBytes into) {
  OUTBOARD_CHECK(state_->check(region, offset, into.size(), false));
  return state_->ask([&](Function& function) { return function.read_region(region, offset, into); });
}

Status LocalHandle::write_region(unsigned region, std::uint64_t offset, Bytes from) {
  OUTBOARD_CHECK(state_->check(region, offset, from.size(), true));
  return state_->ask([&](Function& function) { return function.write_region(region, offset, from); });
}

Result<Window> LocalHandle::map_window(unsigned region, std::uint64_t offset, std::uint64_t length) {
  OUTBOARD_CHECK(state_->check(region, offset, length, true));
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

Status LocalHandle::reset() {
  return state_->host->await([](Function& function, Function::Completion done) { function.reset(std::move(done)); });
}

Status LocalHandle::attach(Loop& /*loop*/) { return {}; }

Status LocalHandle::bind_interrupts(InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  std::vector<EventFd> copies;
  for (const EventFd& eventfd : eventfds) {
    EventFd copy;
    if (eventfd.valid()) {
      OUTBOARD_TRY(UniqueFd fd, eventfd.fd().duplicate());
      OUTBOARD_TRY(copy, EventFd::adopt(std::move(fd)));
    }
    copies.push_back(std::move(copy));
  }
  return state_->ask([&](Function& function) { return function.bind_interrupts(kind, start, std::move(copies)); });
}

Status LocalHandle::disable_interrupts(InterruptKind kind) {
  return state_->ask([&](Function& function) { return function.disable_interrupts(kind); });
}

Status LocalHandle::unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->ask([&](Function& function) { return function.unmask_interrupts(kind, start, count); });
}

}  // namespace outboard::pci
