#pragma once

#include <functional>
#include <memory>

#include <outboard/base/bytes.hpp>
#include <outboard/memory/address_map.hpp>

namespace outboard::memory {

/// Bytes in one message through a port, at most, whatever the port allows: QEMU answers no more.
inline constexpr std::uint64_t max_port_transfer = UINT64_C(64) << 10;

using TransferCompletion = std::move_only_function<void(Status)>;

/// Reads `range` as the device does, into `into`, which has the same size and must stay until `done`. Host memory is copied
/// before the call returns; the rest comes through the ports of the mappings, in messages of at most max_port_transfer bytes,
/// one at a time. `done` is called exactly once; inside the call if no port is involved.
///
/// Call it on the device's control loop, where ports live; on any thread if check() of the snapshot returns ok.
///
/// EINVAL: the sizes differ. EFAULT: a byte is in no mapping, or the file behind it was truncated. EPERM: a mapping lacks the
/// permission. If this shows beforehand, nothing is copied. Other errors: those of a port.
void read_memory(std::shared_ptr<const Snapshot> snapshot, IovaRange range, MutableBytes into, TransferCompletion done);

/// Writes `from` to `range`, as the device; otherwise as read_memory().
void write_memory(std::shared_ptr<const Snapshot> snapshot, IovaRange range, Bytes from, TransferCompletion done);

}  // namespace outboard::memory
