// Configuration space, driven by whoever sends messages: any bytes at any offset.
//
// First that of an emulated function, and a walk of the capability list as a driver makes it: whatever was written, the
// identity stands and the list is as it was. Then that of a device that is hostile too, re-exported and as the kernel shows
// it: the input is what the device has in the place of its capabilities, and the accesses. Its client sees a list that ends,
// and nothing that is written reaches the device's BARs, gaps or hidden capabilities, or turns bus mastering on.
//
// The input is a sequence of accesses: 1 byte (bit 7: read; bits 0..6: length), 2 bytes of offset, the bytes to write.

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>
#include <outboard/pci/config_walk.hpp>
#include <outboard/pci/internal/exporter_config.hpp>
#include <outboard/pci/internal/kernel_config.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/testing/fake_handle.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace {

using namespace outboard;

void require(bool condition) {
  if (!condition) std::abort();
}

/// `read` and `write`: (offset, bytes) -> Status.
template <typename Read, typename Write>
void run_accesses(ByteReader input, Read read, Write write) {
  while (input.remaining() >= 3) {
    const auto kind = *input.read<std::uint8_t>();
    const std::uint64_t offset = *input.read<le16>();
    const std::size_t length = kind & 0x7F;
    if ((kind & 0x80) != 0) {
      std::vector<std::byte> into(length);
      require(read(offset, into).has_value());
      continue;
    }
    const auto bytes = input.take(std::min(length, input.remaining()));
    require(write(offset, *bytes).has_value());
  }
}

void fuzz_emulated(Bytes input) {
  testing::ManualLoop loop;
  auto made = testing::PlainFunction::create(loop);
  require(made.has_value());
  testing::PlainFunction& function = **made;
  auto handle = pci::LocalHandle::over(std::move(*made), [&] { loop.run_until_idle(); }, "fuzz");
  require(handle.has_value());
  const auto before = (*handle)->capabilities();
  require(before.has_value());

  const std::uint64_t size = function.region(pci::region::config).size;
  // The function is the one that checks: whoever carries the message does not.
  const auto checked = [size](std::uint64_t at, std::size_t length, const Status& done) -> Status {
    if (range_within(at, length, size)) return done;
    require(!done && done.error().code() == EINVAL);
    return {};
  };
  run_accesses(
      ByteReader(input),
      [&](std::uint64_t at, MutableBytes into) {
        return checked(at, into.size(), function.read_region(pci::region::config, at, into));
      },
      [&](std::uint64_t at, Bytes from) {
        return checked(at, from.size(), function.write_region(pci::region::config, at, from));
      });
  loop.run_until_idle();

  le32 identity;
  require((*handle)->read_region(pci::region::config, 0, as_writable_bytes_of(identity)).has_value());
  require(identity == 0x0B0D1234);
  const auto after = (*handle)->capabilities();
  require(after.has_value() && after->size() == before->size());
  for (std::size_t i = 0; i < after->size(); ++i) {
    require((*after)[i].id == (*before)[i].id && (*after)[i].offset == (*before)[i].offset);
  }
}

constexpr std::size_t header_size = 0x40;

/// Puts the input where a device has its capabilities.
void spoil(testing::ConfigDevice& device, Bytes input) {
  auto& bytes = device.bytes();
  copy_bytes(input.first(std::min(input.size(), bytes.size() - header_size)), MutableBytes(bytes).subspan(header_size));
}

bool is_base(std::uint16_t at) { return (at >= 0x10 && at < 0x28) || (at >= 0x30 && at < 0x34); }

void fuzz_exporter(Bytes input) {
  testing::FakeHandle handle;
  spoil(handle.config_space, input);
  const auto made = pci::ExporterConfig::create(handle);
  require(made.has_value());
  pci::ExporterConfig& config = **made;
  handle.config_space.writes.clear();
  run_accesses(
      ByteReader(input), [&](auto at, MutableBytes into) { return config.read(at, into); },
      [&](auto at, Bytes from) { return config.write(at, from); });
  for (const auto& write : handle.config_space.writes) {
    require(config.map().at(write.at).owner != pci::ConfigMap::gap_owner && !is_base(write.at));
    require(write.at != 4 || (write.value & 4) == 0);
  }
  std::vector<std::byte> image(config.size());
  require(config.read(0, image).has_value());
  require(!pci::walk_capabilities(image).broken);
}

void fuzz_kernel_mirror(Bytes input) {
  testing::ConfigDevice device;
  spoil(device, input);
  const auto made = pci::KernelConfig::create(device, {.base_sizes = {0x1000}, .size = 4096});
  require(made.has_value());
  device.writes.clear();
  run_accesses(
      ByteReader(input), [&](auto at, MutableBytes into) { return (*made)->read(at, into); },
      [&](auto at, Bytes from) { return (*made)->write(at, from); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes input = std::as_bytes(std::span(data, size));
  fuzz_emulated(input);
  fuzz_exporter(input);
  fuzz_kernel_mirror(input);
  return 0;
}
