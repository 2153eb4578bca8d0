"""The guest tooling itself: both kernels boot, and cases are reported one by one."""

import harness

SCRIPT = r"""#!/bin/sh
. /lib/cases.sh
boot() { uname -r; grep -q virtio_blk /lib/modules/$(uname -r)/modules.dep; }
modules() { modprobe virtio_blk; [ -d /sys/module/virtio_blk ]; }
programs() { lspci -nn | grep -q 'Host bridge'; mkfs.ext4 -V; fio --version; }
case_run boot
case_run modules
case_run programs
case_end
"""

FAILING_SCRIPT = r"""#!/bin/sh
. /lib/cases.sh
first() { fail because it must; }
second() { true; false; true; }
third() { true; }
case_run first
case_run second
case_run third
case_end
"""

OPTIONS = {'modules': ['virtio_blk'], 'programs': ['lspci', 'mkfs.ext4', 'fio']}


def test_new_kernel(test):
    test.run_guest(SCRIPT, kernel='new', **OPTIONS)


def test_lts_kernel(test):
    test.run_guest(SCRIPT, kernel='lts', **OPTIONS)


def test_failures_are_reported(test):
    guest = test.guest(FAILING_SCRIPT)
    test.equal(guest.finish(), 1, 'status')
    first, second, third = guest.cases()
    test.equal((first.verdict, first.reason), ('fail', 'because it must'))
    test.equal((second.verdict, second.reason), ('fail', 'status 1 after: + false'))
    test.equal(third.verdict, 'ok')


def test_a_panic_is_a_failure(test):
    guest = test.guest('#!/bin/sh\necho c >/proc/sysrq-trigger\nsleep 30\n')
    test.equal(guest.finish(), None, 'status')
    test.true('sysrq triggered crash' in guest.console(), 'the console does not show the panic')


def test_monitor_and_notes(test):
    script = '#!/bin/sh\n. /lib/cases.sh\nnote "$(cat /srv/deep/file)"\nsleep 100\n'
    guest = test.guest(script, files={'/srv/deep/file': b'ready'})
    guest.wait_note('ready')
    test.equal(guest.qmp('query-status')['status'], 'running')
    guest.quit()
    test.equal(guest.wait(), 0, "QEMU's exit status")


harness.main(globals())
