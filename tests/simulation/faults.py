#!/usr/bin/env python3
"""Faults that the simulation must find: copies of sources with a switch for each.

    faults.py files             the sources that have one, relative to the project
    faults.py names             the faults, in the order of their numbers, from 1
    faults.py make SOURCE OUT   a copy of one source with its switches

Each was a fault once, or is a fence, a bound, a check or a wait that somebody could take away. A fault is a list of edits of one
source; FAULT in the new text is true while the fault is switched on. An edit whose old text is not there exactly once is an
error: whoever changes that code changes the fault with it.
"""

import pathlib
import sys

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent

SPLIT_DRIVER = 'outboard/virtio/internal/split_driver_ring.cpp'
PACKED_DRIVER = 'outboard/virtio/internal/packed_driver_ring.cpp'
SPLIT_DEVICE = 'outboard/virtio/internal/split_device_ring.cpp'
DEVICE_QUEUE = 'outboard/virtio/internal/device_queue.cpp'
ANSWERS = 'outboard/virtio/internal/device_queue_answers.cpp'
DISK = 'outboard/devices/blk/internal/device_request_queue.cpp'
DISK_DRIVER = 'outboard/devices/blk/driver_queue.cpp'
SEND_QUEUE = 'outboard/vfio_user/internal/send_queue.cpp'
CHANNEL = 'outboard/vfio_user/internal/channel.cpp'
SESSION = 'outboard/vfio_user/internal/session.cpp'
SERVER = 'outboard/vfio_user/server.cpp'
CLIENT = 'outboard/vfio_user/client.cpp'
POOL = 'outboard/memory/dma_pool.cpp'
HOST_MEMORY = 'outboard/memory/host_memory.cpp'
SIMULATED_DISK = 'outboard/testing/simulated_disk.cpp'

