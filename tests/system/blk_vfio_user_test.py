"""A Linux guest in QEMU uses disks that `outboard serve blk` exports over vfio-user."""
# ctest: TIMEOUT 1200 COST 200

import hashlib
import os
import signal

import harness

PROGRAMS = ['mkfs.ext4', 'e2fsck', 'fio', 'blkdiscard', 'lspci', 'setpci']


def guest(test, script, devices, **options):
    files = {'/lib/blk.sh': harness.HERE / 'blk_lib.sh', **options.pop('files', {})}
    return test.guest(script, modules=['virtio_blk'], programs=PROGRAMS, devices=devices, files=files, **options)


def three_disks(test):
    return [test.serve('blk', '--image', test.image('split.raw'), '--serial', 'split', '--queues', '1'),
            test.serve('blk', '--image', test.image('packed.raw'), '--serial', 'packed', '--queues', '2', '--packed'),
            test.serve('blk', '--image', test.image('readonly.raw'), '--serial', 'readonly', '--read-only')]


def use_three_disks(test, interrupts, append):
    servers = three_disks(test)
    running = guest(test, 'blk_disk.sh', servers, smp=2, append=append, timeout=300,
                    files={'/parameters': f'interrupts={interrupts}\n'.encode()})
    test.finish_guest(running)
    for server in servers:
        test.true(server.running(), 'a server ended with the guest')
        test.equal(server.stop(), 0, "the server's exit status")
        test.true(not server.socket.exists(), 'the socket is still there')


def test_msix(test):
    use_three_disks(test, 'msix', '')


def test_intx(test):
    use_three_disks(test, 'intx', 'pci=nomsi')


def test_lts_kernel(test):
    server = test.serve('blk', '--image', test.image(), '--serial', 'disk', '--queues', '2', '--packed')
    script = """#!/bin/sh
. /lib/cases.sh
. /lib/blk.sh
modprobe virtio_blk
case_run filesystem_keeps_its_files disk
case_run fio_verifies_at_depth disk
case_end
"""
    test.finish_guest(guest(test, script, [server], kernel='lts', smp=2))


def test_what_the_guest_writes_is_in_the_image(test):
    pattern = os.urandom(1 << 20)
    image = test.image(data=pattern)
    server = test.serve('blk', '--image', image, '--serial', 'disk')
    script = f"""#!/bin/sh
. /lib/cases.sh
. /lib/blk.sh
modprobe virtio_blk
reads_the_host() {{
  expect_equal "$(dd if=/dev/$(disk disk) bs=64k count=16 | sha256sum | cut -d' ' -f1)" \
    {hashlib.sha256(pattern).hexdigest()} hash
}}
writes() {{ dd if=/host.bin of=/dev/$(disk disk) bs=64k seek=32 conv=fsync oflag=direct; }}
case_run reads_the_host
case_run writes
case_end
"""
    other = os.urandom(1 << 20)
    test.finish_guest(guest(test, script, [server], files={'/host.bin': other}))
    with open(image, 'rb') as file:
        file.seek(2 << 20)
        test.equal(hashlib.sha256(file.read(1 << 20)).hexdigest(), hashlib.sha256(other).hexdigest(), 'hash')


def test_reboot_without_restarting_the_server(test):
    server = test.serve('blk', '--image', test.image(), '--serial', 'disk')
    script = """#!/bin/sh
. /lib/cases.sh
. /lib/blk.sh
modprobe virtio_blk
name=$(disk disk)
if [ "$(dd if=/dev/$name bs=8 count=1 2>/dev/null)" != rebooted ]; then
  printf rebooted >/tmp/mark
  dd if=/tmp/mark of=/dev/$name bs=512 count=1 conv=sync,fsync
  note first boot
  reboot -f
  sleep 60
fi
second_boot() { filesystem_keeps_its_files disk; }
case_run second_boot
case_end
"""
    running = guest(test, script, [server], reboot=True)
    test.finish_guest(running)
    test.true('NOTE first boot' in running.results(), 'the guest did not boot twice')


