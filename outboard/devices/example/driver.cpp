#include <outboard/devices/example/driver.hpp>

#include <utility>
#include <vector>

#include <fmt/format.h>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/example/internal/driver_event_buffers.hpp>
#include <outboard/devices/example/internal/driver_request_queue.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::example {

namespace {

constexpr std::uint8_t nothing_there = 0xff;  // what every register of a device that was pulled out reads
constexpr unsigned max_at_once = 256;        // used buffers, before others on the loop get their turn
constexpr unsigned ticks_per_timeout = 4;
constexpr unsigned polls_per_pass = 1024;     // a caller that polls looks at the loop once in so many rounds

virtio::Features wanted(const Driver::Options& options) {
  virtio::Features features{virtio::Feature::indirect_desc, virtio::Feature::event_idx, virtio::Feature::in_order,
                            virtio::Feature::notification_data};
  if (options.limit) features.set(feature::limit);
  if (options.packed) features.set(virtio::Feature::ring_packed);
  return features;
}

template <typename Callback>
std::shared_ptr<const Callback> shared(Callback callback) {
  return callback ? std::make_shared<const Callback>(std::move(callback)) : nullptr;
}

}  // namespace

/// What is behind a Driver, at a fixed place: registrations with the loop refer to it.
class Driver::Core {
 public:
  Core(virtio::Transport& transport, std::unique_ptr<virtio::Transport> owned, const Options& options)
      : transport_(transport), owned_(std::move(owned)), options_(options) {}
  ~Core() {
    shut_down(ECANCELED);
    // The device was never seen to stop.
    if (requests_) std::move(*requests_).abandon_memory();
    if (events_) std::move(*events_).abandon_memory();
    // The loop may end with us, whosever it is; what we drive may go on.
    if (loop_ != nullptr) transport_.detach();
  }
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  Status prepare();
  Status bring_up();
  void shut_down(int error);
  Status submit(Call& call);
  void publish();
  unsigned take_answers();
  Result<Answer> increment(std::uint32_t value);
  Result<Limit> limit() const;
  Status wait_for(const bool& done);

  bool limited() const { return features_.has(feature::limit); }
  unsigned poll();

  virtio::Transport& transport_;
  std::unique_ptr<virtio::Transport> owned_;
  Options options_;
  std::unique_ptr<Reactor> reactor_;  // where the loop is our own
  Loop* loop_ = nullptr;
  virtio::Features features_;
  // Shared with the call that runs them: one that sets another lives until it returns.
  std::shared_ptr<const std::function<void(const Event&)>> on_event_;
  std::shared_ptr<const std::function<void(const Limit&)>> on_limit_;
  bool broken_ = true;
  std::uint16_t depth_ = 0;
  unsigned delivering_ = 0;  // callbacks on the stack

 private:
  Status build_queues();
  Status watch_vectors();
  void vector_fired(unsigned vector);
  void config_changed();
  void queues_used();
  bool interrupts();
  void take_events();
  void finish(Call& call);
  void start_timer();
  void tick();
  void fail(const Error& reason, int error);

  bool touched_ = false;  // the device is ours to reset
  unsigned vectors_ = 0;
  std::optional<RequestQueue> requests_;
  std::optional<EventBuffers> events_;
  std::vector<Registration> watches_;
  Registration poller_, timer_, more_;
  std::uint64_t ticks_ = 0;  // what calls are timed with
  const std::shared_ptr<Core*> self_ = std::make_shared<Core*>(this);  // what may be called late holds it weakly
};

// --- From reset to DRIVER_OK -------------------------------------------------------------------------------------------

Status Driver::Core::prepare() {
  if (transport_.device_id() != device_id)
    return Error(ENODEV, fmt::format("not an example device: its virtio device ID is {}", transport_.device_id()))
        .on(transport_.name());
  if (options_.depth == 0) return Error(EINVAL, "a driver needs room for a call");
  loop_ = options_.loop;
  if (loop_ == nullptr) {
    OUTBOARD_TRY(reactor_, Reactor::create());
    loop_ = reactor_.get();
  }
  // Perhaps when we have gone ourselves, or are in the middle of a call. Nothing that is in flight ends otherwise.
  transport_.on_gone([loop = loop_, weak = std::weak_ptr(self_)] {
    if (weak.expired()) return;
    loop->post([weak] {
      if (const auto self = weak.lock()) (*self)->config_changed();
    });
  });
  return transport_.attach(*loop_);
}

/// 5.x.5 Device Initialization.
Status Driver::Core::bring_up() {
  touched_ = true;
  OUTBOARD_TRY(features_, virtio::negotiate(transport_, wanted(options_)));
  if (vectors_ == 0) {
    // A change of the configuration has to be heard of however the queues are looked at.
    OUTBOARD_TRY(vectors_, transport_.enable_vectors(options_.poll ? 1 : 3));
  }
  OUTBOARD_CHECK(build_queues());
  OUTBOARD_CHECK(watch_vectors());
  OUTBOARD_CHECK(virtio::start_device(transport_));
  broken_ = false;
  if (events_) events_->ring().publish();
  queues_used();
  return {};
}

