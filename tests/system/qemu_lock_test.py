"""Who may have an image open beside whom: QEMU, its tools, and a served disk. No guest is booted."""

# ctest: TIMEOUT 120

import socket

import harness


def qemu_io(test, image, *flags, status=0):
    """Opens an image and reads from it. With -r it lets others do anything meanwhile."""
    return test.root_program('qemu-io', '-f', 'raw', *flags, '-c', 'read 0 512', image, status=status)


def copy(test, image, status=0):
    """Reads an image that nobody may write meanwhile."""
    return test.root_program('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', image, test.folder / 'copy', status=status)


def for_a_lock(test, done):
    said = (done.stdout + done.stderr).decode()
    test.true('lock' in said, f'it was refused for something else than a lock: {said}')


def test_a_written_disk_is_neither_written_nor_copied_by_qemu(test):
    image = test.image(size=1 << 20)
    server = test.serve('blk', '--image', image)
    for_a_lock(test, qemu_io(test, image, status=1))
    for_a_lock(test, copy(test, image, status=1))
    qemu_io(test, image, '-r', '-U')
    test.root_program('qemu-img', 'info', '-U', image)
    test.equal(server.stop(), 0, "the server's exit status")
    qemu_io(test, image)
    copy(test, image)


def test_a_disk_that_is_only_read_is_read_by_qemu_too(test):
    image = test.image(size=1 << 20)
    server = test.serve('blk', '--image', image, '--read-only')
    qemu_io(test, image, '-r')
    copy(test, image)
    for_a_lock(test, qemu_io(test, image, status=1))
    test.equal(server.stop(), 0, "the server's exit status")
    qemu_io(test, image)


def machine_with(test, written, read):
    """A machine that does not run, with two disks."""
    monitor = test.sockets / 'qmp'
    drives = [word for name, image, more in (('w', written, ''), ('r', read, ',readonly=on')) for word in
              ('-drive', f'if=none,id={name},format=raw,file={image}{more}', '-device', f'virtio-blk-pci,drive={name}')]
    test.start(harness.root_command('qemu-system-x86_64', '-S', '-accel', 'qtest', '-machine', 'q35', '-m', '64M', '-nodefaults',
                                    '-display', 'none', '-qmp', f'unix:{monitor},server=on,wait=off', *drives), name='qemu')
    harness.wait_until(lambda: harness.is_listening(monitor), 60, "QEMU's monitor")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60 * harness.TIME_SCALE)
        client.connect(str(monitor))
        test.true(b'QMP' in client.recv(4096), 'the monitor does not greet')
        # A thread greets, perhaps before the disks are there. What answers is the main loop, once all of the machine is.
        client.sendall(b'{"execute": "qmp_capabilities"}\n')
        test.true(b'return' in client.recv(4096), 'the monitor does not answer')


def test_an_image_that_qemu_has_is_served_if_nobody_writes(test):
    written, read = (test.image(name=name, size=1 << 20) for name in ('written', 'read'))
    machine_with(test, written, read)
    # Each of them waits some seconds for QEMU to end: together.
    refused = [test.start([test.command, 'blk', 'info', f'local:blk,image={words}'])
               for words in (f'{written}', f'{written},read-only', f'{read}')]
    test.outboard('blk', 'info', f'local:blk,image={read},read-only')
    for process in refused:
        test.equal(process.wait(20), 1, 'the exit status')
        said = process.output()
        test.true('is using the image' in said or 'has the image open for writing' in said, f'it says {said}')


harness.main(globals())
