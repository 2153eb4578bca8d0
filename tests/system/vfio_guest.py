"""What the tests of kernel VFIO share: a q35 guest behind an emulated Intel IOMMU, with PCI functions to drive in it.

    0000:00:04.0  edu                         (EDU)
    0000:00:05.0  virtio-blk, a disk of 64 MiB (BLK)
    0000:00:06.0  root port `port-nvme`, behind it 0000:01:00.0 nvme `nvme` (NVME)
    0000:00:07.0  root port `port-hot`, behind it 0000:02:00.0 virtio-blk `hot` (HOT): it has a
                  function-level reset, reports errors, and is there for device_del
    0000:00:08.0  edu and 0000:00:08.1 nvme: functions of one slot, one IOMMU group (SHARED_EDU, SHARED_NVME)
    0000:00:09.0  virtio-blk, for the guest's own driver (OWN)
    0000:00:0a.0  virtio-net (NET)
    0000:00:0b.0  xhci with MSI alone, 16 vectors (XHCI)

The names in parentheses are shell variables of vfio_lib.sh, which every script sources.
"""

import re
import shutil

import harness

MODULES = ['vfio_iommu_type1', 'vfio-pci', 'virtio_blk', 'virtio_net', 'loop']
PROGRAMS = ['setpriv', 'mkfs.ext4', 'prlimit']

# caching-mode: without it QEMU gives up where a device of its own is behind vfio-user or vfio.
IOMMU = 'intel-iommu,caching-mode=on,intremap=on'
VIRTIO = 'disable-legacy=on,iommu_platform=on'


def host_program(test, *parts):
    """A program built beside the command: host_program(test, 'tests', 'drivers', 'driver_tests')."""
    path = test.command.parent.parent.joinpath(*parts)
    if not path.exists():
        raise harness.Failure(f'there is no {path}; run ./dev build')
    return path


def _lspci():
    """The lspci of this machine, since its version is what `outboard lspci` prints like; and its names."""
    program, names = shutil.which('lspci'), '/usr/share/misc/pci.ids'
    if not program:
        raise harness.Failure('there is no lspci; run ./dev setup')
    return program, {names: names}


def _disk(test, name, megabytes):
    image = test.image(f'{name}.raw', size=megabytes << 20)
    return ['-blockdev', f'driver=raw,node-name=disk-{name},discard=unmap,file.driver=file,file.filename={image}']


def _words(text):
    return [word for line in text.splitlines() if line.strip() for word in ('-device', line.strip())]


def own_programs(test):
    """What the scripts run besides the command."""
    return [host_program(test, 'tests', 'drivers', 'driver_tests'),
            host_program(test, 'tests', 'system', 'function_user')]


def machine(test, iommu=IOMMU):
    """The QEMU arguments of the machine above; with `iommu` empty, without one."""
    disks = [word for name in ['blk', 'nvme', 'hot', 'shared', 'own'] for word in _disk(test, name, 64)]
    virtio = VIRTIO if iommu else 'disable-legacy=on'
    return [*_words(iommu), *disks, '-netdev', 'hubport,id=net,hubid=0', *_words(f'''
        edu,id=edu,addr=4
        virtio-blk-pci,id=blk,drive=disk-blk,serial=blk,{virtio},addr=5
        pcie-root-port,id=port-nvme,chassis=1,slot=1,addr=6
        nvme,id=nvme,serial=nvme,drive=disk-nvme,bus=port-nvme
        pcie-root-port,id=port-hot,chassis=2,slot=2,addr=7
        virtio-blk-pci,id=hot,drive=disk-hot,serial=hot,{virtio},bus=port-hot,aer=on
        edu,id=shared-edu,multifunction=on,addr=8.0
        nvme,id=shared-nvme,serial=shared,drive=disk-shared,addr=8.1
        virtio-blk-pci,id=own,drive=disk-own,serial=own,{virtio},addr=9
        virtio-net-pci,id=net,netdev=net,{virtio},addr=a
        nec-usb-xhci,id=xhci,msi=on,msix=off,addr=b''')]


def start_guest(test, script, *, parameters='', iommu=IOMMU, files=None, **options):
    """Boots the machine for a script of this folder, with vfio_lib.sh, blk_lib.sh and our programs in it."""
    lspci, names = _lspci()
    files = {**names, '/lib/vfio.sh': harness.HERE / 'vfio_lib.sh', '/lib/blk.sh': harness.HERE / 'blk_lib.sh',
             '/parameters': parameters.encode(), **(files or {})}
    append = ' '.join(['intel_iommu=on' if iommu else '', options.pop('append', '')]).strip()
    options = {'smp': 2, 'memory': '1G', 'timeout': 240, **options}
    qemu = [*machine(test, iommu), *options.pop('qemu', [])]
    return test.guest(script, modules=[*MODULES, *options.pop('modules', [])],
                      programs=[*PROGRAMS, *options.pop('programs', [])],
                      host_programs=[test.command, lspci, *own_programs(test), *options.pop('host_programs', [])],
                      files=files, append=append, qemu=qemu, **options)


def finish_guest(test, guest, dma_faults=False):
    """As test.finish_guest(). dma_faults: the script makes some, so the kernel's lines about them are no complaint.

    Those before the script begins never are: the firmware leaves its queues to the disks, and the kernel turns the IOMMU on
    under them.
    """
    test.allow_kernel_complaints = True
    test.finish_guest(guest)
    before, _, after = guest.console().partition('GUEST start')
    for line in [*before.splitlines(), *after.splitlines()]:
        is_fault = re.search(r'DMAR:', line)
        if harness.KERNEL_COMPLAINTS.search(line) and not (is_fault and (dma_faults or line in before)):
            raise harness.Failure(f'the guest kernel complained: {line.strip()}')


def run_guest(test, script, dma_faults=False, **options):
    """start_guest() and finish_guest() in one; the finished guest."""
    guest = start_guest(test, script, **options)
    finish_guest(test, guest, dma_faults)
    return guest
