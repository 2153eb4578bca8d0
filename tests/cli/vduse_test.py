"""`outboard vduse` on a machine without VDUSE: usage, and refusals that change nothing. The rest needs a guest."""

import json
import os
import pathlib

from command import as_nobody, complaint, harness, refused


def without_vduse(test):
    if pathlib.Path('/dev/vduse').exists():
        test.skip('this machine has VDUSE')


def test_usage(test):
    refused(test, 'vduse', says=['needs a verb'], cure='list, remove, create', status=2)
    refused(test, 'vduse', 'lsit', says=["'lsit'"], cure='list', status=2)
    refused(test, 'vduse', 'remove', status=2)
    refused(test, 'vduse', 'create', 'disk', 'x', says=["'disk'"], cure='blk', status=2)
    refused(test, 'vduse', 'create', 'blk', status=2)


def test_help_has_an_example(test):
    for verb in (['vduse'], ['vduse', 'list'], ['vduse', 'remove'], ['vduse', 'create'], ['vduse', 'create', 'blk']):
        text = test.outboard(*verb, '--help').stdout.decode()
        test.true('Example:' in text and f'outboard {" ".join(verb)}' in text, f'no example for {verb}: {text}')


def test_names_that_no_device_can_have(test):
    for name in ('control', '..', 'a/b', 'a b', 'x' * 65):
        refused(test, 'vduse', 'remove', name, says=[f"'{name}'"], cure='1 to 64', status=2)
        refused(test, 'vduse', 'create', 'blk', name, '--ram', '--size', '1M', says=[f"'{name}'"], cure='1 to 64', status=2)


def test_list_of_a_machine_without_devices(test):
    without_vduse(test)
    test.equal(test.outboard('vduse', 'list').stdout, b'no VDUSE devices\n', 'the list')
    test.equal(json.loads(test.outboard('vduse', 'list', '--json').stdout), {'devices': []}, 'the list')


def test_without_the_module_it_is_named(test):
    without_vduse(test)
    lock = pathlib.Path('/run/outboard/vduse/outboard-test-none.lock')
    disk = ['--ram', '--size', '1M']
    for words in (['vduse', 'remove', lock.stem], ['vduse', 'create', 'blk', lock.stem, *disk],
                  ['serve', 'blk', *disk, '--listen', f'vduse:{lock.stem}']):
        refused(test, *words, says=['vduse is not loaded'], cure='modprobe')
        test.true(not lock.exists(), f'{words} leaves {lock}')
        complaint(test, test.run([*as_nobody(test), *words], status=1), 'vduse is not loaded', cure='modprobe')


def test_create_offers_what_the_kernel_takes(test):
    refused(test, 'vduse', 'create', 'example', 'one', says=["'example'"], cure='blk', status=2)
    test.true(b'example' not in test.outboard('vduse', 'create', '--help').stdout, 'a device that VDUSE cannot have')
    for option in ('--error-interrupt', '--vectors'):
        test.true(option.encode() not in test.outboard('vduse', 'create', 'blk', '--help').stdout, f'{option} is offered')
        refused(test, 'vduse', 'create', 'blk', 'one', '--ram', '--size', '1M', option, says=[option], status=2)


def test_a_device_id_that_the_kernel_does_not_take(test):
    refused(test, 'serve', 'example', '--listen', 'vduse:one', says=['one', 'device ID 63'], cure='vfio-user')


def test_words_of_the_device_are_those_of_serve(test):
    refused(test, 'vduse', 'create', 'blk', 'disk0', says=['--image, --ram, --null', 'no backing storage'],
            cure='--image FILE', status=2)
    refused(test, 'vduse', 'create', 'blk', 'disk0', '--image', test.folder / 'none.raw', says=['none.raw'])
    refused(test, 'vduse', 'create', 'blk', 'disk0', '--ram', '--size', '1M', '--group-each-queue',
            says=['--group-each-queue'], cure='--api 1', status=2)


def test_an_owner_that_does_not_exist(test):
    refused(test, 'vduse', 'create', 'blk', 'disk0', '--ram', '--size', '1M', '--owner', 'no-such-user',
            says=['--owner', "'no-such-user'"], status=2)


def test_doctor_has_a_row_for_each_thing_that_is_needed(test):
    rows = {row['name']: row for row in json.loads(test.outboard('doctor', '--json').stdout)['findings']}
    for name in ('vduse', 'virtio_vdpa', 'vhost_vdpa', 'VDUSE', 'vDPA netlink', 'CAP_NET_ADMIN', 'CAP_SYS_RESOURCE'):
        test.true(name in rows, f'no row {name}')
        test.equal(rows[name]['state'] == 'ok', rows[name]['cure'] == '', f'a cure for {name}')


def test_doctor_sees_that_a_user_may_not_attach(test):
    if os.geteuid() != 0:
        test.skip('this user may not attach anyway')
    done = test.run([*as_nobody(test), 'doctor', '--json'])
    rows = {row['name']: row for row in json.loads(done.stdout)['findings']}
    test.equal(rows['CAP_NET_ADMIN']['state'], 'denied', 'the right to attach')


harness.main(globals())
