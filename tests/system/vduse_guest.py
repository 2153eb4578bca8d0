"""What the tests of VDUSE share: guests in which `outboard serve` puts disks onto the kernel's vDPA bus."""

import harness

MODULES = ['vduse', 'virtio_vdpa', 'virtio_blk', 'vhost_vdpa', 'null_blk', 'loop']
PROGRAMS = ['mkfs.ext4', 'e2fsck', 'fio', 'blkdiscard', 'vdpa', 'setpriv']


def host_program(test, name):
    """A program of tests/system/programs, built beside the command."""
    path = test.command.parent.parent / 'tests' / 'system' / name
    if not path.exists():
        raise harness.Failure(f'there is no {path}; run ./dev build')
    return path


def run_guest(test, script, parameters='', **options):
    """Boots a guest for a script of this folder and reports its cases."""
    files = {'/lib/blk.sh': harness.HERE / 'blk_lib.sh', '/lib/vduse.sh': harness.HERE / 'vduse_lib.sh',
             '/parameters': parameters.encode()}
    programs = [test.command, *(host_program(test, name) for name in options.pop('own_programs', []))]
    options = {'smp': 4, 'memory': '1G', 'timeout': 300, **options}
    return test.run_guest(script, modules=MODULES, programs=PROGRAMS, host_programs=programs, files=files, **options)
