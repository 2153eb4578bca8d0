"""A disk moves from one server to another one, under the load of the command."""

import json

from command import harness, refused

SIZE = 16 << 20


def two_servers(test, *more):
    """Servers of one image: the second one takes it over."""
    image = test.image(size=SIZE)
    first = test.serve('blk', '--image', image, *more)
    second = test.serve('blk', '--image', image, '--incoming', *more)
    return first, second


def moved(test, one, other, *words):
    done = test.outboard('migrate', one.target, other.target, '--seconds', '0.05', '--json', *words)
    return json.loads(done.stdout)


def test_a_disk_goes_there_and_back(test):
    for more in ((), ('--packed', '--queues', '2'), ('--in-order',)):
        first, second = two_servers(test, *more)
        for one, other in ((first, second), (second, first)):
            for words in ([], ['--write', '--queues', '2'], ['--same-memory', '--write', '--depth', '1']):
                report = moved(test, one, other, *words)
                test.true(report['requests']['before'] > 0 and report['requests']['after'] > 0, f'no load: {report}')
                test.true(report['state_bytes'] > 0, f'no state: {report}')
                test.true(len(report['round_bytes']) >= 2, f'no rounds: {report}')
                test.true((report['copied_bytes'] > 0) == ('--same-memory' not in words), f'memory: {report}')
                # For the next time: the disk is where it was.
                moved(test, other, one)
            moved(test, one, other)
        for server in (first, second):
            test.equal(server.stop(), 0, "the server's exit status")


def test_it_says_what_it_did(test):
    first, second = two_servers(test)
    text = test.outboard('migrate', first.target, second.target, '--seconds', '0.05').stdout.decode()
    for words in (f'moved {first.target} to {second.target}', 'memory: ', 'written by the device in each round: ', 'state: ',
                  'downtime: ', 'requests: '):
        test.true(words in text, f'{words!r} is not in {text!r}')


def test_what_was_written_before_is_there_after(test):
    first, second = two_servers(test)
    test.outboard('blk', 'verify', first.target, '--write')
    moved(test, first, second)
    test.outboard('blk', 'verify', second.target)


def test_only_one_has_the_image(test):
    first, second = two_servers(test)
    refused(test, 'blk', 'info', second.target, says=['needs a reset'])
    test.true('is using the image' in second.output(), f'the server does not say why: {second.output()!r}')
    moved(test, first, second)
    # The driver of the move has left, and with it the second server's hold on the image.
    test.outboard('blk', 'info', first.target)
    refused(test, 'blk', 'info', second.target, says=['needs a reset'])


def test_servers_that_are_not_alike(test):
    image = test.image(size=SIZE)
    first = test.serve('blk', '--image', image)
    second = test.serve('blk', '--image', image, '--incoming', '--queues', '2')
    refused(test, 'migrate', first.target, second.target, '--seconds', '0', says=['state'], cure='same device and options')
    test.outboard('blk', 'info', first.target)
    edu = test.serve('edu')
    refused(test, 'migrate', first.target, edu.target, '--seconds', '0', says=['not alike'], cure='same device and options')


def test_what_cannot_be_moved(test):
    first, second = two_servers(test)
    nobody = f'vfio-user:{test.sockets}/nobody'
    refused(test, 'migrate', first.target, nobody, '--seconds', '0', says=[nobody, 'no server'], cure='start one')
    refused(test, 'migrate', nobody, first.target, says=[nobody, 'no server'], cure='start one')
    refused(test, 'migrate', first.target, first.target, says=['same socket'], status=2)
    refused(test, 'migrate', 'local:blk,ram,size=1M', first.target, says=['vfio-user'], status=2)
    refused(test, 'migrate', first.target, second.target, '--length', '4096', says=['too few'], cure='--depth')
    other = test.serve('pci', '--device', second.target)
    refused(test, 'migrate', first.target, other.target, '--seconds', '0', says=[other.target])


def test_a_new_server_that_is_killed_changes_nothing(test):
    first, second = two_servers(test)
    second.signal(harness.signal.SIGSTOP)
    client = test.start([test.command, 'migrate', first.target, second.target, '--write', '--seconds', '0.05'])
    second.kill()
    test.equal(client.wait(30), 1, 'exit status')
    test.outboard('blk', 'verify', first.target, '--write')


harness.main(globals())
