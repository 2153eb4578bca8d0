"""Kernel VFIO in a guest with an emulated Intel IOMMU: its functions under vfio-pci, driven by our programs in the guest."""
# ctest: TIMEOUT 900 PROCESSORS 2

from vfio_guest import run_guest

import harness


def test_machine(test):
    run_guest(test, 'vfio_machine.sh')


def test_machine_lts_kernel(test):
    run_guest(test, 'vfio_machine.sh', kernel='lts')


def test_command(test):
    run_guest(test, 'vfio_command.sh')


def test_command_lts_kernel(test):
    run_guest(test, 'vfio_command.sh', kernel='lts')


harness.main(globals())
