"""Kernel VFIO by the interfaces that the kernels of Debian do not have: device nodes with IOMMUFD, and no IOMMU at all. Not a part
of ./dev test: `./dev test --iommufd` builds the kernel (guest/iommufd_kernel.sh) and runs this."""

import harness
from vfio_guest import run_guest


def test_device_nodes(test):
    run_guest(test, 'vfio_drive.sh', kernel='iommufd', parameters='interface=cdev\n', dma_faults=True)


def test_groups_of_the_same_kernel(test):
    run_guest(test, 'vfio_drive.sh', kernel='iommufd', parameters='interface=group\n', dma_faults=True)


def test_interfaces(test):
    run_guest(test, 'vfio_interfaces.sh', kernel='iommufd')


def test_without_an_iommu(test):
    run_guest(test, 'vfio_unsafe.sh', kernel='iommufd', iommu='')


harness.main(globals())
