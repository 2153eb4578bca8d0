"""`outboard pci`, `outboard doctor` and what a user is told, in guests with VFIO of both kernels."""
# ctest: TIMEOUT 900 PROCESSORS 1 COST 160

from vfio_guest import IOMMU, run_guest

import harness


def test_machine(test):
    run_guest(test, 'vfio_machine.sh')


def test_machine_lts_kernel(test):
    run_guest(test, 'vfio_machine.sh', kernel='lts')


def test_command(test):
    run_guest(test, 'vfio_command.sh')


def test_command_lts_kernel(test):
    run_guest(test, 'vfio_command.sh', kernel='lts')


def test_trouble(test):
    run_guest(test, 'vfio_trouble.sh')


def test_no_remapping(test):
    run_guest(test, 'vfio_no_remapping.sh', iommu=IOMMU.replace('intremap=on', 'intremap=off'))


def test_no_iommu(test):
    run_guest(test, 'vfio_no_iommu.sh', iommu='')


harness.main(globals())
