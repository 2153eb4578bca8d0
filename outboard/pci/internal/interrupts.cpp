#include <outboard/pci/internal/interrupts.hpp>

#include <algorithm>
#include <optional>

#include <outboard/base/internal/eventfds.hpp>
#include <outboard/pci/internal/message_vectors.hpp>
#include <outboard/pci/internal/msix_pending_bits.hpp>
#include <outboard/pci/internal/msix_table.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

constexpr std::uint8_t no_kind = 255;  ///< saved: nothing is enabled by the client

/// One that is for the client. Others than INTx, MSI and MSI-X there are not, also where a peer says so.
bool is_notice(InterruptKind kind) { return kind > InterruptKind::msix; }

/// Each delivery would unmask the line and deliver again, for as long as the device holds it up.
Error feeds_itself() { return Error(EINVAL, "the same eventfd cannot be both the signal and the unmask of INTx"); }

}  // namespace

struct Interrupts::State {
  // INTx
  unsigned intx_count = 0;
  bool intx_masked = false;
  bool intx_disabled = false;
  std::optional<EventFd> intx;
  std::optional<EventFd> resample;
  Registration resample_watch;

  MessageVectors msi;
  bool msi_enabled = false;
  std::uint32_t msi_mask = 0;

  MessageVectors msix;
  MsixTableBytes table;
  bool msix_enabled = false;
  bool function_masked = false;
  bool table_rules = false;  ///< the client has written the table

  bool bus_master = false;
  std::optional<InterruptKind> bound;  ///< the one of INTx, MSI and MSI-X that the client has enabled

  // What is told to the client and not to the driver. Nothing of it waits for an eventfd.
  EventFd error, request;

  EventFd& notice(InterruptKind kind) { return kind == InterruptKind::error ? error : request; }

  unsigned count(InterruptKind kind) const {
    switch (kind) {
      case InterruptKind::intx:
        return intx_count;
      case InterruptKind::msi:
        return msi.count();
      case InterruptKind::msix:
        return msix.count();
      case InterruptKind::error:
      case InterruptKind::request:
        return 1;
    }
    return 0;
  }

  bool msix_unmasked(unsigned vector) const {
    if (!bus_master) return false;
    return !table_rules || (msix_enabled && !function_masked && !table.masked(vector));
  }
  bool msi_unmasked(unsigned vector) const { return bus_master && (msi_mask >> vector & 1) == 0; }

  void refresh_msix() {
    msix.set_active(msix_enabled || bound == InterruptKind::msix);
    msix.refresh([this](unsigned vector) { return msix_unmasked(vector); });
  }
  void refresh_msi() {
    msi.set_active(msi_enabled || bound == InterruptKind::msi);
    msi.refresh([this](unsigned vector) { return msi_unmasked(vector); });
  }

  void unbind(InterruptKind kind) {
    if (is_notice(kind)) notice(kind) = EventFd();
    if (kind == InterruptKind::intx) {
      intx.reset();
      resample_watch.reset();
      resample.reset();
      intx_masked = false;
    }
    MessageVectors* vectors = kind == InterruptKind::msi ? &msi : kind == InterruptKind::msix ? &msix : nullptr;
    if (vectors == nullptr) return;
    vectors->unbind_all();
    vectors->drop_pending();
  }
};

Interrupts::Interrupts(Loop& loop) : loop_(loop), state_(std::make_unique<State>()) {}
Interrupts::~Interrupts() = default;

void Interrupts::set_counts(unsigned intx, unsigned msi, unsigned msix) {
  state_->intx_count = std::min(intx, 1u);
  state_->msi.resize(std::min(msi, MsiControl::max_vectors));
  state_->msix.resize(std::min(msix, MsixControl::max_vectors));
  state_->table.resize(state_->msix.count());
}

InterruptInfo Interrupts::info(InterruptKind kind) const {
  const bool level = kind == InterruptKind::intx;
  return {.count = state_->count(kind), .maskable = level, .automasked = level, .resizable = true};
}

// The client's side.

Status Interrupts::bind(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds) {
  State& s = *state_;
  if (s.count(kind) == 0 || !range_within(start, eventfds.size(), s.count(kind))) {
    return Error(EINVAL, "binding more interrupt vectors than the function has");
  }
  if (is_notice(kind)) {
    const bool usable = !eventfds.empty() && may_be_eventfd(eventfds[0].get());
    s.notice(kind) = usable ? std::move(eventfds[0]) : EventFd();
    return {};
  }
  if (s.bound && *s.bound != kind) {
    return Error(EINVAL, "another kind of interrupt is enabled")
        .cure("disable that kind first: only one of INTx, MSI and MSI-X can be in use");
  }
  if (kind == InterruptKind::intx && !eventfds.empty() && s.resample && s.resample->same_as(eventfds[0])) {
    return feeds_itself();
  }
  s.bound = kind;
  if (kind == InterruptKind::intx) {
    if (!eventfds.empty()) s.intx.reset();
    if (!eventfds.empty() && may_be_eventfd(eventfds[0].get())) s.intx = std::move(eventfds[0]);
    fire_intx();
    return {};
  }
  MessageVectors& vectors = kind == InterruptKind::msi ? s.msi : s.msix;
  for (std::size_t i = 0; i < eventfds.size(); ++i)
    vectors.bind(start + static_cast<unsigned>(i), std::move(eventfds[i]));
  kind == InterruptKind::msi ? s.refresh_msi() : s.refresh_msix();
  return {};
}

