"""`outboard vduse` and the rows of `outboard doctor`, in guests with both kernels."""

import harness


def command(test, kernel):
    test.run_guest('vduse_command.sh', kernel=kernel, modules=['vduse', 'virtio_vdpa', 'virtio_blk'],
                   programs=['mkfs.ext4'], host_programs=[test.command], timeout=180)


def test_new_kernel(test):
    command(test, 'new')


def test_lts_kernel(test):
    command(test, 'lts')


harness.main(globals())
