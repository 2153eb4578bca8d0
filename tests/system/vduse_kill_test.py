"""A VDUSE server killed with -9 while its disk is used: nothing that was acknowledged is lost, nothing comes twice.

Split and packed rings with one, two and four queues, on threads, and with the server's own bounce buffer; 306 kills in all,
or nine times OUTBOARD_KILLS (./dev soak).
"""
# ctest: TIMEOUT 1800 PROCESSORS 1 COST 150

import os

import harness
from vduse_guest import run_guest


def test_killed_again_and_again(test):
    kills = int(os.environ.get('OUTBOARD_KILLS', '34'))
    seed = int(os.environ.get('OUTBOARD_SEED', '1'))
    run_guest(test, 'vduse_kill.sh', f'kills={kills}\nseed={seed}\nimages=throttled\n', timeout=300 + 9 * kills,
              own_programs=['disk_witness', 'kill_loop'])


harness.main(globals())
