// Configuration space of an emulated function, driven by whoever sends messages: any bytes at any offset, then a walk of
// the capability list as a driver makes it. Whatever was written, the identity stands and the list is as it was.
//
// The input is a sequence of accesses: 1 byte (bit 7: read; bits 0..6: length), 2 bytes of offset, the bytes to write.

#include <algorithm>
#include <cstdlib>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/testing/plain_function.hpp>

namespace {

using namespace outboard;

void require(bool condition) {
  if (!condition) std::abort();
}

void run_accesses(pci::Function& function, ByteReader input) {
  while (input.remaining() >= 3) {
    const auto kind = *input.read<std::uint8_t>();
    const std::uint64_t offset = *input.read<le16>();
    const std::size_t length = kind & 0x7F;
    if ((kind & 0x80) != 0) {
      std::vector<std::byte> into(length);
      require(function.read_region(pci::region::config, offset, into).has_value());
      continue;
    }
    const auto bytes = input.take(std::min(length, input.remaining()));
    require(function.write_region(pci::region::config, offset, *bytes).has_value());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  testing::ManualLoop loop;
  auto made = testing::PlainFunction::create(loop);
  require(made.has_value());
  testing::PlainFunction& function = **made;
  auto handle = pci::LocalHandle::over(std::move(*made), [&] { loop.run_until_idle(); }, "fuzz");
  require(handle.has_value());
  const auto before = (*handle)->capabilities();
  require(before.has_value());

  run_accesses(function, ByteReader(std::as_bytes(std::span(data, size))));
  loop.run_until_idle();

  le32 identity;
  require((*handle)->read_region(pci::region::config, 0, as_writable_bytes_of(identity)).has_value());
  require(identity == 0x0B0D1234);
  const auto after = (*handle)->capabilities();
  require(after.has_value() && after->size() == before->size());
  for (std::size_t i = 0; i < after->size(); ++i) {
    require((*after)[i].id == (*before)[i].id && (*after)[i].offset == (*before)[i].offset);
  }
  return 0;
}
