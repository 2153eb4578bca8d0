"""Kernel VFIO in a guest with an emulated Intel IOMMU: its functions under vfio-pci, driven by our programs in the guest."""
# ctest: TIMEOUT 1200 PROCESSORS 1 COST 180

import re
import time

from vfio_guest import finish_guest, run_guest, start_guest

import harness


def faults(guest):
    """The kernel's lines about DMA that a device tried where nothing was mapped, since the script began."""
    return re.findall(r'DMAR: \[DMA (?:Read|Write).*', guest.console().partition('GUEST start')[2])


def drive(test, kernel):
    guest = run_guest(test, 'vfio_drive.sh', kernel=kernel, dma_faults=True)
    # What edu is told to reach outside of its driver's memory.
    outside = [line for line in faults(guest) if '00:04.0' in line]
    test.report('accesses_outside_are_faults_that_the_kernel_notes', bool(outside), '' if outside else 'no such line')
    others = [line for line in faults(guest) if '00:04.0' not in line]
    test.report('nothing_else_faults', not others, ' | '.join(others))


def test_drive(test):
    drive(test, 'new')


def test_drive_lts_kernel(test):
    drive(test, 'lts')


def notes(guest, beginning):
    """How many notes of the guest begin so."""
    return sum(line.startswith(f'NOTE {beginning}') for line in guest.results())


def take_away(guest, after):
    """device_del once the guest asks for it; the seconds until QEMU has got the device back, and what the driver said."""
    harness.wait_until(lambda: notes(guest, 'take ') > after, 60, f'the guest to drive it; {guest.describe()}')
    began = time.monotonic()
    guest.qmp('device_del', id='hot')
    harness.wait_until(lambda: notes(guest, 'gone') > after, 40, f'the device to go; {guest.describe()}')
    return time.monotonic() - began


def test_unplug(test):
    guest = start_guest(test, 'vfio_unplug.sh')
    guest.wait_note('harm 0000:02:00.0')
    completion_timeout = 0x4000
    guest.qmp('human-monitor-command', **{'command-line': f'pcie_aer_inject_error hot {completion_timeout:#x}'})
    for round_number in range(3):
        seconds = take_away(guest, round_number)
        said = [line for line in guest.results() if line.startswith('NOTE gone')][-1]
        print(f'     unplug {round_number + 1}: {seconds:.1f} s from device_del on; {said.removeprefix("NOTE gone: ")}')
        test.report(f'let_go_before_the_kernel_asks_again_{round_number + 1}', seconds < 10)
        if round_number < 2:
            harness.wait_until(lambda: notes(guest, 'give ') > round_number, 60, f'the next round; {guest.describe()}')
            guest.qmp('device_add', driver='virtio-blk-pci', id='hot', bus='port-hot', drive='disk-hot', serial='hot',
                      **{'disable-legacy': 'on', 'iommu_platform': True})
    finish_guest(test, guest)


def test_passthrough(test):
    run_guest(test, 'vfio_passthrough.sh', dma_faults=True)


def test_served_on_the_host(test):
    served = {'example': test.serve('example'), 'edu': test.serve('edu'),
              'blk': test.serve('blk', '--ram', '--size', '64M')}
    slots = {name: 0x10 + at for at, name in enumerate(served)}
    devices = [server.qemu_device(addr=f'{slots[name]:x}') for name, server in served.items()]
    parameters = ''.join(f'{name}=0000:00:{slot:02x}.0\n' for name, slot in slots.items())
    run_guest(test, 'vfio_served.sh', devices=devices, parameters=parameters, dma_faults=True)
    for name, server in served.items():
        test.equal(server.stop(), 0, f'the status of the server of {name}')


harness.main(globals())
