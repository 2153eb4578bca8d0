"""A vfio-user client of a few lines, with a driver that accepts VERSION_1 and nothing else, reads and writes a disk."""

import array
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
from pathlib import Path

from command import harness, ignores

VERSION, DMA_MAP, SET_IRQS, REGION_READ, REGION_WRITE = 1, 2, 8, 9, 10
CONFIG_REGION = 7
VERSION_1, ACCESS_PLATFORM = 1 << 32, 1 << 33
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
COMMON, NOTIFY = 1, 2
MSIX, ERR = 2, 3
NONE_TRIGGER, EVENTFD_TRIGGER = 0x21, 0x24
IOERR = 1
MEMORY_AT, MEMORY_SIZE = 0x10000, 1 << 20


class Function:
    """A PCI function behind a socket, as a client sees it."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20 * harness.TIME_SCALE)
        self.socket.connect(str(path))
        self.id = 0
        self.call(VERSION, struct.pack('<HH', 0, 1) + json.dumps({'capabilities': {}}).encode() + b'\0')

    def _receive(self, size):
        data = b''
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise harness.Failure('the server has closed the connection')
            data += part
        return data

    def call(self, command, payload, descriptor=None):
        self.id += 1
        message = struct.pack('<HHIII', self.id, command, 16 + len(payload), 0, 0) + payload
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [descriptor]))]
        self.socket.sendmsg([message], rights)
        number, _, size, _, error = struct.unpack('<HHIII', self._receive(16))
        answer = self._receive(size - 16)
        if number != self.id or error:
            raise harness.Failure(f'command {command}: error {error}')
        return answer

    def read(self, region, offset, size):
        return self.call(REGION_READ, struct.pack('<QII', offset, region, size))[16:]

    def write(self, region, offset, data):
        self.call(REGION_WRITE, struct.pack('<QII', offset, region, len(data)) + data)

    def structures(self):
        """{type: (bar, offset)} of the virtio structures."""
        found = {}
        at = self.read(CONFIG_REGION, 0x34, 1)[0]
        while at:
            kind, following, _, which, bar, offset = struct.unpack('<BBBBB3xI', self.read(CONFIG_REGION, at, 12))
            if kind == 9 and which not in found:
                found[which] = (bar, offset)
            at = following
        return found


class Disk:
    """Sets up one split queue of 16 entries."""

    SIZE, BUFFER = 16, 0x4000

    def __init__(self, function, features):
        self.function = function
        fd = os.memfd_create('client', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, MEMORY_SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.memory = mmap.mmap(fd, MEMORY_SIZE)
        function.call(DMA_MAP, struct.pack('<IIQQQ', 32, 3, 0, MEMORY_AT, MEMORY_SIZE), fd)
        os.close(fd)
        function.write(CONFIG_REGION, 4, struct.pack('<H', 6))  # memory and bus master
        structures = function.structures()
        self.common, self.notify = structures[COMMON], structures[NOTIFY]
        self.set(0x14, '<B', 0)
        self.set(0x14, '<B', ACKNOWLEDGE | DRIVER)
        self.offered = 0
        for word in range(2):
            self.set(0x00, '<I', word)
            self.offered |= self.get(0x04, '<I') << 32 * word
        for word in range(2):
            self.set(0x08, '<I', word)
            self.set(0x0c, '<I', features >> 32 * word & 0xffffffff)
        self.set(0x14, '<B', ACKNOWLEDGE | DRIVER | FEATURES_OK)

    def get(self, offset, form):
        return struct.unpack(form, self.function.read(self.common[0], self.common[1] + offset, struct.calcsize(form)))[0]

    def set(self, offset, form, value):
        self.function.write(self.common[0], self.common[1] + offset, struct.pack(form, value))

    @property
    def status(self):
        return self.get(0x14, '<B')

    def start(self):
        self.set(0x16, '<H', 0)
        self.set(0x18, '<H', self.SIZE)
        for offset, at in ((0x20, 0), (0x28, 0x1000), (0x30, 0x2000)):
            self.set(offset, '<I', MEMORY_AT + at)
            self.set(offset + 4, '<I', 0)
        self.set(0x1c, '<H', 1)
        self.set(0x14, '<B', ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    def used_count(self):
        return struct.unpack_from('<H', self.memory, 0x2002)[0]

    def publish(self, head):
        slot = struct.unpack_from('<H', self.memory, 0x1002)[0]
        struct.pack_into('<H', self.memory, 0x1004 + 2 * (slot % self.SIZE), head)
        struct.pack_into('<H', self.memory, 0x1002, slot + 1)
        self.function.write(self.notify[0], self.notify[1], struct.pack('<H', 0))

    def status_of(self, kind, sector, data=b'', length=0):
        """What one request by three descriptors ends with; what was read is at BUFFER."""
        header, status = 0x3000, 0x3100
        self.memory[header:header + 16] = struct.pack('<IIQ', kind, 0, sector)
        self.memory[self.BUFFER:self.BUFFER + len(data)] = data
        self.memory[status] = 0xff
        size = len(data) or length
        chain = ((header, 16, 1), (self.BUFFER, size, 1 if data else 3), (status, 1, 2))
        for index, (at, count, flags) in enumerate(chain):
            self.memory[16 * index:16 * index + 16] = struct.pack('<QIHH', MEMORY_AT + at, count, flags, index + 1)
        before = self.used_count()
        self.publish(0)
        harness.wait_until(lambda: self.used_count() != before, 20, 'the request to be used')
        return self.memory[status]

    def request(self, kind, sector, data=b'', length=0):
        """What was read."""
        status = self.status_of(kind, sector, data, length)
        if status != 0:
            raise harness.Failure(f'the request ended with status {status}')
        return self.memory[self.BUFFER:self.BUFFER + length]


def signals_of(eventfd):
    """How many signals wait in an eventfd that does not block."""
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0


def test_a_driver_that_declines_access_platform_is_served(test):
    image = test.image(size=1 << 20, data=b'first sector'.ljust(512))
    server = test.serve('blk', '--image', image)
    disk = Disk(Function(server.socket), VERSION_1)
    test.true(disk.offered & ACCESS_PLATFORM, 'ACCESS_PLATFORM is not offered')
    test.true(disk.status & FEATURES_OK, 'the features were refused')
    disk.start()
    test.equal(disk.request(0, 0, length=512), b'first sector'.ljust(512), 'what was read')
    disk.request(1, 3, data=b'x' * 4096)
    test.equal(image.read_bytes()[3 * 512:3 * 512 + 4096], b'x' * 4096, 'what was written')
    test.equal(disk.status & NEEDS_RESET, 0, 'NEEDS_RESET')
    disk.function.socket.close()
    test.equal(server.stop(), 0, "the server's exit status")


def test_a_saturated_blocking_eventfd_of_a_client_blocks_nobody(test):
    server = test.serve('blk', '--ram', '--size', '1M')
    function = Function(server.socket)
    eventfd = os.eventfd(0)
    function.call(SET_IRQS, struct.pack('<IIIII', 20, EVENTFD_TRIGGER, MSIX, 0, 1), eventfd)
    os.eventfd_write(eventfd, (1 << 64) - 2)
    os.set_blocking(eventfd, True)
    function.call(SET_IRQS, struct.pack('<IIIII', 20, NONE_TRIGGER, MSIX, 0, 1))
    test.equal(function.read(CONFIG_REGION, 0, 2), b'\xf4\x1a', 'the vendor')
    test.equal(server.stop(), 0, 'the exit status')
    os.close(eventfd)


def test_access_platform_is_required_or_hidden_as_chosen(test):
    for word, offered, accepted in (('require', True, False), ('off', False, True)):
        server = test.serve('blk', '--ram', '--size', '1M', '--iommu-platform', word)
        disk = Disk(Function(server.socket), VERSION_1)
        test.equal(bool(disk.offered & ACCESS_PLATFORM), offered, f'{word}: offered')
        test.equal(bool(disk.status & FEATURES_OK), accepted, f'{word}: FEATURES_OK')
        disk.function.socket.close()
        test.equal(server.stop(), 0, "the server's exit status")


def test_the_error_interrupt_is_raised_where_one_says_so(test):
    for words in ([], ['--error-interrupt']):
        server = test.serve('blk', '--ram', '--size', '1M', *words)
        disk = Disk(Function(server.socket), VERSION_1)
        eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        disk.function.call(SET_IRQS, struct.pack('<IIIII', 20, EVENTFD_TRIGGER, ERR, 0, 1), eventfd)
        disk.start()
        disk.request(0, 0, length=512)
        disk.publish(Disk.SIZE)  # no descriptor of the table
        harness.wait_until(lambda: disk.status & NEEDS_RESET, 20, 'NEEDS_RESET')
        if words:
            harness.wait_until(lambda: signals_of(eventfd), 20, 'ERR')
        test.equal(signals_of(eventfd), 0, f'ERR was raised unasked or twice, with {words}')
        disk.function.socket.close()
        test.equal(server.stop(), 0, "the server's exit status")
        os.close(eventfd)


def test_a_write_beyond_the_limit_of_file_sizes_is_an_error(test):
    limit = 64 << 10
    for words in ([], ['--direct'], ['--engine', 'pool']):
        server = test.serve('blk', '--image', test.image(size=1 << 20), *words,
                            under=['bash', '-c', f'ulimit -S -f {limit >> 10}; exec "$0" "$@"'])
        test.true(ignores(server, signal.SIGXFSZ), 'SIGXFSZ is not ignored')
        disk = Disk(Function(server.socket), VERSION_1)
        disk.start()

        def status_beyond(disk=disk):
            return disk.status_of(1, limit // 512, data=b'x' * 4096)

        test.equal(status_beyond(), IOERR, f'the status beyond the limit with {words}')
        # The server looks at the limit once a second. In between it is the kernel that refuses, and raises the signal.
        for _ in range(3):
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            harness.wait_until(lambda status=status_beyond: status() == 0, 20, 'the limit to be gone')
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            test.equal(status_beyond(), IOERR, f'the status beyond a limit that was lowered, with {words}')
        disk.request(1, 0, data=b'y' * 512)
        test.equal(disk.status & NEEDS_RESET, 0, 'NEEDS_RESET')
        disk.function.socket.close()
        test.equal(server.stop(), 0, "the server's exit status")


def address_space(pid):
    """In bytes; proc(5), statm."""
    return int(Path(f'/proc/{pid}/statm').read_text().split()[0]) * resource.getpagesize()


def test_a_message_too_large_for_memory_ends_its_connection(test):
    server = test.serve('blk', '--ram', '--size', '1M')
    function = Function(server.socket)
    resource.prlimit(server.pid, resource.RLIMIT_AS, (address_space(server.pid), resource.RLIM_INFINITY))
    try:
        function.call(REGION_WRITE, bytes(1 << 20))
        test.true(False, 'a message of a mebibyte was answered')
    except (OSError, harness.Failure):
        pass
    resource.prlimit(server.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    test.equal(Function(server.socket).read(CONFIG_REGION, 0, 2), b'\xf4\x1a', 'the vendor')
    test.equal(server.stop(), 0, "the server's exit status")


harness.main(globals())
