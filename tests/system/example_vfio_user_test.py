"""The driver for Linux (linux/virtio_example) on devices that `outboard serve example` exports over vfio-user."""
# ctest: TIMEOUT 1200

import signal

import harness

DRIVER = harness.SOURCE / 'linux' / 'virtio_example'
SLOTS = {'limited': 0x10, 'plain': 0x11}
# What the guest asks for, in this order (`note limit N`).
LIMITS = [100, 50, 60, 1000, 1001, 1002, 1003]


def guest(test, script, servers, kernel='new', **options):
    """A guest with the driver's module; each server's function is in the slot that SLOTS has for its name."""
    module = test.kernel_module(DRIVER, kernel=kernel)
    slots = ''.join(f'{name}=0000:00:{SLOTS[name]:02x}.0\n' for name in servers)
    files = {'/virtio_example.ko': module, '/lib/example.sh': harness.HERE / 'example_lib.sh', '/slots': slots.encode()}
    devices = [server.qemu_device(addr=f'{SLOTS[name]:x}.0') for name, server in servers.items()]
    # A kernel that is quiet keeps its warnings from the console, too.
    return test.guest(script, kernel=kernel, files=files, devices=devices, smp=2, append='loglevel=5',
                      programs=['perl', 'flock', 'setpci'], **options)


def use_two_devices(test, kernel):
    limit = test.folder / 'limit'
    limit.write_text('4294967295\n')
    servers = {'limited': test.serve('example', '--limit-file', limit, '--break-on', '666'),
               'plain': test.serve('example', '--packed', '--in-order')}
    running = guest(test, 'example_driver.sh', servers, kernel=kernel, timeout=400)
    for number in LIMITS:
        running.wait_note(f'limit {number}', seconds=300)
        limit.write_text(f'{number}\n')
        servers['limited'].signal(signal.SIGHUP)
    test.finish_guest(running)
    for server in servers.values():
        test.equal(server.stop(), 0, "the server's exit status")


def test_new_kernel(test):
    use_two_devices(test, 'new')


def test_lts_kernel(test):
    use_two_devices(test, 'lts')


SUSPEND = r"""#!/bin/sh
. /lib/cases.sh
. /lib/example.sh
insmod /virtio_example.ko
limited=$(device limited)
device_works() { accepted 41 42 "$(device "$1")"; }
suspend() {
  echo deep >/sys/power/mem_sleep
  note asleep
  echo mem >/sys/power/state
}
refusals_are_reported() {
  rejected 101 "$refused" "$limited"
  wait_attribute "$limited" events 1
}
case_run device_works limited before
case_run device_works plain before
case_run suspend
case_run device_works limited after
case_run device_works plain after
case_run refusals_are_reported
case_end
"""


def test_suspend_to_memory(test):
    """The driver stops its device and starts it again, which QEMU resets meanwhile."""
    servers = {'limited': test.serve('example', '--limit', '100'), 'plain': test.serve('example', '--packed')}
    running = guest(test, SUSPEND, servers)
    running.wait_note('asleep')
    harness.wait_until(lambda: running.qmp('query-status')['status'] == 'suspended', 60, 'the guest to fall asleep', 0.2)
    running.qmp('system_wakeup')
    harness.wait_until(lambda: any(line.startswith('RC ') for line in running.results()), 90, 'the cases to end')
    # QEMU does not end when a guest powers off that has slept.
    running.quit()
    test.finish_guest(running)


# Bus mastering is off, so that the writer waits when the server dies.
SERVER_DIES = r"""#!/bin/sh
. /lib/cases.sh
. /lib/example.sh
insmod /virtio_example.ko
plain=$(device plain)
waiting_writer_is_told() {
  accepted 41 42 "$plain"
  setpci -s "$(pci_address plain)" COMMAND=0:4
  put 1 "$plain" >/tmp/error &
  wait_for 10 sh -c 'grep -l "^State:.D" /proc/[0-9]*/status'
  note ready
  wait_for 30 grep -q "$gone" /tmp/error
  expect_equal "$(show broken "$plain")" 1 broken
  rejected 1 "$broken" "$plain"
}
reset_fails() { ! echo 1 >"$plain/reset"; rejected 1 "$broken" "$plain"; }
driver_can_be_unbound() { timeout -s KILL 60 sh -c "echo ${plain##*/} >/sys/bus/virtio/drivers/$module/unbind"; }
other_device_works() { accepted 41 42 "$(device limited)"; }
module_unloads() { rmmod $module; }
case_run waiting_writer_is_told
case_run reset_fails
case_run driver_can_be_unbound
case_run other_device_works
case_run module_unloads
case_end
"""


def test_server_killed_under_a_writer(test):
    """Unbound from a function that has gone, the virtio core warns once: it reads the status, too."""
    test.allow_kernel_complaints = True
    servers = {'limited': test.serve('example', '--limit', '100'), 'plain': test.serve('example')}
    running = guest(test, SERVER_DIES, servers)
    running.wait_note('ready')
    servers['plain'].signal(signal.SIGKILL)
    harness.wait_until(lambda: any(line.startswith('RC ') for line in running.results()), 90, 'the cases to end')
    # Powering off may wait for ever for a function that has gone.
    running.quit()
    test.finish_guest(running)
    complaints = [line for line in running.console().splitlines() if harness.KERNEL_COMPLAINTS.search(line)]
    test.true(all('virtio_dev_remove' in line for line in complaints), f'the guest kernel complained: {complaints}')


harness.main(globals())
