"""vfio::Handle on the kernel's own VFIO, promise by promise; the unit tests show the same on a fake kernel."""
# ctest: TIMEOUT 600 PROCESSORS 2

from vfio_guest import host_program, run_guest

import harness


def test_contract(test):
    run_guest(test, 'vfio_contract.sh', host_programs=[host_program(test, 'tests', 'system', 'vfio_contract')])


def test_contract_lts_kernel(test):
    run_guest(test, 'vfio_contract.sh', kernel='lts',
              host_programs=[host_program(test, 'tests', 'system', 'vfio_contract')])


harness.main(globals())
