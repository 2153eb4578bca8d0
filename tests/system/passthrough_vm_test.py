"""A function that `serve pci` re-exports, under a real QEMU: a guest has it as its own, and the next guest too."""
# ctest: TIMEOUT 400 PROCESSORS 2

import harness

SCRIPT = """#!/bin/sh
. /lib/cases.sh
. /lib/blk.sh
modprobe virtio_blk
lspci -nn
case_run interrupts_are msix disk
case_run filesystem_keeps_its_files disk
case_run fio_verifies_at_depth disk
case_run driver_can_be_unbound_and_bound disk
case_run function_can_be_reset disk
case_end
"""


def run(test, server):
    test.run_guest(SCRIPT, modules=['virtio_blk'], programs=['e2fsck', 'fio', 'lspci', 'mkfs.ext4'],
                   files={'/lib/blk.sh': harness.HERE / 'blk_lib.sh'}, devices=[server])


def test_a_device_of_this_process(test):
    server = test.serve('pci', '--device', 'local:blk,ram,size=64M,serial=disk')
    run(test, server)
    run(test, server)


def test_a_device_of_another_process(test):
    disk = test.serve('blk', '--ram', '--size', '64M', '--serial', 'disk')
    server = test.serve('pci', '--device', disk.target)
    run(test, server)
    server.stop()
    test.equal(test.outboard('show', disk.target, status=None).returncode, 0, 'the disk serves somebody else afterwards:')


harness.main(globals())
