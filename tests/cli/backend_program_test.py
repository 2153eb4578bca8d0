"""The command by the name that management software starts: back-end program conventions of the vfio-user specification."""

import json
import os
import signal
import socket

from command import complaint, harness


def program(test):
    return test.command.parent / 'outboard-vfio-user-blk'


def info(test, path):
    return json.loads(test.outboard('blk', 'info', f'vfio-user:{path}', '--wait', '20', '--json').stdout)


def test_it_serves_at_a_socket_path_until_sigterm(test):
    path = test.sockets / 'b.sock'
    for words in ([f'--socket-path={path}'], ['--socket-path', path]):
        server = test.start([program(test), *words, '--image', test.image(size=2 << 20)])
        test.equal(info(test, path)['capacity_bytes'], 2 << 20, 'the size of the disk')
        server.signal(signal.SIGTERM)
        test.equal(server.wait(), 0, 'the exit status')
        test.true(not path.exists(), 'the socket was left')


def test_it_serves_on_a_socket_that_it_is_given(test):
    path = test.sockets / 'f.sock'
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        number = listener.fileno()
        server = test.start([program(test), f'--fd={number}', '--ram', '--size=1M'], pass_fds=[number])
    info(test, path)
    server.signal(signal.SIGTERM)
    test.equal(server.wait(), 0, 'the exit status')


def test_a_path_and_a_descriptor_exclude_each_other(test):
    done = test.run([program(test), '--socket-path=/nowhere/s', '--fd=0', '--ram', '--size=1M'], status=2)
    complaint(test, done, '--socket-path', '--fd')


def test_it_says_where_a_socket_is_to_be_named(test):
    done = test.run([program(test), '--ram', '--size=1M'], status=2)
    complaint(test, done, 'no listener is given', cure='--socket-path=')


def test_the_words_of_the_command_are_not_its_own(test):
    for words in (['--listen', 'vfio-user:/nowhere/s'], ['serve', 'blk'], ['--driver', 'vhost']):
        complaint(test, test.run([program(test), *words], status=2), words[0])


def test_it_says_what_it_is(test):
    said = json.loads(test.run([program(test), '--print-capabilities']).stdout)
    test.equal(said, {'type': 'block', 'features': ['read-only', 'blk-file']}, 'the capabilities')
    help_text = test.run([program(test), '--help']).stdout.decode()
    test.true('--socket-path' in help_text and '--listen' not in help_text, f'its help: {help_text}')


def test_the_features_that_it_claims_are_there(test):
    path = test.sockets / 'r.sock'
    image = test.image(size=1 << 20)
    server = test.start([program(test), f'--socket-path={path}', f'--blk-file={image}', '--read-only'])
    test.true(info(test, path)['read_only'], 'the disk can be written')
    server.signal(signal.SIGTERM)
    test.equal(server.wait(), 0, 'the exit status')


def test_another_name_is_the_command(test):
    link = test.folder / 'outboard-vfio-user-nothing'
    os.symlink(test.command, link)
    test.true(b'VERB' in test.run([link, '--help']).stdout, 'it is not the command')


harness.main(globals())
