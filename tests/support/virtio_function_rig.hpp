#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <outboard/memory/host_memory.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/spec.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <tests/support/probe_device.hpp>

namespace outboard::testing {

/// A virtio function around a ProbeDevice, driven by hand, without a handle: configuration space and BAR accesses.
class VirtioFunctionRig {
 public:
  static constexpr std::uint8_t acked = virtio::spec::status::acknowledge | virtio::spec::status::driver;
  static constexpr std::uint8_t agreed = acked | virtio::spec::status::features_ok;
  static constexpr std::uint8_t live = agreed | virtio::spec::status::driver_ok;

  explicit VirtioFunctionRig(virtio_pci::Function::Options options = {},
                             virtio::Identity identity = {.device_id = 63, .queue_sizes = {8, 4}, .config_size = 16}) {
    auto probe = std::make_unique<ProbeDevice>(std::move(identity));
    device = probe.get();
    function = virtio_pci::Function::create(std::move(probe), loop, Log(), std::move(options)).value();
    set_command(6);  // memory space, bus master
  }

  template <typename T>
  T config(std::uint64_t offset) {
    return read<T>(pci::region::config, offset);
  }
  template <typename T>
  void set_config(std::uint64_t offset, T value) {
    write(pci::region::config, offset, value);
  }
  template <typename T>
  T bar(std::uint64_t offset) {
    return read<T>(0, offset);
  }
  template <typename T>
  void set_bar(std::uint64_t offset, T value) {
    write(0, offset, value);
  }
  void set_command(std::uint16_t value) { set_config<std::uint16_t>(4, value); }
  std::uint8_t device_status() { return bar<std::uint8_t>(offsetof(Common, device_status)); }
  void set_status(std::uint8_t value) { set_bar(offsetof(Common, device_status), value); }

  /// Reset, and up to FEATURES_OK with what is given and what has to be.
  void negotiate(const virtio::Features& more = {}) {
    set_status(0);
    loop.run_until_idle();
    set_status(virtio::spec::status::acknowledge);
    set_status(acked);
    const virtio::Features all = more | virtio::Features{virtio::Feature::version_1, virtio::Feature::access_platform};
    for (std::uint32_t word = 0; word < 4; ++word) {
      set_bar<std::uint32_t>(offsetof(Common, driver_feature_select), word);
      set_bar<std::uint32_t>(offsetof(Common, driver_feature), all.word(word));
    }
    set_status(agreed);
  }
  void select(std::uint16_t queue) { set_bar(offsetof(Common, queue_select), queue); }

