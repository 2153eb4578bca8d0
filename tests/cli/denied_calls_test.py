"""The command on a kernel that lacks the system calls of the last years, and under a filter that denies them."""

import pathlib
import subprocess
import sys

from command import harness
import denied

WRAPPER = pathlib.Path(denied.__file__)
ERRORS = ('ENOSYS', 'EPERM')


def without(error, *calls):
    return [sys.executable, '-B', WRAPPER, error, ','.join(calls)]


def writes_and_reads(test, target, under=()):
    test.run([*under, test.command, 'blk', 'verify', target, '--write', '--length', '1M'])


def test_a_disk_is_served_without_any_of_them(test):
    for error in ERRORS:
        under = without(error, *denied.CALLS)
        server = test.serve('blk', '--image', test.image(), '-v', under=under)
        writes_and_reads(test, server.target, under)
        test.true('io_uring is not available' in server.output(), f'it does not say what it does without: {server.output()}')
        test.equal(server.stop(), 0, 'the exit status after SIGTERM')
        test.true(not server.socket.exists(), 'the socket was left')


def test_a_disk_is_served_without_each_of_them(test):
    for error in ERRORS:
        for call in denied.CALLS:
            server = test.serve('blk', '--image', test.image(), under=without(error, call))
            writes_and_reads(test, server.target, without(error, call))
            test.equal(server.stop(), 0, f'the exit status without {call} ({error})')


def test_a_device_in_this_process_works_without_any_of_them(test):
    for error in ERRORS:
        writes_and_reads(test, 'local:blk,ram,size=4M', without(error, *denied.CALLS))


def test_a_thread_that_cannot_be_started_is_said(test):
    for words in (['serve', 'blk', '--ram', '--size', '1M', '--listen', f'vfio-user:{test.sockets}/s'],
                  ['blk', 'bench', 'local:blk,ram,size=4M']):
        run = subprocess.run([*without('EPERM', 'clone3'), test.command, *words], capture_output=True, text=True)
        test.equal(run.returncode, 1, f'the exit status: {run.stderr}')
        lines = run.stderr.splitlines()
        test.true(len(lines) == 2 and 'a thread for' in lines[0] and 'clone3' in lines[1], run.stderr)


def test_a_client_that_waits_for_its_server_finds_it(test):
    path = test.sockets / 'late.sock'
    for error in ERRORS:
        client = test.start([*without(error, *denied.CALLS), test.command, 'blk', 'info', f'vfio-user:{path}', '--wait', '60'])
        server = test.serve('blk', '--ram', '--size', '1M', socket_path=path)
        test.equal(client.wait(60), 0, 'the exit status of the client')
        test.equal(server.stop(), 0, 'the exit status')


harness.main(globals())