Status Interrupts::bind_unmask(EventFd eventfd) {
  State& s = *state_;
  if (s.intx_count == 0) return Error(EINVAL, "the function has no INTx");
  if (s.intx && s.intx->same_as(eventfd)) return feeds_itself();
  s.resample_watch.reset();
  s.resample.reset();
  if (!may_be_eventfd(eventfd.get())) return {};
  s.resample = std::move(eventfd);
  auto watch = loop_.watch_eventfd(*s.resample, [this] { unmask_intx(); });
  if (watch) {
    s.resample_watch = std::move(*watch);
  } else {
    s.resample.reset();
  }
  return {};
}

std::uint64_t Interrupts::held() const {
  const State& s = *state_;
  std::uint64_t count = s.msi.held() + s.msix.held();
  for (const bool open : {s.intx.has_value(), s.resample.has_value(), s.error.valid(), s.request.valid()})
    count += open ? 1U : 0U;
  return count;
}

Status Interrupts::disable(InterruptKind kind) {
  state_->unbind(kind);
  if (state_->bound == kind) state_->bound.reset();
  state_->refresh_msi();
  state_->refresh_msix();
  return {};
}

Status Interrupts::trigger(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  State& s = *state_;
  if (!range_within(start, count, s.count(kind)))
    return Error(EINVAL, "triggering more interrupt vectors than there are");
  for (std::uint32_t vector = start; vector < start + count; ++vector) {
    if (is_notice(kind) && s.notice(kind).valid()) s.notice(kind).signal();
    if (kind == InterruptKind::intx && s.intx) s.intx->signal();
    if (kind == InterruptKind::msi) s.msi.trigger(vector);
    if (kind == InterruptKind::msix) s.msix.trigger(vector);
  }
  return {};
}

Status Interrupts::mask(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (kind != InterruptKind::intx) return Error(ENOTTY, "this kind of interrupt cannot be masked by a call");
  if (count == 0 || !range_within(start, count, state_->intx_count)) return Error(EINVAL, "masking more than there is");
  state_->intx_masked = true;
  return {};
}

Status Interrupts::unmask(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (kind != InterruptKind::intx) return Error(ENOTTY, "this kind of interrupt cannot be unmasked by a call");
  if (count == 0 || !range_within(start, count, state_->intx_count))
    return Error(EINVAL, "unmasking more than there is");
  unmask_intx();
  return {};
}

void Interrupts::release_client() {
  for (const auto kind :
       {InterruptKind::intx, InterruptKind::msi, InterruptKind::msix, InterruptKind::error, InterruptKind::request})
    state_->unbind(kind);
  state_->bound.reset();
  state_->table_rules = false;
  state_->refresh_msi();
  state_->refresh_msix();
}

// The driver's side.

void Interrupts::read_table(std::uint64_t offset, MutableBytes into) const {
  const MsixTableBytes& table = state_->table;
  for (std::size_t i = 0; i < into.size(); ++i) {
    into[i] = range_within(offset, i + 1, table.size()) ? table.read(offset + i) : std::byte{0};
  }
}

void Interrupts::write_table(std::uint64_t offset, Bytes from) {
  State& s = *state_;
  bool written = false;
  for (std::size_t i = 0; i < from.size() && range_within(offset, i + 1, s.table.size()); ++i) {
    s.table.write(offset + i, from[i]);
    written = true;
  }
  if (!written) return;
  s.table_rules = true;
  s.refresh_msix();
}

void Interrupts::read_pba(std::uint64_t offset, MutableBytes into) const {
  read_msix_pending_bits(state_->msix, offset, into);
}

std::uint32_t Interrupts::msi_pending() const { return msi_pending_bits(state_->msi); }

void Interrupts::set_msix_control(bool enabled, bool function_masked) {
  state_->msix_enabled = enabled;
  state_->function_masked = function_masked;
  state_->refresh_msix();
  fire_intx();
}

void Interrupts::set_msi_control(bool enabled, std::uint32_t mask) {
  state_->msi_enabled = enabled;
  state_->msi_mask = mask;
  state_->refresh_msi();
  fire_intx();
}

