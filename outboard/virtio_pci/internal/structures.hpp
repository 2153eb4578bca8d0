#pragma once

#include <cstdint>
#include <optional>

#include <outboard/base/result.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/virtio_pci/registers.hpp>

namespace outboard::virtio_pci {

/// A part of a BAR in which one virtio structure lies, seen by a driver: through a mapping where there is one, else by
/// calls. The handle must outlive it. Offsets are the caller's to keep inside length().
class Structure {
 public:
  /// What `bar` maps of it is used.
  Structure(pci::Handle& handle, pci::Bar bar, std::uint32_t offset, std::uint32_t length);

  std::uint32_t length() const { return length_; }
  unsigned bar() const { return bar_.index(); }
  /// Where in the BAR it starts.
  std::uint32_t offset() const { return offset_; }

  template <typename T>
  Result<T> read(std::uint64_t at) const {
    if (window_) return window_.read<T>(at);
    return bar_.read<T>(offset_ + at);
  }
  template <typename T>
  Status write(std::uint64_t at, T value) const {
    if (!window_) return bar_.write<T>(offset_ + at, value);
    window_.write<T>(at, value);
    return {};
  }
  /// A posted write: its failure is not reported.
  Status post(std::uint64_t at, Bytes bytes) const;
  /// The mapped memory of a part of it; empty where there is none.
  pci::Window window(std::uint64_t at, std::uint64_t length) const;

 private:
  pci::Handle* handle_;
  pci::Bar bar_;
  std::uint32_t offset_;
  std::uint32_t length_;
  pci::Window window_;
};

/// What a modern virtio function's capabilities lead to: of each type the first that a driver can use
/// (VIRTIO 1.4, 4.1.4.1: the order is the device's preference).
struct Structures {
  Structure common;
  Structure notify;
  Structure isr;
  std::optional<Structure> device;
  std::uint32_t notify_off_multiplier = 0;
};

/// Walks the capabilities. One that is malformed, or points to what the function does not have, is ignored
/// (docs/spec-map.md, VR-12). ENODEV: without a usable one of common configuration, notification and ISR nothing can be driven.
/// EPROTO: the list itself is broken.
Result<Structures> find_structures(pci::Handle& handle);

}  // namespace outboard::virtio_pci