FAULTS = [
    # Lost wake-ups: what a missing fence allows is done outright.
    ('the split driver asks whether to kick before it publishes', SPLIT_DRIVER, [
        ('  avail_idx_.store(next_avail_, std::memory_order_release);\n',
         '  const std::uint16_t early = layout_.event_idx ? avail_event_.load(relaxed) : used_flags_.load(relaxed);\n'
         '  if (FAULT) memory::full_fence();\n'
         '  avail_idx_.store(next_avail_, std::memory_order_release);\n'
         '  if (FAULT) return layout_.event_idx ? need_event(early, next_avail_, before)\n'
         '                                      : (early & spec::used::no_notify) == 0;\n')]),
    ('the split driver does not look again when it has armed', SPLIT_DRIVER, [
        ('  return buffers_.used() || used_idx_.load(', '  return !FAULT && (buffers_.used() || used_idx_.load('),
        ('std::memory_order_acquire) != next_used_;', 'std::memory_order_acquire) != next_used_);')]),
    ('the packed driver asks whether to kick before it publishes', PACKED_DRIVER, [
        ('  buffers_.publish();\n',
         '  buffers_.publish();\n'
         '  const bool early = FAULT && device_wants_notification();\n'
         '  if (FAULT) memory::full_fence();\n'),
        ('  const bool wanted = device_wants_notification();',
         '  const bool wanted = FAULT ? early : device_wants_notification();')]),
    ('the packed driver does not look again when it has armed', PACKED_DRIVER, [
        ('  return buffers_.used() || is_used(load_flags(next_used_.slot), next_used_.wrap);',
         '  return !FAULT && (buffers_.used() || is_used(load_flags(next_used_.slot), next_used_.wrap));')]),
    ('the device does not look again when it has armed', DEVICE_QUEUE, [
        ('  if (!has_next(ring)) return false;\n  if (suppresses', '  if (FAULT || !has_next(ring)) return false;\n  if (suppresses')]),
    ('the device asks whether to interrupt before it publishes', DEVICE_QUEUE, [
        ('  publish(ring);\n  ring_.note_stores(view());\n  memory::full_fence();  // S7, P5\n  if (ring.wants_notification())',
         '  const bool early = FAULT && ring.wants_notification();\n'
         '  if (FAULT) memory::full_fence();\n'
         '  publish(ring);\n  ring_.note_stores(view());\n  memory::full_fence();  // S7, P5\n'
         '  if (FAULT ? early : ring.wants_notification())')]),
    ('the device asks for a kick one buffer too late', SPLIT_DEVICE, [
        ('.store(next_avail_, std::memory_order_relaxed);',
         '.store(static_cast<std::uint16_t>(next_avail_ + (FAULT ? 1 : 0)), std::memory_order_relaxed);')]),
    ('the device forgets which interrupt was the last', SPLIT_DEVICE, [
        ('  return need_event(event, next_used_, before);',
         '  return need_event(event, next_used_, static_cast<std::uint16_t>(before + (FAULT ? 1 : 0)));')]),
    ('the driver of the disk does not ask for interrupts again', DISK_DRIVER, [
        ('if (!running() || !vector() || !ring_->enable_interrupts()) return;',
         'if (FAULT || !running() || !vector() || !ring_->enable_interrupts()) return;')]),
    # Answers.
    ('what is answered outside of a pass is not published', ANSWERS, [
        ('    put_in_batch(slot);\n  }\n  schedule_flush();', '    put_in_batch(slot);\n  }\n  if (!FAULT) schedule_flush();')]),
    ('a queue goes on after a reset where it was', SPLIT_DEVICE, [
        ('  next_avail_ = seen_avail_ = state.next_avail;', '  if (!FAULT) next_avail_ = seen_avail_ = state.next_avail;')]),
    ('a write is answered before the storage has it', DISK, [
        ('  storage->write(sector * sector_size, *pieces, [this, &op](int error) { work_done(op, error); });',
         '  if (FAULT) {\n'
         '    storage->write(sector * sector_size, *pieces, [](int) {});\n'
         '    return finish(op, 0);\n'
         '  }\n'
         '  storage->write(sector * sector_size, *pieces, [this, &op](int error) { work_done(op, error); });')]),
    ('a flush is answered before the storage has done it', DISK, [
        ('  op.sector = 0;\n  storage->flush(',
         '  op.sector = 0;\n'
         '  if (FAULT) {\n'
         '    storage->flush([](int) {});\n'
         '    return finish(op, 0);\n'
         '  }\n'
         '  storage->flush(')]),
    ('a flush does nothing', DISK, [
        ('  if (storage == nullptr) return answer(std::move(request), spec::status::ioerr);\n  Op& op = take(std::move(request), spec::type::flush);',
         '  if (storage == nullptr) return answer(std::move(request), spec::status::ioerr);\n'
         '  if (FAULT) return answer(std::move(request), spec::status::ok);\n'
         '  Op& op = take(std::move(request), spec::type::flush);')]),
    ('an error of the storage is answered as success', DISK, [
        ('  answer(std::move(request), error == 0 ? spec::status::ok',
         '  answer(std::move(request), FAULT || error == 0 ? spec::status::ok')]),
    # The socket.
    ('the rest of a message is sent from its beginning', SEND_QUEUE, [('  rest.sent = done;', '  rest.sent = FAULT ? 0 : done;')]),
    ('descriptors are sent again with the rest of a message', SEND_QUEUE, [
        ('done == 0 ? fds : std::span<const int>{}', 'done == 0 || FAULT ? fds : std::span<const int>{}')]),
    ('a full socket is an error', SEND_QUEUE, [
        ('    if (errno == EAGAIN || errno == EWOULDBLOCK) return', '    if (!FAULT && (errno == EAGAIN || errno == EWOULDBLOCK)) return')]),
    ('a signal is an error of the socket', CHANNEL, [
        ('    if (would_block(errno) || errno == EINTR) return', '    if (would_block(errno) || (errno == EINTR && !FAULT)) return')]),
    ('the server does not wait for room in the socket', SESSION, [
        ('  if (channel_.queued() != 0) wanted =', '  if (!FAULT && channel_.queued() != 0) wanted =')]),
    # One client after another.
    ('the server does not forget a client that has left', SESSION, [
        ('    if (self && self->on_ended_) std', '    if (!FAULT && self && self->on_ended_) std')]),
    ('the server does not listen again when a client has left', SERVER, [
        ('  release_is_late = false;\n  listen_again();', '  release_is_late = false;\n  if (!FAULT) listen_again();')]),
    ('a client that has left is not released', SESSION, [
        ('  function_.release_client(', '  if (FAULT) {\n    move(SessionEvent::abandoned);\n    return released();\n  }\n  function_.release_client(')]),
    ('a client does not say that its server has gone', CLIENT, [
        ('  if (state_->events.take_gone()) tell(pci::Event::gone);\n  return {};',
         '  if (!FAULT && state_->events.take_gone()) tell(pci::Event::gone);\n  return {};')]),
    # Memory, and processes that have died.
    ('memory that a lost server had stays mapped', POOL, [
        ('  } else if (!limits.device_holds_pages) {', '  } else if (FAULT || !limits.device_holds_pages) {')]),
    ('memory of a client stays mapped', HOST_MEMORY, [
        ('  system_calls().unmap(mapped_.data(), mapped_.size());', '  if (!FAULT) system_calls().unmap(mapped_.data(), mapped_.size());')]),
    ('a server does not wait for the I/O of a dead one', SIMULATED_DISK, [('  if (!idle()) return Error(', '  if (!FAULT && !idle()) return Error(')]),
]

DECLARATION = '''namespace outboard::testing {
extern unsigned fault_in_force;
inline bool is_planted(unsigned fault) { return fault_in_force == fault; }
}
'''


def copy_with_switches(source):
    text = (PROJECT / source).read_text()
    for number, (name, where, edits) in enumerate(FAULTS, 1):
        if where != source:
            continue
        for old, new in edits:
            if text.count(old) != 1:
                sys.exit(f'{source}: {text.count(old)} places to edit, not one, for the fault "{name}":\n{old}')
            text = text.replace(old, new.replace('FAULT', f'::outboard::testing::is_planted({number})'))
    return DECLARATION + text


def main():
    match sys.argv[1:]:
        case ['files']:
            print('\n'.join(sorted({where for _, where, _ in FAULTS})))
        case ['names']:
            print('\n'.join(name for name, _, _ in FAULTS))
        case ['make', source, out]:
            pathlib.Path(out).write_text(copy_with_switches(source))
        case _:
            sys.exit(__doc__)


if __name__ == '__main__':
    main()