void Interrupts::set_intx_disabled(bool disabled) {
  state_->intx_disabled = disabled;
  fire_intx();
}

void Interrupts::set_bus_master(bool on) {
  if (state_->bus_master == on) return;
  state_->bus_master = on;
  state_->refresh_msi();
  state_->refresh_msix();
}

// The device's side.

bool Interrupts::msix_enabled() const { return state_->msix.active(); }
bool Interrupts::msi_enabled() const { return state_->msi.active(); }

void Interrupts::set_intx(bool level) {
  intx_level_ = level;
  fire_intx();
}

void Interrupts::fire_intx() {
  State& s = *state_;
  // PCI Local Bus 3.0, 6.8: a function for which MSI or MSI-X is enabled does not use its INTx pin.
  if (s.msi_enabled || s.msix_enabled) return;
  if (!intx_level_ || s.intx_masked || s.intx_disabled || !s.intx) return;
  s.intx_masked = true;
  s.intx->signal();
}

void Interrupts::unmask_intx() {
  state_->intx_masked = false;
  fire_intx();
}

void Interrupts::signal_msix(unsigned vector) { state_->msix.signal(vector); }
void Interrupts::signal_msi(unsigned vector) { state_->msi.signal(vector); }

void Interrupts::reset() {
  State& s = *state_;
  intx_level_ = false;
  s.intx_masked = s.intx_disabled = false;
  s.msi_enabled = s.msix_enabled = s.function_masked = s.table_rules = s.bus_master = false;
  s.msi_mask = 0;
  s.table.reset();
  s.msi.drop_pending();
  s.msix.drop_pending();
  s.refresh_msi();
  s.refresh_msix();
}

void Interrupts::save(StateWriter& writer) const {
  const State& s = *state_;
  const auto section = writer.section(state_tag("INTR"), 1);
  writer.put_flag(intx_level_);
  writer.put_flag(s.table_rules);
  std::vector<std::byte> bytes(s.table.size());
  read_table(0, bytes);
  writer.put_bytes(bytes);
  bytes.resize((s.msix.count() + 63) / 64 * 8);
  read_pba(0, bytes);
  writer.put_bytes(bytes);
  writer.put(msi_pending());
  writer.put(s.bound ? static_cast<std::uint8_t>(*s.bound) : no_kind);
}

Result<Interrupts::Saved> Interrupts::check_saved(StateReader& from) const {
  const State& s = *state_;
  Saved saved;
  OUTBOARD_TRY(auto section, from.section(state_tag("INTR"), 1));
  OUTBOARD_TRY(saved.intx_level, section.get_flag());
  OUTBOARD_TRY(saved.table_rules, section.get_flag());
  OUTBOARD_TRY(saved.table, section.get_bytes(std::size_t{MsixControl::max_vectors} * msix_entry::size));
  OUTBOARD_TRY(saved.pending, section.get_bytes(MsixControl::max_vectors / 8));
  OUTBOARD_TRY(saved.msi_pending, section.get<std::uint32_t>());
  OUTBOARD_TRY(const auto enabled, section.get<std::uint8_t>());
  OUTBOARD_CHECK(section.end());
  if (enabled != no_kind) {
    saved.enabled = InterruptKind{enabled};
    if (is_notice(*saved.enabled) || s.count(*saved.enabled) == 0)
      return Error(EINVAL, "the saved interrupts are of a kind that this function does not have");
  }
  const bool has_intx = s.intx_count != 0 || !saved.intx_level;
  if (!has_intx || !s.table.could_be(saved.table) || !could_be_pending_bits(saved.pending, s.msix.count()) ||
      std::uint64_t{saved.msi_pending} >> s.msi.count() != 0) {
    return Error(EINVAL, "the saved interrupts are of another function");
  }
  return saved;
}

void Interrupts::restore(const Saved& saved) {
  State& s = *state_;
  intx_level_ = saved.intx_level;
  s.intx_masked = false;
  s.table_rules = saved.table_rules;
  const bool has_bound = s.intx.has_value() || s.msi.held() != 0 || s.msix.held() != 0;
  if (!has_bound) s.bound = saved.enabled;
  s.refresh_msi();
  s.refresh_msix();
  for (std::size_t at = 0; at < saved.table.size(); ++at) s.table.write(at, saved.table[at]);
  for (unsigned vector = 0; vector < s.msix.count(); ++vector) {
    const bool pending = (saved.pending[vector / 8] >> (vector % 8) & std::byte{1}) != std::byte{0};
    s.msix.set_pending(vector, pending);
  }
  for (unsigned vector = 0; vector < s.msi.count(); ++vector)
    s.msi.set_pending(vector, (saved.msi_pending >> vector & 1) != 0);
  s.refresh_msi();
  s.refresh_msix();
}

}  // namespace outboard::pci