  /// Gives a queue a ring in memory of its own, at 1 MiB times (queue + 1), and enables it.
  void set_up_queue(std::uint16_t queue) {
    const std::uint64_t at = (queue + 1) * UINT64_C(0x10'0000);
    if (!memory[queue]) {
      memory[queue] = memory::HostMemory::anonymous(0x4000).value();
      EXPECT_TRUE(function->map({.range = {memory::Iova{at}, 0x4000}, .memory = memory[queue]}));
    }
    std::fill_n(memory[queue]->data(), 0x4000, std::byte{0});
    select(queue);
    set_bar<std::uint32_t>(offsetof(Common, queue_desc), static_cast<std::uint32_t>(at));
    set_bar<std::uint32_t>(offsetof(Common, queue_driver), static_cast<std::uint32_t>(at + 0x1000));
    set_bar<std::uint32_t>(offsetof(Common, queue_device), static_cast<std::uint32_t>(at + 0x2000));
    set_bar<std::uint16_t>(offsetof(Common, queue_enable), 1);
  }
  void start(const virtio::Features& more = {}) {
    negotiate(more);
    set_up_queue(0);
    set_up_queue(1);
    set_status(live);
    loop.run_until_idle();
  }

  /// Puts a request of two elements into the split ring of a queue: descriptors 2n and 2n + 1.
  void publish(std::uint16_t queue, std::uint16_t n, std::uint32_t number) {
    const std::uint64_t at = (queue + 1) * UINT64_C(0x10'0000) + 0x3000 + UINT64_C(8) * n;
    std::byte* base = memory[queue]->data();
    store(base + 0x3000 + UINT64_C(8) * n, le32(number));
    const auto first = static_cast<std::uint16_t>(2 * n), second = static_cast<std::uint16_t>(2 * n + 1);
    store(base + UINT64_C(16) * first, virtio::spec::Descriptor{at, 4, virtio::spec::descriptor::next, second});
    store(base + UINT64_C(16) * second, virtio::spec::Descriptor{at + 4, 4, virtio::spec::descriptor::write, 0});
    const std::uint16_t size = queue == 0 ? 8 : 4;
    const std::uint16_t index = available[queue]++;
    store(base + 0x1000 + 4 + UINT64_C(2) * (index % size), le16(first));
    store(base + 0x1000 + 2, le16(static_cast<std::uint16_t>(index + 1)));
  }
  std::uint16_t used_index(std::uint16_t queue) { return load<le16>(memory[queue]->data() + 0x2000 + 2); }
  std::uint32_t answer(std::uint16_t queue, std::uint16_t n) {
    return load<le32>(memory[queue]->data() + 0x3000 + UINT64_C(8) * n + 4);
  }
  void kick(std::uint16_t queue) {
    set_bar<std::uint16_t>(virtio_pci::Function::notify_at + 4U * queue, queue);
    loop.run_until_idle();
  }

  /// Every MSI-X vector, bound to an eventfd, MSI-X enabled.
  std::vector<EventFd> enable_msix() {
    std::vector<EventFd> mine, theirs;
    for (unsigned i = 0; i < function->interrupts(pci::InterruptKind::msix).count; ++i) {
      mine.push_back(EventFd::create().value());
      theirs.push_back(mine.back().duplicate().value());
    }
    const auto bound = function->bind_interrupts(pci::InterruptKind::msix, 0, std::move(theirs));
    EXPECT_TRUE(bound);
    set_config<std::uint16_t>(capability(0x11) + 2U, 0x8000);
    return mine;
  }
  EventFd enable_intx() {
    EventFd mine = EventFd::create().value();
    std::vector<EventFd> theirs;
    theirs.push_back(mine.duplicate().value());
    const auto bound = function->bind_interrupts(pci::InterruptKind::intx, 0, std::move(theirs));
    EXPECT_TRUE(bound);
    return mine;
  }

  /// Offset of the first capability with this id, and for vendor capabilities this type.
  std::uint8_t capability(std::uint8_t id, std::optional<virtio_pci::spec::Structure> type = {}) {
    for (std::uint8_t at = config<std::uint8_t>(0x34); at != 0; at = config<std::uint8_t>(at + 1U)) {
      if (config<std::uint8_t>(at) != id) continue;
      if (!type || config<std::uint8_t>(at + 3U) == static_cast<std::uint8_t>(*type)) return at;
    }
    return 0;
  }
  virtio_pci::spec::Capability structure(virtio_pci::spec::Structure type) {
    virtio_pci::spec::Capability found{};
    EXPECT_TRUE(function->read_region(pci::region::config, capability(9, type), as_writable_bytes_of(found)));
    return found;
  }

  template <typename T>
  static T load(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  template <typename T>
  static void store(std::byte* at, T value) {
    std::memcpy(at, &value, sizeof value);
  }

  ManualLoop loop;
  ProbeDevice* device = nullptr;
  std::unique_ptr<virtio_pci::Function> function;
  std::map<std::uint16_t, std::shared_ptr<memory::HostMemory>> memory;
  std::map<std::uint16_t, std::uint16_t> available;

 private:
  using Common = virtio_pci::spec::CommonConfig;

  template <typename T>
  T read(unsigned region, std::uint64_t offset) {
    EndianInteger<T, std::endian::little> value;
    EXPECT_TRUE(function->read_region(region, offset, as_writable_bytes_of(value)));
    return value;
  }
  template <typename T>
  void write(unsigned region, std::uint64_t offset, T value) {
    const EndianInteger<T, std::endian::little> stored(value);
    EXPECT_TRUE(function->write_region(region, offset, as_bytes_of(stored)));
  }
};

}  // namespace outboard::testing
