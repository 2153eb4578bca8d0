"""`outboard pci` and `outboard lspci --sysfs` on this machine: nothing is changed. The rest needs a guest with VFIO."""

import json
import pathlib

from command import RAM, harness, refused

DEVICES = pathlib.Path('/sys/bus/pci/devices')


def functions(test):
    return json.loads(test.outboard('pci', 'list', '--json').stdout)['functions']


def test_usage(test):
    refused(test, 'pci', says=['needs a verb'], cure='list, bind, unbind', status=2)
    refused(test, 'pci', 'bind', status=2)
    refused(test, 'pci', 'bind', 'nvme0', says=["'nvme0'", 'not the address'], cure='0000:00:04.0', status=2)
    refused(test, 'pci', 'unbind', '0000:00:04.8', says=['not the address'], status=2)


def test_help_has_an_example(test):
    for verb in (['pci'], ['pci', 'list'], ['pci', 'bind'], ['pci', 'unbind']):
        text = test.outboard(*verb, '--help').stdout.decode()
        test.true('Example:' in text and f'outboard {" ".join(verb)}' in text, f'no example for {verb}: {text}')


def test_list_has_every_function(test):
    present = sorted(path.name for path in DEVICES.iterdir()) if DEVICES.exists() else []
    test.equal([function['address'] for function in functions(test)], present, 'addresses')
    lines = test.outboard('pci', 'list').stdout.decode().splitlines()
    test.equal(len(lines), 2 * len(present) or 1, 'lines')


def test_a_function_is_usable_or_it_is_said_why_not(test):
    for function in functions(test):
        if function['bound'] and not function['usable']:
            continue  # the node may be somebody else's
        test.true(function['usable'] or function['obstacles'] or not function['bound'], f'{function} says nothing')
        for obstacle in function['obstacles']:
            test.true(obstacle['what'], f'{function} has an obstacle without a text')


def test_a_function_that_is_not_there(test):
    for verb in ('bind', 'unbind'):
        refused(test, 'pci', verb, 'ffff:ff:1f.7', says=['ffff:ff:1f.7', 'no such PCI function'], cure='pci list')


def test_what_was_not_handed_over_cannot_be_given_back(test):
    for function in functions(test):
        if not function['bound'] and function['old_driver'] is None:
            refused(test, 'pci', 'unbind', function['address'], says=[function['address'], 'not handed over'])
            return
    test.skip('this machine has no such PCI function')


def test_the_real_lspci_reads_a_snapshot(test):
    folder = test.folder / 'snapshot'
    test.outboard('lspci', RAM, '--sysfs', folder)
    read = test.run(['lspci', '-A', 'linux-sysfs', '-O', f'sysfs.path={folder}', '-vvv', '-xxxx']).stdout.decode()
    ours = test.outboard('lspci', RAM, '-xxxx').stdout.decode()
    shown = [line for line in read.splitlines() if 'Region' not in line]  # those without an address are its own to describe
    test.equal(shown, [line for line in ours.splitlines() if 'Region' not in line], 'what lspci shows')


def test_a_snapshot_overwrites_nothing(test):
    folder = test.folder / 'snapshot'
    test.outboard('lspci', RAM, '--sysfs', folder)
    before = (folder / 'devices' / '0000:00:00.0' / 'config').stat()
    refused(test, 'lspci', RAM, '--sysfs', folder, says=['0000:00:00.0', 'exists already'])
    after = (folder / 'devices' / '0000:00:00.0' / 'config').stat()
    test.equal((after.st_ino, after.st_mtime_ns), (before.st_ino, before.st_mtime_ns), 'the file')


def test_a_snapshot_goes_with_no_other_output(test):
    refused(test, 'lspci', RAM, '--sysfs', test.folder / 'snapshot', '--dump', status=2)
    refused(test, 'lspci', RAM, '--sysfs', test.folder / 'snapshot', '-x', status=2)
    test.true(not (test.folder / 'snapshot').exists(), 'something was written')


def test_doctor_has_a_row_for_each_thing_that_vfio_needs(test):
    rows = {row['name']: row for row in json.loads(test.outboard('doctor', '--json').stdout)['findings']}
    for name in ('IOMMU', 'vfio-pci', 'vfio_iommu_type1', 'VFIO', 'iommufd', 'VFIO devices', 'locked memory', 'hugepages'):
        test.true(name in rows, f'no row {name}')
        test.true(rows[name]['state'] == 'ok' or rows[name]['cure'], f'{name} has no cure')


harness.main(globals())