IO_FOR_EVER = """#!/bin/sh
. /lib/cases.sh
. /lib/blk.sh
modprobe virtio_blk
name=$(disk disk)
fio --name=load --filename=/dev/$name --rw=randrw --bs=4k --size=16m --iodepth=32 --ioengine=libaio --direct=1 \
  --time_based --runtime=600 --thread --output=/dev/null &
while [ "$(cut -c1-200 /sys/block/$name/stat | awk '{print $1 + $5}')" -lt 200 ]; do sleep 0.1; done
note running
sleep 600
"""


def test_guest_killed_with_io_in_flight(test):
    server = test.serve('blk', '--image', test.image(), '--serial', 'disk', '--packed', '--queues', '2')
    descriptors = 0
    for _ in range(3):
        victim = guest(test, IO_FOR_EVER, [server])
        victim.wait_note('running')
        victim.kill()
        # The next client is served once the dead one has been let go.
        harness.wait_until(lambda: test.outboard('show', server.target, status=None).returncode == 0, 20,
                           'the server to take another client')
        descriptors = descriptors or server.fd_count()
    harness.wait_until(lambda: server.fd_count() <= descriptors, 10, 'the descriptors of dead clients to be closed')
    script = """#!/bin/sh
. /lib/cases.sh
. /lib/blk.sh
modprobe virtio_blk
case_run filesystem_keeps_its_files disk
case_end
"""
    test.finish_guest(guest(test, script, [server]))
    test.equal(server.stop(), 0, "the server's exit status")


def test_second_client_is_refused_and_told_why(test):
    server = test.serve('blk', '--image', test.image(), '--serial', 'disk')
    running = guest(test, IO_FOR_EVER, [server])
    running.wait_note('running')
    for _ in range(3):
        refused = test.outboard('show', server.target, status=1)
        text = refused.stderr.decode()
        test.true(str(server.socket) in text and 'another client' in text, f'the message does not say why: {text}')
    test.true(running.running(), 'the guest did not survive it')
    before = running.qmp('query-status')['status']
    test.equal(before, 'running')
    running.kill()


def test_server_killed_under_a_guest(test):
    """What a guest can get are all-ones: Linux's virtio drivers have no timeout, and wait for ever for a function that is
    gone when they are bound to it or unbound from it (vp_reset polls the status register).

    QEMU 11.1.3 aborts (error_setv) if a register is accessed just while its server dies: the guest waits, by the other disk,
    until that one is gone."""
    victim = test.serve('blk', '--image', test.image('victim.raw'), '--serial', 'victim')
    image = test.image('other.raw')
    other = test.serve('blk', '--image', image, '--serial', 'other')
    script = """#!/bin/sh
. /lib/cases.sh
. /lib/blk.sh
modprobe virtio_blk
victim=$(pci_address $(disk victim))
other=$(disk other) # asks each disk for its serial, so it cannot be asked for later
dd if=/dev/$(disk victim) of=/dev/null bs=4k count=8 iflag=direct
note ready
until dd if=/dev/$other bs=4k count=1 iflag=direct 2>/dev/null | grep -q 'the server is gone'; do sleep 0.2; done
a_function_without_a_server_reads_all_ones() {
  expect_equal "$(setpci -s $victim VENDOR_ID)" ffff vendor
  expect_equal "$(setpci -s $victim COMMAND)" ffff command
  expect_equal "$(setpci -s $victim STATUS)" ffff status
}
case_run a_function_without_a_server_reads_all_ones
another_device_works() {
  mkfs.ext4 -q -F /dev/$other
  dd if=/dev/urandom of=/tmp/pattern bs=4k count=16
  dd if=/tmp/pattern of=/dev/$other bs=4k seek=5 oflag=direct
  dd if=/dev/$other bs=4k skip=5 count=16 iflag=direct | cmp - /tmp/pattern
}
case_run another_device_works
case_end
"""
    running = guest(test, script, [victim, other])
    running.wait_note('ready')
    victim.signal(signal.SIGKILL)
    victim.wait()
    with open(image, 'r+b') as disk:
        disk.write(b'the server is gone')
    test.equal(running.qmp('query-status')['status'], 'running')
    # Linux cannot power off either: it resets every function first, and waits for the one that is gone.
    harness.wait_until(lambda: any(line.startswith('RC ') for line in running.results()), 60, 'the cases to end')
    running.quit()
    test.finish_guest(running)


harness.main(globals())