Status Driver::Core::build_queues() {
  // Those of before the reset, if it was not known to be one.
  requests_.reset();
  events_.reset();
  // One for the configuration and one for each queue, as far as they go.
  const auto vector = [this](unsigned wanted) {
    const bool none = vectors_ == 0 || (options_.poll && wanted != 0);
    return none ? std::optional<unsigned>() : std::min(wanted, vectors_ - 1);
  };
  auto config = transport_.set_config_vector(vector(0));
  // A device without a vector to spare: that it is broken shows when it does not answer.
  if (!config && config.error().code() == ENOSPC) config = transport_.set_config_vector(std::nullopt);
  OUTBOARD_CHECK(config);
  OUTBOARD_TRY(requests_, RequestQueue::create(transport_, features_, limited(), options_.depth, vector(1)));
  depth_ = requests_->depth();
  if (!limited() || options_.events == 0) return {};
  OUTBOARD_TRY(events_, EventBuffers::create(transport_, features_, options_.events, vector(2)));
  return {};
}

Status Driver::Core::watch_vectors() {
  for (unsigned vector = 0; vector < vectors_; ++vector) {
    OUTBOARD_TRY(auto watch, loop_->watch_eventfd(transport_.vector(vector), [this, vector] { vector_fired(vector); }));
    watches_.push_back(std::move(watch));
  }
  if (!interrupts()) poller_ = loop_->poll([this] { return poll() != 0; });
  return {};
}

bool Driver::Core::interrupts() { return requests_->ring().vector() && (!events_ || events_->ring().vector()); }

/// Resets the device; everything in flight ends with `error`. As long as the device is not seen to have stopped, the
/// memory that it may still write to is kept.
void Driver::Core::shut_down(int error) {
  if (!touched_) return;
  watches_.clear();
  poller_.reset();
  timer_.reset();
  more_.reset();
  broken_ = true;
  // Before the memory goes that the device writes to.
  touched_ = !transport_.reset().has_value();
  const std::vector<Call*> calls = requests_ ? requests_->take_in_flight() : std::vector<Call*>();
  if (!touched_) {
    requests_.reset();
    events_.reset();
  }
  for (Call* call : calls) {
    call->error = error;
    finish(*call);
  }
}

// --- While it runs -----------------------------------------------------------------------------------------------------

void Driver::Core::vector_fired(unsigned vector) {
  if (vector == 0) {
    // A vector that stands for everything (INTx among them) says what it was in the ISR status.
    const auto isr = vectors_ == 1 ? transport_.acknowledge_interrupt() : Result<std::uint8_t>(2);
    if (isr && (*isr & 2) != 0) config_changed();
  }
  queues_used();
}

void Driver::Core::config_changed() {
  if (broken_) return;
  const auto status = transport_.status();
  if (!status || *status == nothing_there || transport_.gone())
    return fail(Error(ENODEV, "the device has gone"), ENODEV);
  if ((*status & virtio::spec::status::needs_reset) != 0) return fail(Error(EIO, "the device asks for a reset"), EIO);
  const auto told = on_limit_;
  if (!told || !limited()) return;
  ++delivering_;
  if (const auto now = limit()) (*told)(*now);
  --delivering_;
  publish();
}

/// Takes what was used on both queues, and asks to be told of more.
void Driver::Core::queues_used() {
  for (unsigned rounds = 0; rounds < 2; ++rounds) {
    poll();
    if (broken_ || !interrupts()) return;  // the loop polls
    const bool more_answers = requests_->ring().enable_interrupts();
    const bool more_events = events_ && events_->ring().enable_interrupts();
    if (!more_answers && !more_events) return;
  }
  // Others on the loop first.
  if (!more_.active()) {
    more_ = loop_->after(Duration(0), [this] {
      more_.reset();
      queues_used();
    });
  }
}

unsigned Driver::Core::poll() {
  if (broken_ || delivering_ != 0) return 0;
  const unsigned count = take_answers();
  if (!broken_) take_events();
  return count;
}

unsigned Driver::Core::take_answers() {
  unsigned count = 0;
  while (!broken_ && count < max_at_once) {
    const auto call = requests_->next();
    if (!call) {
      fail(call.error(), EIO);
      break;
    }
    if (*call == nullptr) break;
    ++count;
    finish(**call);
  }
  if (count != 0) publish();
  return count;
}

void Driver::Core::take_events() {
  if (!events_) return;
  unsigned count = 0;
  for (; count < max_at_once; ++count) {
    const auto next = events_->next();
    if (!next) return fail(next.error(), EIO);
    if (!*next) break;
    const auto told = on_event_;
    if (!(*next)->event || !told) continue;
    ++delivering_;
    (*told)(*(*next)->event);
    --delivering_;
    if (broken_) return;
  }
  if (count == 0) return;
  events_->ring().publish();
  publish();
}

void Driver::Core::finish(Call& call) {
  ++delivering_;
  call.done(call);
  --delivering_;
}

/// The device is of no use any more, until restart().
void Driver::Core::fail(const Error& reason, int error) {
  if (broken_) return;
  options_.log.error("{}: {}", transport_.name(), reason.message());
  shut_down(error);
}

