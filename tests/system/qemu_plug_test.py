"""What QEMU says of a device that is plugged in: nothing. No guest is booted."""

# ctest: TIMEOUT 300

import json
import socket

import harness


def qmp(path, *commands):
    """Waits until QEMU has made its machine and serves its monitor, and runs commands there."""
    harness.wait_until(lambda: harness.is_listening(path), 60, "QEMU's monitor")
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(60 * harness.TIME_SCALE)
        monitor.connect(str(path))
        with monitor.makefile('rw', encoding='utf-8') as lines:
            lines.readline()
            for command in ('qmp_capabilities', *commands):
                lines.write(json.dumps({'execute': command}) + '\n')
                lines.flush()
                while 'return' not in json.loads(lines.readline()):
                    pass


def plug(test, *words):
    """Serves a device, plugs it into a machine that does not run, and says what QEMU said."""
    server = test.serve(*words)
    monitor = test.sockets / f'{server.socket.stem}.qmp'
    qemu = test.start(harness.root_command(
        'qemu-system-x86_64', '-S', '-accel', 'qtest', '-machine', 'q35,memory-backend=mem', '-m', '64M',
        '-object', 'memory-backend-memfd,id=mem,size=64M,share=on', '-nodefaults', '-display', 'none',
        '-qmp', f'unix:{monitor},server=on,wait=off', *server.qemu_device()), name='qemu')
    qmp(monitor, 'query-status', 'quit')
    test.equal(qemu.wait(60), 0, "QEMU's exit status")
    test.equal(server.stop(), 0, "the server's exit status")
    return qemu.output().strip()


def test_qemu_takes_each_device_without_a_warning(test):
    for words in (['blk', '--ram', '--size', '16M'], ['blk', '--ram', '--size', '16M', '--error-interrupt'], ['example'], ['edu']):
        test.equal(plug(test, *words), '', f'what QEMU says of {" ".join(words)}')


harness.main(globals())
