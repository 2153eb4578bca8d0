"""Data goes in and comes out again, through a socket and in process."""

import json
import os
import random
import re
import signal

from command import RAM, harness, refused, unread

DATA = random.Random(1).randbytes(700_001)


def each_target(test, size=16 << 20):
    """Disks that keep what is written between two commands."""
    image = test.image(name='local.raw', size=size)
    yield f'local:blk,image={image}'
    yield f'local:blk,image={image},packed,queues=2,engine=pool'
    for words in (['--ram', '--size', size], ['--image', test.image(name='served.raw', size=size), '--packed'],
                  ['--image', test.image(name='pool.raw', size=size), '--engine', 'pool', '--queues', '2', '--in-order']):
        server = test.serve('blk', *words)
        yield server.target
        test.equal(server.stop(), 0, "the server's exit status")


def test_what_is_written_is_read(test):
    for target in each_target(test):
        for offset in (0, 4096, 1, 511, 1 << 20, (16 << 20) - len(DATA)):
            test.outboard('blk', 'write', target, '--offset', offset, stdin=DATA)
            back = test.outboard('blk', 'read', target, '--offset', offset, '--length', len(DATA)).stdout
            test.true(back == DATA, f'{target}: other bytes at {offset}')


def test_blocks_written_in_part_keep_the_rest(test):
    image = test.image(size=1 << 20, data=b'a' * 4096)
    target = f'local:blk,image={image}'
    for offset, data in ((100, b'b' * 10), (510, b'c' * 4), (1000, b'd' * 600), (2048, b'e' * 512), (3000, b'f')):
        before = bytearray(image.read_bytes())
        before[offset:offset + len(data)] = data
        test.outboard('blk', 'write', target, '--offset', offset, stdin=data)
        test.true(image.read_bytes() == bytes(before), f'{len(data)} bytes at {offset} changed others')


def test_nothing_is_written_from_an_empty_input(test):
    image = test.image(size=1 << 20, data=b'x' * 512)
    test.outboard('blk', 'write', f'local:blk,image={image}')
    test.equal(image.read_bytes()[:512], b'x' * 512)


def test_write_takes_no_more_than_its_length(test):
    image = test.image(size=1 << 20)
    test.outboard('blk', 'write', f'local:blk,image={image}', '--length', '1K', stdin=b'y' * 5000)
    test.equal(image.read_bytes()[:2048], b'y' * 1024 + bytes(1024))


def test_write_from_a_slow_pipe(test):
    image = test.image(size=1 << 20)
    read_end, write_end = os.pipe()
    client = test.start(['bash', '-c', f'exec "$0" blk write "$1" <&{read_end}', test.command,
                         f'local:blk,image={image}'],
                        pass_fds=(read_end,))
    for part in (b'aaa', b'bbb'):
        os.write(write_end, part)
        harness.wait_until(lambda: unread(read_end) == 0, 20, 'the command to read what there is')
    os.close(write_end)
    os.close(read_end)
    test.equal(client.wait(), 0, 'the exit status')
    test.equal(image.read_bytes()[:6], b'aaabbb')


def test_read_to_a_slow_pipe_that_does_not_block(test):
    image = test.image(size=3 << 20, data=DATA)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    client = test.start(['bash', '-c', f'exec "$0" blk read "$1" >&{write_end}', test.command,
                         f'local:blk,image={image}'],
                        pass_fds=(write_end,))
    os.close(write_end)
    with open(read_end, 'rb') as pipe:
        test.true(pipe.read() == image.read_bytes(), 'other bytes')
    test.equal(client.wait(), 0, f'the exit status; it says {client.output()}')


def test_reading_all_of_a_disk(test):
    image = test.image(size=3 << 20, data=DATA)
    test.true(test.outboard('blk', 'read', f'local:blk,image={image}').stdout == image.read_bytes(), 'other bytes')
    test.equal(test.outboard('blk', 'read', f'local:blk,image={image}', '--length', '0').stdout, b'')


def test_verify_finds_one_wrong_sector(test):
    server = test.serve('blk', '--image', test.image(size=8 << 20))
    said = test.outboard('blk', 'verify', server.target, '--write').stdout
    test.true(b'as it should be' in said, f'it says {said}')
    test.outboard('blk', 'verify', server.target)
    refused(test, 'blk', 'verify', server.target, '--seed', '2', says=[' at 0 '], cure='--seed')
    test.outboard('blk', 'write', server.target, '--offset', 1 << 20, stdin=b'!')
    refused(test, 'blk', 'verify', server.target, says=[' at 1048576 '])
    test.outboard('blk', 'verify', server.target, '--length', '1M')
    test.outboard('blk', 'verify', server.target, '--offset', (1 << 20) + 512)


def test_data_survive_kill_after_flush(test):
    image = test.image(size=16 << 20)
    server = test.serve('blk', '--image', image)
    test.outboard('blk', 'verify', server.target, '--write', '--seed', '9')
    server.kill()
    again = test.serve('blk', '--image', image, socket_path=server.socket)
    test.outboard('blk', 'verify', again.target, '--seed', '9')
    test.outboard('blk', 'verify', f'local:blk,image={test.image(name="other.raw")}', '--seed', '9', status=1)


