"""A VDUSE server killed with -9 while the kernel probes its device: the next one gets the disk, and nothing hangs."""
# ctest: TIMEOUT 600 PROCESSORS 2

import harness
from vduse_guest import run_guest


def test_killed_while_attaching(test):
    run_guest(test, 'vduse_attach.sh', timeout=150)


harness.main(globals())
