#include <outboard/testing/loopback_transport.hpp>

#include <algorithm>
#include <stdexcept>

namespace outboard::testing {

namespace {

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  return std::move(*result);
}

}  // namespace

LoopbackTransport::LoopbackTransport(virtio::Device& device, ManualLoop& device_loop, const Options& options)
    : options_(options), loop_(device_loop), map_(device_loop), iommu_(map_), dma_(iommu_) {
  iommu_.set_pump([this] { pump(); });
  core_ = must(virtio::DeviceCore::create(device, map_, loop_, *this,
                                          {.packed = options.packed,
                                           .without = options.without,
                                           .queue_loops = {options.queue_loops.begin(), options.queue_loops.end()},
                                           .poll = options.poll,
                                           .stop_timeout = options.stop_timeout,
                                           .log = options.log}));
  queue_vectors_.resize(core_->queue_count());
  interrupts_.resize(core_->queue_count());
  for (unsigned queue = 0; queue < core_->queue_count(); ++queue) bells_.push_back({this, queue});
}

LoopbackTransport::~LoopbackTransport() {
  bool stopped = false;
  core_->stop(virtio::StopMode::discard, [&](Status) { stopped = true; });
  pump();
  if (!stopped) loop_.run_until([&] { return stopped; });
}

void LoopbackTransport::pump() {
  for (bool did = true; did;) {
    did = loop_.run_until_idle();
    for (ManualLoop* queue_loop : options_.queue_loops) did |= queue_loop->run_until_idle();
  }
}

Status LoopbackTransport::write_driver_features(const virtio::Features& features) {
  for (unsigned word = 0; word < virtio::Features::words; ++word)
    core_->write_driver_features(word, features.word(word));
  return {};
}

Status LoopbackTransport::write_status(std::uint8_t status) {
  core_->write_status(status);
  pump();
  return {};
}

Status LoopbackTransport::reset() {
  core_->write_status(0);
  pump();
  if (core_->status() != 0) return Error(ETIMEDOUT, "the device does not come to rest").on(name());
  return {};
}

Status LoopbackTransport::read_config(std::uint32_t offset, MutableBytes into) {
  if (!range_within(offset, into.size(), config_size())) return Error(EINVAL, "beyond the configuration");
  core_->read_config(offset, into);
  return {};
}

Status LoopbackTransport::write_config(std::uint32_t offset, Bytes from) {
  if (!range_within(offset, from.size(), config_size())) return Error(EINVAL, "beyond the configuration");
  core_->write_config(offset, from);
  return {};
}

Result<virtio::Doorbell> LoopbackTransport::setup_queue(unsigned queue, const virtio::QueueSetup& setup) {
  if (setup.vector && *setup.vector >= vectors_.size()) return Error(ENOSPC, "no such vector");
  core_->set_queue_size(queue, setup.size);
  if (core_->queue_size(queue) != setup.size) return Error(EPROTO, "the device has another size").on(name());
  core_->set_queue_address(queue, 0, setup.descriptors);
  core_->set_queue_address(queue, 1, setup.driver);
  core_->set_queue_address(queue, 2, setup.device);
  core_->enable_queue(queue);
  queue_vectors_.at(queue) = setup.vector;
  return virtio::Doorbell::call(&LoopbackTransport::rung, &bells_.at(queue));
}

Status LoopbackTransport::reset_queue(unsigned queue) {
  core_->reset_queue(queue);
  pump();
  return core_->queue_resetting(queue) ? Status(Error(ETIMEDOUT, "the queue does not come to rest")) : Status();
}

Result<unsigned> LoopbackTransport::enable_vectors(unsigned wanted) {
  while (vectors_.size() < std::min(wanted, options_.vectors)) vectors_.push_back(must(EventFd::create()));
  return static_cast<unsigned>(vectors_.size());
}

Status LoopbackTransport::set_config_vector(std::optional<unsigned> vector) {
  if (vector && *vector >= vectors_.size()) return Error(ENOSPC, "no such vector");
  config_vector_ = vector;
  return {};
}

void LoopbackTransport::notify_queue(unsigned queue) {
  ++interrupts_.at(queue);
  if (const auto vector = queue_vectors_.at(queue)) vectors_.at(*vector).signal();
}

void LoopbackTransport::notify_config() {
  if (config_vector_) vectors_.at(*config_vector_).signal();
}

void LoopbackTransport::rung(void* context, std::uint32_t /*value*/) {
  const Bell& bell = *static_cast<Bell*>(context);
  bell.transport->core_->kick(bell.queue);
}

}  // namespace outboard::testing
