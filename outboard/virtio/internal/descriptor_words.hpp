#pragma once

#include <cstddef>
#include <cstdint>

#include <outboard/base/endian.hpp>
#include <outboard/virtio/spec.hpp>

/// Descriptors as two 64-bit words, the way they are copied out of shared memory: the fields are then taken from
/// registers, not from a structure on the stack. What they are called in spec::Descriptor and spec::PackedDescriptor.
namespace outboard::virtio {

struct DescriptorWords {
  le64 first;
  le64 second;

  std::uint64_t addr() const { return first; }
  std::uint32_t len() const { return static_cast<std::uint32_t>(second); }
};

struct SplitDescriptorWords : DescriptorWords {
  std::uint16_t flags() const { return static_cast<std::uint16_t>(second >> 32); }
  std::uint16_t next() const { return static_cast<std::uint16_t>(second >> 48); }
};
static_assert(sizeof(SplitDescriptorWords) == sizeof(spec::Descriptor));
static_assert(offsetof(spec::Descriptor, flags) == 12 && offsetof(spec::Descriptor, next) == 14);

struct PackedDescriptorWords : DescriptorWords {
  std::uint16_t id() const { return static_cast<std::uint16_t>(second >> 32); }
  std::uint16_t flags() const { return static_cast<std::uint16_t>(second >> 48); }
};
static_assert(sizeof(PackedDescriptorWords) == sizeof(spec::PackedDescriptor));
static_assert(offsetof(spec::PackedDescriptor, id) == 12 && offsetof(spec::PackedDescriptor, flags) == 14);

}  // namespace outboard::virtio
