"""Firmware and boot loaders, whose virtio drivers are small and of their own kind, use our disks over vfio-user."""
# ctest: TIMEOUT 600

import pathlib
import re
import socket
import struct
import zlib

import harness

SECTOR = 512
U_BOOT = pathlib.Path('/usr/lib/u-boot/qemu-x86_64/u-boot.rom')  # package u-boot-qemu
TEXT = b''.join(b'line %03d of what the firmware reads from this disk\r\n' % line for line in range(100))
TEXT_SECTOR = 100
TEXT_SECTORS = -(-len(TEXT) // SECTOR)


def machine(test, server, serial, *arguments, **properties):
    """QEMU with a server's disk and nothing else. properties: of the disk."""
    memory = '512M'
    command = harness.root_command(
        'qemu-system-x86_64', '-accel', 'tcg', '-cpu', 'max', '-m', memory, '-machine', 'q35,memory-backend=m',
        '-object', f'memory-backend-memfd,id=m,size={memory},share=on', '-nodefaults', '-display', 'none', '-no-reboot',
        '-serial', serial, *server.qemu_device(**properties), *arguments)
    return test.start(command, name='qemu')


# --- SeaBIOS -----------------------------------------------------------------------------------------------------------


def boot_sector(count):
    """Reads `count` sectors with int 13h, sends them to the first serial port and ends QEMU with status 67; 69: cannot."""
    code = bytes.fromhex(
        '31c0 8ed8 8ec0 8ed0 bc007c'  # all segments 0, a stack
        'be407c b442 cd13'            # int 13h, function 42h; dl is the disk that was booted from
        '721e'                        # carry: failed
        'be0080'                      # what was read
        'ac 84c0 7412'                # next: the next byte; 0 is the end
        '88c4 bafd03'                 # the line status register
        'ec a820 74fb'                # until the transmitter is empty
        'baf803 88e0 ee'              # send
        'ebe9'                        # next
        'b021 eb02'                   # 2 * 33 + 1 = 67
        'b022'                        # 2 * 34 + 1 = 69
        'baf400 ee f4 ebfd')
    packet = struct.pack('<BBHHHQ', 16, 0, count, 0x8000, 0, TEXT_SECTOR)
    sector = bytearray(SECTOR)
    sector[:len(code)] = code
    sector[0x40:0x40 + len(packet)] = packet
    sector[510:] = b'\x55\xaa'
    return bytes(sector)


def test_seabios_boots(test):
    for words in ((), ('--packed',), ('--queue-size', 16)):
        image = test.image(size=16 << 20, data=boot_sector(TEXT_SECTORS).ljust(TEXT_SECTOR * SECTOR, b'\0') + TEXT)
        server = test.serve('blk', '--image', image, *words)
        console = test.folder / 'console'
        qemu = machine(test, server, f'file:{console}', '-device', 'isa-debug-exit,iobase=0xf4,iosize=4')
        test.equal(qemu.wait(60), 67, f"QEMU's exit status; it says {qemu.output()}")
        test.true(TEXT in console.read_bytes(), f'the text is not in {console}')
        test.equal(server.stop(), 0, "the server's exit status")


# --- OVMF --------------------------------------------------------------------------------------------------------------


def fat_volume(files, size=16 << 20):
    """A FAT16 volume without a partition table, with {8.3 name: bytes} in its root folder. Not one cluster is in two pieces."""
    cluster, entries, reserved = 4, 512, 1
    sectors = size // SECTOR
    table_sectors = -(-(sectors // cluster + 2) * 2 // SECTOR)
    table = [0xfff8, 0xffff]
    root, data = b'', b''
    for name, content in files.items():
        stem, extension = name.split('.')
        first, count = len(table), max(1, -(-len(content) // (cluster * SECTOR)))
        table += [*range(first + 1, first + count), 0xffff]
        root += struct.pack('<8s3sB14xHI', stem.ljust(8).encode(), extension.ljust(3).encode(), 0x20, first, len(content))
        data += content.ljust(count * cluster * SECTOR, b'\0')
    boot = struct.pack('<3s8sHBHBHHBHHHIIBBBI11s8s', b'\xeb\x3c\x90', b'OUTBOARD', SECTOR, cluster, reserved, 2, entries, 0,
                       0xf8, table_sectors, 32, 2, 0, sectors, 0x80, 0, 0x29, 1, b'OUTBOARD'.ljust(11), b'FAT16'.ljust(8))
    tables = struct.pack(f'<{len(table)}H', *table).ljust(table_sectors * SECTOR, b'\0')
    return boot.ljust(510, b'\0') + b'\x55\xaa' + tables * 2 + root.ljust(entries * 32, b'\0') + data


def test_ovmf_reads_and_writes_files(test):
    script = '\r\n'.join(['@echo -off', 'fs0:', 'type data.txt', 'cp data.txt copy.txt', 'reset -s', ''])
    image = test.image(size=16 << 20, data=fat_volume({'STARTUP.NSH': script.encode(), 'DATA.TXT': TEXT}))
    server = test.serve('blk', '--image', image)
    console = test.folder / 'console'
    qemu = machine(test, server, f'file:{console}', '-bios', harness.root_file('usr/share/ovmf/OVMF.fd'))
    test.equal(qemu.wait(150), 0, f"QEMU's exit status; it says {qemu.output()}; the console is in {console}")
    shown = console.read_bytes()
    for line in TEXT.split(b'\r\n'):
        test.true(line in shown, f'{line} is not in {console}')
    test.equal(server.stop(), 0, "the server's exit status")
    test.equal(image.read_bytes().count(TEXT), 2, 'the text is in the image')


# --- U-Boot ------------------------------------------------------------------------------------------------------------


class Console:
    """A serial port that is spoken to."""

    def __init__(self, path):
        harness.wait_until(lambda: harness.is_listening(path), 20, 'QEMU to listen')
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(path))
        self.text = ''

    def wait(self, pattern, seconds):
        """Everything up to and with `pattern`, once it has come."""
        def come():
            self.connection.settimeout(0.5)
            try:
                self.text += self.connection.recv(65536).decode(errors='replace')
            except TimeoutError:
                pass
            return re.search(pattern, self.text)
        found = harness.wait_until(come, seconds, f'{pattern!r} after {self.text[-300:]!r}')
        shown, self.text = self.text[:found.end()], self.text[found.end():]
        return shown

    def say(self, line):
        self.connection.sendall(line.encode())


def test_u_boot_reads(test):
    if not U_BOOT.exists():
        test.skip('there is no U-Boot: ./dev setup installs u-boot-qemu')
    image = test.image(size=16 << 20, data=bytes(TEXT_SECTOR * SECTOR) + TEXT)
    server = test.serve('blk', '--image', image)
    path = test.sockets / 'console'
    # Its device tree says that something else is in slot 1.
    machine(test, server, f'unix:{path},server=on,wait=on', '-bios', U_BOOT, addr='04.0')
    console = Console(path)
    console.wait('Hit any key', 60)
    console.say('\r')
    console.wait('=> ', 20)

    def run(command):
        console.say(command + '\r')
        return console.wait('\n=> ', 30)

    run('pci enum')
    run('virtio scan')
    shown = run('virtio info')
    test.true('VirtIO Block Device' in shown and 'Capacity: 16.0 MB' in shown, f'virtio info: {shown}')
    shown = run(f'virtio read 1000000 {TEXT_SECTOR:x} {TEXT_SECTORS:x}')
    test.true(f'{TEXT_SECTORS} blocks read: OK' in shown, f'virtio read: {shown}')
    shown = run(f'crc32 1000000 {len(TEXT):x}')
    test.true(f'{zlib.crc32(TEXT):08x}' in shown, f'crc32: {shown}')
    test.equal(server.stop(), 0, "the server's exit status")


harness.main(globals())