Status Driver::Core::submit(Call& call) {
  if (broken_) return Error(EIO, "the device is broken").on(transport_.name()).cure("start it again");
  call.error = 0;
  OUTBOARD_CHECK(requests_->add(call, ticks_));
  start_timer();
  return {};
}

void Driver::Core::start_timer() {
  if (options_.timeout == Duration(0) || timer_.active()) return;
  timer_ = loop_->after(options_.timeout / ticks_per_timeout, [this] { tick(); });
}

/// Looks whether a call is overdue; a device may answer all others.
void Driver::Core::tick() {
  timer_.reset();
  ++ticks_;
  poll();
  if (broken_ || requests_->idle()) return;
  if (requests_->overdue(ticks_, ticks_per_timeout))
    return fail(Error(ETIMEDOUT, "the device does not answer"), ETIMEDOUT);
  start_timer();
}

void Driver::Core::publish() {
  if (!broken_) requests_->ring().publish();
}

Result<Limit> Driver::Core::limit() const {
  if (!limited()) return Error(ENOTSUP, "the device has no limit").on(transport_.name());
  spec::Config config;
  OUTBOARD_CHECK(transport_.read_config(0, as_writable_bytes_of(config)));
  return Limit{config.limit, config.epoch};
}

Result<Answer> Driver::Core::increment(std::uint32_t value) {
  if (reactor_ == nullptr)
    return Error(ENOTSUP, "the driver runs on a loop of the caller's").cure("use submit() and publish()");
  if (delivering_ != 0) return Error(EDEADLK, "called from inside a callback");
  // EDEADLK: somewhere below us the loop runs. Before anything is started, since what is started has to be waited for.
  if (const auto pass = reactor_->run_once(Duration(0)); !pass) return pass.error();
  bool ended = false;
  Call call{.value = value, .done = [](Call& done) { *static_cast<bool*>(done.context) = true; }, .context = &ended};
  OUTBOARD_CHECK(submit(call));
  publish();
  if (const auto waited = wait_for(ended); !waited) {
    shut_down(ECANCELED);  // the call must not outlive its caller
    return waited.error();
  }
  if (call.error != 0) return Error(call.error).on(transport_.name());
  return call.answer;
}

Status Driver::Core::wait_for(const bool& done) {
  for (unsigned round = 1; !done; ++round) {
    if (options_.poll && (poll() != 0 || round % polls_per_pass != 0)) continue;
    const auto pass = reactor_->run_once(options_.poll ? Duration(0) : Duration(std::chrono::seconds(1)));
    if (!pass) return pass.error();
  }
  return {};
}

// --- Driver ------------------------------------------------------------------------------------------------------------

Driver::Driver(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Driver::Driver(Driver&&) noexcept = default;
Driver& Driver::operator=(Driver&&) noexcept = default;
Driver::~Driver() = default;

Result<Driver> Driver::start(virtio::Transport& transport, const Options& options) {
  auto core = std::make_unique<Core>(transport, nullptr, options);
  OUTBOARD_CHECK(core->prepare());
  OUTBOARD_CHECK(core->bring_up());
  return Driver(std::move(core));
}

Result<Driver> Driver::start(std::unique_ptr<virtio::Transport> transport, const Options& options) {
  virtio::Transport& borrowed = *transport;
  auto core = std::make_unique<Core>(borrowed, std::move(transport), options);
  OUTBOARD_CHECK(core->prepare());
  OUTBOARD_CHECK(core->bring_up());
  return Driver(std::move(core));
}

const virtio::Features& Driver::features() const { return core_->features_; }
bool Driver::has_limit() const { return core_->limited(); }
Result<Limit> Driver::limit() const { return core_->limit(); }
bool Driver::broken() const { return core_->broken_; }
void Driver::on_event(std::function<void(const Event&)> callback) { core_->on_event_ = shared(std::move(callback)); }
void Driver::on_limit(std::function<void(const Limit&)> callback) { core_->on_limit_ = shared(std::move(callback)); }
Status Driver::submit(Call& call) { return core_->submit(call); }
void Driver::publish() { core_->publish(); }
unsigned Driver::poll() { return core_->poll(); }
Result<Answer> Driver::increment(std::uint32_t value) { return core_->increment(value); }

Status Driver::restart() {
  if (core_->delivering_ != 0) return Error(EDEADLK, "called from inside a callback");
  core_->shut_down(ECANCELED);
  return core_->bring_up();
}

std::uint16_t Driver::depth() const { return core_->depth_; }
Loop& Driver::loop() const { return *core_->loop_; }
int Driver::fd() const { return core_->reactor_ != nullptr ? core_->reactor_->fd() : -1; }

Status Driver::process() {
  if (core_->reactor_ == nullptr) return Error(ENOTSUP, "the driver runs on a loop of the caller's");
  return core_->reactor_->process();
}

Status Driver::wait(Duration timeout) {
  if (core_->reactor_ == nullptr) return Error(ENOTSUP, "the driver runs on a loop of the caller's");
  const auto pass = core_->reactor_->run_once(timeout);
  return pass ? Status() : Status(pass.error());
}

}  // namespace outboard::example
