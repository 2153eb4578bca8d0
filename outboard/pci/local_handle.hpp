#pragma once

#include <memory>

#include <outboard/base/log.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::pci {

class FunctionHost;

/// A function in this process, driven without a socket. start() gives the function a thread and a reactor of its own; every
/// call runs there while the caller waits. over() drives a function whose loop the caller runs (unit tests, benchmarks), and
/// calls it directly.
///
/// EDEADLK: a call from the function's own thread (or, for over(), inside `pump`) that would wait for itself. ETIMEDOUT: a
/// reset or an unmap that the function did not complete within 30 seconds.
/// The handle must not be destroyed on the function's thread. The handle owns the function.
class LocalHandle final : public Handle {
 public:
  struct Options {
    Log log;
    Duration spin{0};  ///< of the device's reactor
    std::string name = "local";
  };

  static Result<std::unique_ptr<LocalHandle>> start(FunctionFactory factory, Options options);
  /// `pump` runs the function's loop until it is idle; it is called while the handle waits for a completion. The loop serves
  /// its eventfds (resample, doorbells) when the caller runs it.
  static Result<std::unique_ptr<LocalHandle>> over(std::unique_ptr<Function> function, Loop::Task pump,
                                                   std::string name);
  ~LocalHandle() override;

  std::string name() const override;
  Result<RegionInfo> region(unsigned index) override;
  Result<InterruptInfo> interrupts(InterruptKind kind) override;
  Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) override;
  Status write_region(unsigned region, std::uint64_t offset, Bytes from) override;
  Result<Window> map_window(unsigned region, std::uint64_t offset, std::uint64_t length) override;
  Result<std::vector<IoEventFd>> io_eventfds(unsigned region) override;
  memory::DmaSpace& dma() override;
  memory::DmaMapper& dma_mapper() override;
  bool resettable() const override;
  Status reset() override;
  Status attach(Loop& loop) override;
  void detach() override;
  int fd() const override;
  Status process() override;
  void revoke() override;
  bool gone() const override;  ///< only after revoke(): a function in this process stays

  Status bind_interrupts(InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) override;
  Status bind_unmask(const EventFd& eventfd) override;
  Status disable_interrupts(InterruptKind kind) override;
  Status mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;

 private:
  struct State;
  static Result<std::unique_ptr<LocalHandle>> make(std::unique_ptr<FunctionHost> host, std::string name);
  explicit LocalHandle(std::unique_ptr<State> state);
  void end_function();
  Status watch_events();
  std::unique_ptr<State> state_;
};

}  // namespace outboard::pci
