"""`serve pci` and `explain-config` from a shell, over functions of other processes. Real devices: tests/system."""

import json
import signal

from command import RAM, harness, refused


def verified(test, target):
    return test.outboard('blk', 'verify', target, '--write', '--length', '1M').stdout.decode()


def test_a_disk_is_exported_once_more(test):
    disk = test.serve('blk', '--ram', '--size', '16M')
    for words in ((), ('--trust-client',), ('--spin', '10')):
        server = test.serve('pci', '--device', disk.target, *words)
        for _ in range(2):
            test.true('all as it should be' in verified(test, server.target), words)
        test.equal(server.output(), f'serving pci {disk.target} (1af4:1042) on {server.target}\n')
        test.outboard('reset', server.target)
        refused(test, 'show', disk.target, says=[disk.target])  # it has one client, which is the exporter
        test.equal(server.stop(), 0, "the server's exit status")
    test.outboard('show', disk.target)


def test_a_device_that_goes_ends_its_server(test):
    disk = test.serve('blk', '--ram', '--size', '16M')
    server = test.serve('pci', '--device', disk.target)
    test.equal(disk.stop(), 0, "the disk's exit status")
    test.equal(server.wait(), 1, "the exporter's exit status")


def test_a_device_that_does_not_answer_ends_its_server(test):
    disk = test.serve('blk', '--ram', '--size', '16M')
    server = test.serve('pci', '--device', disk.target)
    disk.signal(signal.SIGSTOP)
    # An answer: the exporter gives the disk up before its own client, which waits as long as QEMU, does that to it.
    refused(test, 'blk', 'info', server.target, says=['the server answered: Connection timed out'])
    test.equal(server.wait(), 1, "the exporter's exit status")
    disk.signal(signal.SIGCONT)
    test.true(server.output().endswith(': the device has gone\n'), server.output())
    test.true('the client that has gone' not in server.output(), 'one command is waited for, and not each')


def test_what_cannot_be_served_is_said(test):
    refused(test, 'serve', 'pci', says=['--device is required'], cure='serve pci --help', status=2)
    refused(test, 'serve', 'pci', '--device', RAM, says=['no listener is given'], cure='serve pci', status=2)
    refused(test, 'serve', 'pci', '--device', RAM, '--listen', 'vduse:x', says=['vduse:x'], cure='vfio-user:PATH')
    refused(test, 'serve', 'pci', '--device', RAM, '--listen', 'tcp:x', says=["'tcp'"], status=2, cure='vfio-user')
    refused(test, 'serve', 'pci', '--device', 'vfio:nvme0', '--listen', f'vfio-user:{test.sockets}/x', says=["'nvme0'"], cure='0000:00:04.0', status=2)
    refused(test, 'serve', 'pci', '--device', RAM, '--listen', f'vfio-user:{test.sockets}/x', '--unplug-deadline', '10',
            says=['--unplug-deadline: 10 is not between 0 and 9'], status=2)


def test_help_has_an_example(test):
    for verb in (['serve', 'pci'], ['explain-config']):
        text = test.outboard(*verb, '--help').stdout.decode()
        test.true('Example:' in text and f'outboard {" ".join(verb)}' in text, f'no example for {verb}: {text}')


def test_configuration_space_is_explained(test):
    lines = test.outboard('explain-config', RAM).stdout.decode().splitlines()
    test.true(lines[1].startswith('000') and lines[1].endswith('header') and '10421af4' in lines[1], lines[1])
    rows = {row['offset']: row for row in json.loads(test.outboard('explain-config', RAM, '--json').stdout)}
    test.equal((rows[0x10]['virtual'], rows[0x10]['written']), (0xffffffff, 0xffffffff), 'a BAR is ours')
    test.equal(sum(row['length'] for row in rows.values()), 4096)
    kernel = {row['offset']: row for row in json.loads(test.outboard('explain-config', RAM, '--as', 'kernel', '--json').stdout)}
    test.equal(kernel[0]['virtual'], 0xffffffff, 'the ids of a virtual function are made up')
    refused(test, 'explain-config', RAM, '--as', 'nobody', says=['--as'], status=2)


harness.main(globals())
