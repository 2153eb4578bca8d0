"""`outboard new`: what it makes is in its place, and a mistake changes nothing. That what it makes builds: tests/install/new."""

import os

from command import as_nobody, complaint, harness, refused

MARKS = ['cmake/OutboardRooms.cmake', 'outboard/devices/CMakeLists.txt', 'dev']


def checkout(test, name='checkout'):
    """A folder that looks like a checkout to the command."""
    folder = test.sockets / name
    for mark in MARKS:
        (folder / mark).parent.mkdir(parents=True, exist_ok=True)
        (folder / mark).write_text('')
    return folder


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob('*')}


def unchanged(test, folder, *arguments, **expected):
    """Runs `outboard new`, which has to fail and to leave the folder as it is."""
    before = tree(folder)
    line = refused(test, 'new', *arguments, **expected)
    test.true(tree(folder) == before, f'something has changed after: {line}')


def test_checkout_is_found_from_the_current_folder(test):
    top = checkout(test)
    done = test.run(['sh', '-c', 'cd "$0" && exec "$1" new thermometer', top / 'outboard' / 'devices', test.command])
    said = done.stdout.decode()
    for path in ('outboard/devices/thermometer/device.cpp', 'linux/virtio_thermometer/Kbuild',
                 'tests/system/thermometer_test.py', 'examples/read_thermometer.cpp'):
        test.true((top / path).is_file() and path in said, f'{path} is not there, or not told of')
    test.true('device ID 63' in said and './dev build' in said, f'not what comes next: {said}')
    steps = said.partition('Next:\n')[2].splitlines()[:-1]
    test.true(steps and all('#' in step or '  ' not in step.strip() for step in steps), f'not lines for a shell: {steps}')
    test.true(not list(top.glob('.outboard-new*')), 'a temporary folder is left')


def test_device_ids_go_downwards(test):
    top = checkout(test)
    for name, number in (('one', 63), ('two', 62), ('three', 61)):
        test.true(f'device ID {number}'.encode() in test.outboard('new', name, '--checkout', top).stdout, f'{name} has another')
    unchanged(test, top, 'four', '--checkout', top, '--device-id', '62', says=["'two'", '62'], cure='--device-id', status=2)
    for wrong in ('0', '64', '-1', '4294967296', 'x'):
        unchanged(test, top, 'four', '--checkout', top, '--device-id', wrong, says=[wrong], status=2)
    unchanged(test, top, 'four', '--checkout', top, '--device-id', '2', says=['VIRTIO 1.4'], cure='--assigned', status=2)
    unchanged(test, top, 'four', '--checkout', top, '--assigned', says=['--device-id'], status=2)
    test.outboard('new', 'four', '--checkout', top, '--device-id', '42', '--assigned')
    test.true('device_id = 42;' in (top / 'outboard/devices/four/layout.hpp').read_text(), 'another number was written')


def test_a_project_of_its_own_leaves_the_librarys_ids_alone(test):
    said = test.outboard('new', 'thermometer', '--standalone', test.sockets / 'alone').stdout.decode()
    test.true('device ID 62' in said, f'the example device has 63: {said}')
    refused(test, 'new', 'other', '--standalone', test.sockets / 'other', '--device-id', '63', says=["'example'", '63'],
            cure='--device-id', status=2)


def test_dry_run_makes_nothing(test):
    top = checkout(test)
    before = tree(top)
    said = test.outboard('new', 'thermometer', '--checkout', top, '--dry-run').stdout.decode()
    test.true('would make' in said and 'outboard/devices/thermometer/layout.hpp' in said, said)
    test.outboard('new', 'thermometer', '--standalone', test.sockets / 'alone', '--dry-run')
    test.true(tree(top) == before and not (test.sockets / 'alone').exists(), 'something was made')


def test_bad_names(test):
    top = checkout(test)
    for name in ('Thermometer', '1st', 'a-b', 'a b', '../a', '/a', 'a/b', 'a__b', 'a' * 33, '', 'class', 'virtio', 'std', 'net',
                 'x_test', 'linux'):
        unchanged(test, top, name, '--checkout', top, says=[f"'{name}' cannot"], cure='lower-case', status=2)
    unchanged(test, top, '--checkout', top, says=['NAME'], status=2)
    refused(test, 'new', 'example', '--standalone', test.sockets / 'alone', says=["'example'"], cure='another name', status=2)


