#pragma once

#include <cstdint>

/// VIRTIO 1.4, chapter 5: the virtio device IDs of the device types that this library and its command know something about.
namespace outboard::virtio::device_id {

constexpr std::uint32_t net = 1;
constexpr std::uint32_t blk = 2;
constexpr std::uint32_t console = 3;
constexpr std::uint32_t entropy = 4;
constexpr std::uint32_t balloon = 5;
constexpr std::uint32_t scsi = 8;
constexpr std::uint32_t p9 = 9;
constexpr std::uint32_t gpu = 16;
constexpr std::uint32_t input = 18;
constexpr std::uint32_t socket = 19;
constexpr std::uint32_t crypto = 20;
constexpr std::uint32_t iommu = 23;
constexpr std::uint32_t memory = 24;
constexpr std::uint32_t sound = 25;
constexpr std::uint32_t fs = 26;

}  // namespace outboard::virtio::device_id
