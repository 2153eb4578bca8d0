"""A Linux guest whose kernel gets its disks from `outboard serve blk --listen vduse:NAME`, inside that guest."""
# ctest: TIMEOUT 1800 PROCESSORS 1 COST 350

import harness
from vduse_guest import run_guest


def test_disks(test):
    run_guest(test, 'vduse_disk.sh', 'rounds=100\n', timeout=600)


def test_lives(test):
    run_guest(test, 'vduse_life.sh', 'images=throttled\n')


def test_trouble(test):
    run_guest(test, 'vduse_trouble.sh', own_programs=['refusing_vduse'])


def test_vhost_vdpa(test):
    run_guest(test, 'vduse_vhost.sh', own_programs=['vhost_vdpa_client'])


def test_lts_kernel(test):
    run_guest(test, 'vduse_lts.sh', 'images=throttled\n', kernel='lts', smp=2)


harness.main(globals())