def test_existing_device(test):
    top = checkout(test)
    test.outboard('new', 'thermometer', '--checkout', top)
    path = top / 'outboard/devices/thermometer'
    unchanged(test, top, 'thermometer', '--checkout', top, says=[path, 'exists already'], cure='another name')
    for taken in ('outboard/devices/empty', 'linux/virtio_driver2'):
        (top / taken).mkdir(parents=True)
    for taken in ('tests/system/guest2_test.py', 'examples/read_program.cpp'):
        (top / taken).symlink_to('nowhere')
    for name in ('empty', 'driver2', 'guest2', 'program'):
        unchanged(test, top, name, '--checkout', top, says=['exists already'], cure='another name')


def test_not_in_a_checkout(test):
    done = test.run(['sh', '-c', 'cd "$0" && exec "$1" new thermometer', test.sockets, test.command], status=1)
    complaint(test, done, test.sockets, 'not in a checkout', cure='--standalone')
    refused(test, 'new', 'thermometer', '--checkout', test.sockets, says=[test.sockets, 'not a checkout'], cure='dev')
    refused(test, 'new', 'thermometer', '--checkout', test.sockets / 'missing', says=['missing', 'not a checkout'], cure='dev')
    for form in ('--checkout', '--standalone'):
        refused(test, 'new', 'thermometer', form, '', says=[form, 'needs a folder'], status=2)
    refused(test, 'new', 'thermometer', '--checkout', '.', '--standalone', 'x', says=['--standalone'], cure='--help', status=2)


def test_folder_of_a_project_of_its_own(test):
    empty, full, file = (test.sockets / name for name in ('empty', 'full', 'file'))
    empty.mkdir()
    full.mkdir()
    (full / 'mine').write_text('mine')
    file.write_text('mine')
    unchanged(test, test.sockets, 'thermometer', '--standalone', full, says=[full, 'not empty'], cure='does not exist')
    unchanged(test, test.sockets, 'thermometer', '--standalone', file, says=[file, 'not a folder'], cure='does not exist')
    unchanged(test, test.sockets, 'thermometer', '--standalone', test.sockets / 'no' / 'such', says=['no/such'], cure='mkdir -p')
    unchanged(test, test.sockets, 'thermometer', '--standalone', '/proc/outboard', says=['/proc/outboard'])
    said = test.outboard('new', 'thermometer', '--standalone', empty).stdout.decode()
    test.true((empty / 'CMakeLists.txt').is_file() and 'cmake -B build' in said, said)
    test.outboard('new', 'thermometer', '--standalone', f'{test.sockets}/made/')
    test.true((test.sockets / 'made' / 'linux' / 'Kbuild').is_file(), 'nothing was made')


def test_no_right_to_write(test):
    words = as_nobody(test)
    for kind, folder in (('--checkout', checkout(test)), ('--standalone', test.sockets / 'closed')):
        folder.mkdir(exist_ok=True)
        os.chmod(folder, 0o555)
        before = tree(folder)
        complaint(test, test.run([*words, 'new', 'thermometer', kind, folder], status=1), folder, 'ermission', cure='write to')
        test.true(tree(folder) == before, 'something has changed')
    # Only where the last of the files would go.
    top = checkout(test, 'second')
    (top / 'tests/system').mkdir(parents=True)
    for folder in (top, top / 'outboard/devices', top / 'tests'):
        os.chmod(folder, 0o777)
    os.chmod(top / 'tests/system', 0o555)
    before = tree(top)
    if os.geteuid() == 0:
        complaint(test, test.run([*words, 'new', 'thermometer', '--checkout', top], status=1), 'tests/system', 'ermission',
                  cure='write to')
    test.true(tree(top) == before, 'something has changed')


def test_full_disk(test):
    """A limit on the size of files is as good as a full disk: writing fails halfway."""
    folder = test.sockets / 'alone'
    script = 'trap "" XFSZ; ulimit -f 1; exec "$0" new thermometer --standalone "$1"'
    done = test.run(['bash', '-c', script, test.command, folder], status=1)
    complaint(test, done, 'too large')
    test.true(not folder.exists(), 'something is left')


def test_reader_that_has_gone_keeps_nothing_from_being_made(test):
    folder = test.sockets / 'alone'
    test.run(['bash', '-c', '"$0" new thermometer --standalone "$1" | true; exit 0', test.command, folder])
    test.true((folder / 'README.md').is_file(), 'the project is not there')
    test.true(not list(folder.glob('.outboard-new*')), 'a temporary folder is left')

harness.main(globals())
