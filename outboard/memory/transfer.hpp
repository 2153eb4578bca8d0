#pragma once

#include <functional>
#include <memory>

#include <outboard/base/bytes.hpp>
#include <outboard/memory/address_map.hpp>

namespace outboard::memory {

/// The most that goes through a port in one message, whatever the port says it could take: QEMU answers no more.
inline constexpr std::uint64_t max_port_transfer = UINT64_C(64) << 10;

using TransferCompletion = std::move_only_function<void(Status)>;

/// Reads `range`, as the device, into `into`, which has the same size and must stay until `done`. What is mapped here
/// is copied before the call returns; the rest comes through the mappings' ports, one message at a time and each of at
/// most max_port_transfer bytes. `done` comes exactly once, from inside the call when no port made it wait.
///
/// Call it on the device's control loop, where ports live; from any thread when check() of the snapshot says ok.
///
/// EINVAL: the sizes differ. EFAULT: some byte is in no mapping, or the file behind it was truncated. EPERM: a mapping
/// lacks the permission. Nothing is copied in the cases that show beforehand. Else what a port said.
void read_memory(std::shared_ptr<const Snapshot> snapshot, IovaRange range, MutableBytes into, TransferCompletion done);

/// Writes `from` to `range`, as the device; otherwise as read_memory().
void write_memory(std::shared_ptr<const Snapshot> snapshot, IovaRange range, Bytes from, TransferCompletion done);

}  // namespace outboard::memory