def test_info_as_json(test):
    server = test.serve('blk', '--ram', '--size', '64M', '--serial', 'abc', '--queues', '3', '--read-only')
    info = json.loads(test.outboard('blk', 'info', server.target, '--json').stdout)
    test.equal(info['capacity_bytes'], 64 << 20)
    test.equal((info['id'], info['queues'], info['read_only']), ('abc', 3, True))
    text = test.outboard('blk', 'info', server.target).stdout.decode()
    test.true('64 MiB' in text and 'abc' in text and 'read-only' in text, f'it says {text}')


def test_bench_as_json(test):
    served = test.serve('blk', '--null', '--size', '1G', '--queues', '2')
    polled = test.serve('blk', '--null', '--size', '1G', '--poll')
    runs = [[served.target, '--rw', rw] for rw in ('randread', 'randwrite', 'read', 'write')]
    runs += [[served.target, '--queues', '2', '--depth', '1'], [polled.target, '--poll'],
             ['local:blk,null,size=1G', '--bs', '64K'], [RAM, '--depth', '128', '--offset', '1M', '--length', '1M']]
    for words in runs:
        figures = json.loads(test.outboard('blk', 'bench', *words, '--seconds', '0.1', '--json').stdout)
        latency = figures['latency_us']
        test.true(figures['iops'] > 0 and figures['ios'] > 0, f'{words}: nothing was done')
        test.true(0 < latency['p50'] <= latency['p99'] <= latency['p999'] <= latency['max'], f'{words}: {latency}')


def test_json_of_a_path_that_is_no_utf8(test):
    image = test.image(name=os.fsdecode(b'disk-\xff.raw'), size=1 << 20)
    target = f'local:blk,image={image}'
    for words in (['show', target], ['blk', 'info', target], ['blk', 'bench', target, '--seconds', '0.01'],
                  ['blk', 'verify', target, '--write']):
        json.loads(test.outboard(*words, '--json').stdout)


def test_bench_as_text(test):
    text = test.outboard('blk', 'bench', RAM, '--seconds', '0.1', '--rw', 'write').stdout.decode()
    test.true('write of 4 KiB, depth 32, 1 queue' in text and 'requests/s' in text and '99.9%' in text, f'it says {text}')


def test_show_and_doctor_as_json(test):
    server = test.serve('blk', '--null', '--size', '1M', '--queues', '2', '--packed')
    shown = json.loads(test.outboard('show', server.target, '--json').stdout)
    test.equal((shown['pci']['vendor'], shown['pci']['device']), (0x1af4, 0x1042))
    test.equal(shown['virtio']['queue_sizes'], [256, 256])
    test.true('RING_PACKED' in shown['virtio']['features'], 'packed rings are not offered')
    test.equal(shown['interrupts']['MSI-X'], 3)
    findings = json.loads(test.outboard('doctor', '--json').stdout)['findings']
    test.true(all(one['state'] in ('ok', 'missing', 'denied', 'low') for one in findings), 'an unknown state')
    test.true(all((one['state'] == 'ok') == (one['cure'] == '') for one in findings), 'what is wrong has a cure')


def test_a_disk_whose_size_has_changed_is_logged(test):
    image = test.image(size=16 << 20)
    server = test.serve('blk', '--image', image)
    for size, how in ((32 << 20, 'more'), (8 << 20, 'fewer')):
        os.truncate(image, size)
        server.signal(signal.SIGHUP)
        harness.wait_until(lambda: f'the disk has {size} bytes now, {how} than before' in server.output(), 20, 'a line')
        test.equal(json.loads(test.outboard('blk', 'info', server.target, '--json').stdout)['capacity_bytes'], size)


def test_reset(test):
    server = test.serve('blk', '--ram', '--size', '1M')
    test.outboard('blk', 'write', server.target, stdin=DATA[:512])
    test.outboard('reset', server.target)
    test.equal(test.outboard('blk', 'read', server.target, '--length', '512').stdout, DATA[:512])
    test.outboard('reset', RAM)


def test_lspci_reads_the_dump(test):
    for words in (['--null', '--size', '1M'], ['--ram', '--size', '1M', '--queues', '4', '--packed']):
        server = test.serve('blk', *words)
        dump = test.folder / 'dump'
        dump.write_bytes(test.outboard('lspci', server.target, '--dump').stdout)
        theirs = test.run(['lspci', '-vvv', '-F', dump]).stdout.decode()
        ours = test.outboard('lspci', server.target).stdout.decode()
        # A dump has no sizes, so lspci does not see a BAR whose register is 0.
        unseen = re.compile(r'\tRegion \d: Memory at <unassigned> \(32-bit, non-prefetchable\)')
        known = [re.sub(r' \[size=\w+\]$', '', line) for line in ours.splitlines() if not unseen.match(line)]
        test.equal('\n'.join(known) + '\n', theirs, 'the text')
        test.true('[size=16K]' in ours and 'VirtIO: CommonCfg' in ours, f'it says {ours}')
        theirs = test.run(['lspci', '-x', '-F', dump]).stdout.decode().splitlines()[1:5]
        test.equal(test.outboard('lspci', server.target, '-x').stdout.decode().splitlines()[-5:-1], theirs, 'the bytes')


def test_a_local_target_ends_with_its_threads(test):
    done = test.outboard('blk', 'info', RAM)
    test.equal(done.stderr, b'', 'what it says')
    test.true(len(os.listdir('/proc/self/fd')) < 100, 'descriptors are left')


harness.main(globals())
