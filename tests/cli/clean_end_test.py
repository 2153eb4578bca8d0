"""How servers and clients start and end."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import threading

import command
from command import (RAM, FakeServer, harness, has_taken, processor_time, refused, sleeps_so_far, takes_signals,
                     unread)


def bench(test, target, *words):
    """A client with I/O under way."""
    client = test.start([test.command, 'blk', 'bench', target, '--seconds', '60', *words])
    lock = f'{target.removeprefix("vfio-user:")}.lock'
    harness.wait_until(lambda: open(lock, 'rb').read(), 20, 'the client')
    at_first = processor_time(client)
    harness.wait_until(lambda: processor_time(client) > at_first + 2, 20, 'the client to have something to do')
    return client


def keeps_trying(client):
    """Waits until a client has looked for its server some times."""
    harness.wait_until(lambda: takes_signals(client), 20, 'the command')
    at_first = sleeps_so_far(client)
    harness.wait_until(lambda: not client.running() or sleeps_so_far(client) > at_first + 3, 20, 'the client to try again')


def gone(test, server):
    test.true(not server.socket.exists() and not os.path.exists(f'{server.socket}.lock'), 'the socket was left')


def test_it_says_where_it_serves(test):
    image = test.image()
    server = test.serve('blk', '--image', image)
    harness.wait_until(lambda: server.output(), 10, 'a line')
    line = server.output()
    test.true(line.startswith('serving blk ') and image.name in line and line.endswith(f'on {server.target}\n'), f'it says {line}')
    test.equal(len(line.splitlines()), 1, 'lines')


def test_sigterm_and_ctrl_c_end_an_idle_server(test):
    for number in (signal.SIGTERM, signal.SIGINT):
        server = test.serve('blk', '--ram', '--size', '1M')
        server.signal(number)
        test.equal(server.wait(), 0, 'the exit status')
        gone(test, server)


def test_sigterm_under_load(test):
    for words in ([], ['--poll'], ['--queues', '2', '--packed']):
        server = test.serve('blk', '--image', test.image(), *words)
        client = bench(test, server.target, '--rw', 'randwrite', *(['--poll'] if '--poll' in words else []))
        test.equal(server.stop(), 0, 'the exit status')
        gone(test, server)
        test.equal(client.wait(60), 1, "the client's exit status")
        test.true(client.output().startswith('outboard: '), f'the client says {client.output()}')


def test_a_client_that_loses_its_device_says_so(test):
    server = test.serve('blk', '--ram', '--size', '16M')
    client = bench(test, server.target)
    server.signal(signal.SIGTERM)
    test.equal(client.wait(60), 1, "the client's exit status")
    said = client.output().splitlines()
    test.true('the device has gone' in said[0] and 'start it again' in said[1], f'the client says {said}')
    test.equal(server.wait(), 0, "the server's exit status")


def test_sigterm_is_heard_while_an_image_is_waited_for(test):
    image = test.image()
    with open(image, 'rb') as requests:
        command.lock_as_dead_server(requests)
        for number in (signal.SIGTERM, signal.SIGINT):
            server = test.start([test.command, 'serve', 'blk', '--image', image, '--listen', f'vfio-user:{test.sockets}/s'])
            harness.wait_until(lambda: 'waiting up to 60 s' in server.output(), 20, 'the server to wait')
            server.signal(number)
            test.equal(server.wait(), 1, 'the exit status')
            said = server.output().splitlines()[-1]
            test.true(said.startswith(f'outboard: {image}: interrupted while waiting for process '), f'it says {said}')


def test_a_client_that_is_killed_frees_the_device(test):
    server = test.serve('blk', '--ram', '--size', '16M')
    for _ in range(3):
        client = bench(test, server.target, '--rw', 'randwrite')
        client.kill()
        test.outboard('blk', 'info', server.target, '--wait', '5')
    test.equal(server.stop(), 0, 'the exit status')


def test_ctrl_c_ends_a_bench_with_figures(test):
    server = test.serve('blk', '--null', '--size', '1G')
    for words in ([], ['--poll']):
        client = bench(test, server.target, '--json', *words)
        client.signal(signal.SIGINT)
        test.equal(client.wait(), 0, 'the exit status')
        test.true(json.loads(client.output())['ios'] > 0, 'nothing was counted')


def test_a_client_asked_for_the_device_ends_with_its_figures(test):
    for words in ([], ['--poll']):
        server = test.serve('blk', '--null', '--size', '1G', '--unplug-wait', '60')
        client = bench(test, server.target, '--json', *words)
        test.equal(server.stop(50), 0, "the server's exit status")
        test.equal(client.wait(), 0, "the client's exit status")
        said, _, figures = client.output().partition('\n')
        test.true(said.startswith(f'outboard: {server.target}: ') and 'to be unplugged' in said, f'it says {said}')
        test.true(json.loads(figures)['ios'] > 0, 'nothing was counted')


def test_a_client_asked_for_the_device_gives_it_back_at_input(test):
    for device, words in ((['blk', '--ram', '--size', '1M'], 'blk write "$1"'), (['example'], 'example "$1" --batch')):
        server = test.serve(*device, '--unplug-wait', '60')
        read_end, write_end = os.pipe()
        client = test.start(['bash', '-c', f'exec "$0" {words} <&{read_end}', test.command, server.target],
                            pass_fds=(read_end,))
        harness.wait_until(lambda: open(f'{server.socket}.lock', 'rb').read(), 20, 'the client')
        os.write(write_end, b'1\n')
        harness.wait_until(lambda: unread(read_end) == 0, 20, 'the client to read what there is')
        test.equal(server.stop(50), 0, "the server's exit status")
        test.equal(client.wait(), 1, "the client's exit status")
        test.true('to be unplugged' in client.output() and 'interrupted' in client.output(), f'it says {client.output()}')
        os.close(write_end)
        os.close(read_end)


def test_ctrl_c_ends_a_write_that_waits_for_input(test):
    read_end, write_end = os.pipe()
    client = test.start(['bash', '-c', f'exec "$0" blk write {RAM} <&{read_end}', test.command], pass_fds=(read_end,))
    os.write(write_end, b'x' * 1000)
    harness.wait_until(lambda: unread(read_end) == 0, 20, 'the command to read what there is')
    client.signal(signal.SIGINT)
    test.equal(client.wait(), 1, 'the exit status')
    test.true('interrupted' in client.output(), f'it says {client.output()}')
    os.close(write_end)
    os.close(read_end)


def test_ctrl_c_ends_a_read_into_a_pipe_that_nobody_reads(test):
    read_end, write_end = os.pipe()
    client = test.start(['bash', '-c', f'exec "$0" blk read local:blk,ram,size=4M >&{write_end}', test.command],
                        pass_fds=(write_end,))
    harness.wait_until(lambda: unread(read_end) == fcntl.fcntl(read_end, fcntl.F_GETPIPE_SZ), 20, 'the pipe to be full')
    client.signal(signal.SIGINT)
    test.equal(client.wait(), 1, 'the exit status')
    test.true('interrupted' in client.output(), f'it says {client.output()}')
    os.close(read_end)
    os.close(write_end)


def test_a_second_ctrl_c_or_sigterm_ends_at_once(test):
    heard = threading.Event()

    def silent(client):
        while client.recv(4096):
            heard.set()

    path = test.sockets / 'silent'
    with FakeServer(path, silent):
        for number in (signal.SIGINT, signal.SIGTERM):
            heard.clear()
            client = test.start([test.command, 'show', f'vfio-user:{path}'])
            harness.wait_until(heard.is_set, 20, 'the client to wait for an answer')
            client.signal(number)
            harness.wait_until(lambda: has_taken(client, number), 10, 'the first signal to be taken')
            test.true(client.running(), 'the first signal has ended it')
            client.signal(number)
            test.equal(client.wait(), 128 + number, 'the exit status')


def test_a_server_whose_line_nobody_reads_serves(test):
    read_end, write_end = os.pipe()
    os.close(read_end)
    for output in (f'&{write_end}', '/dev/full'):
        path = test.sockets / f'unread{len(output)}.sock'
        server = test.start(['bash', '-c', f'exec "$0" serve blk --ram --size 1M --listen vfio-user:{path} >{output}',
                             test.command], pass_fds=(write_end,))
        test.outboard('show', f'vfio-user:{path}', '--wait', '20')
        test.equal(server.stop(), 0, 'the exit status')
    os.close(write_end)


def full_pipe():
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, bytes(4096))
    os.set_blocking(write_end, True)
    return read_end, write_end


def test_a_server_whose_stdout_is_full_serves(test):
    read_end, write_end = full_pipe()
    path = test.sockets / 'full.sock'
    server = test.start(['bash', '-c', f'exec "$0" serve blk --ram --size 1M --listen vfio-user:{path} >&{write_end}',
                         test.command], pass_fds=(write_end,))
    test.outboard('show', f'vfio-user:{path}', '--wait', '20')
    test.equal(server.stop(), 0, 'the exit status')
    os.close(read_end)
    os.close(write_end)


def test_closed_standard_descriptors(test):
    path = test.sockets / 'closed.sock'
    server = test.start(['bash', '-c', f'exec "$0" serve blk --ram --size 1M --listen vfio-user:{path} <&- >&- 2>&-',
                         test.command])
    harness.wait_until(lambda: harness.is_listening(path), 20, 'the server')
    test.outboard('blk', 'write', f'vfio-user:{path}', stdin=b'x' * 512)
    test.equal(server.stop(), 0, 'the exit status')


def test_waiting_for_a_server(test):
    path = test.sockets / 'late.sock'
    client = test.start([test.command, 'blk', 'info', f'vfio-user:{path}', '--wait', '30', '--json'])
    keeps_trying(client)
    test.true(client.running(), f'it did not wait: {client.output()}')
    test.serve('blk', '--ram', '--size', '1M', socket_path=path)
    test.equal(client.wait(), 0, 'the exit status')
    test.equal(json.loads(client.output())['capacity_bytes'], 1 << 20)


def test_waiting_in_vain_and_being_interrupted(test):
    path = test.sockets / 'never.sock'
    refused(test, 'show', f'vfio-user:{path}', '--wait', '0.2', says=[path])
    client = test.start([test.command, 'show', f'vfio-user:{path}', '--wait', '600'])
    keeps_trying(client)
    client.signal(signal.SIGINT)
    test.equal(client.wait(), 1, 'the exit status')
    test.true('interrupted' in client.output(), f'it says {client.output()}')


def listening(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_serving_on_a_descriptor(test):
    path = test.sockets / 'given.sock'
    with listening(path) as listener:
        number = listener.fileno()
        server = test.serve('blk', '--ram', '--size', '1M', '--fd', number, listen=False, socket_path=path, pass_fds=(number,))
        test.outboard('show', f'vfio-user:{path}')
        test.equal(server.stop(), 0, 'the exit status')
        test.true(path.exists(), 'a socket that is not ours was removed')
    refused(test, 'serve', 'blk', '--ram', '--size', '1M', '--fd', '99', says=['--fd', '99', 'not open'], status=2)
    refused(test, 'serve', 'blk', '--ram', '--size', '1M', '--fd', '0', says=['not a listening socket'], cure='socket')


def test_socket_activation(test):
    path = test.sockets / 'activated.sock'
    with listening(path) as listener:
        number = listener.fileno()
        script = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&{number} "$0" serve blk --ram --size 1M'
        server = test.start(['bash', '-c', script, test.command], pass_fds=(number,))
        test.outboard('show', f'vfio-user:{path}')
        test.equal(server.stop(), 0, 'the exit status')
    # Variables that were meant for another process.
    refused(test, 'serve', 'blk', '--ram', '--size', '1M', status=2, env={'LISTEN_PID': '1', 'LISTEN_FDS': '1'})


def test_ready_descriptor(test):
    read_end, write_end = os.pipe()
    path = test.sockets / 'ready.sock'
    server = test.start([test.command, 'serve', 'blk', '--ram', '--size', '1M', '--listen', f'vfio-user:{path}', '--ready-fd',
                         write_end], pass_fds=(write_end,))
    os.close(write_end)
    test.equal(os.read(read_end, 100), b'ready\n')
    test.equal(os.read(read_end, 100), b'')
    os.close(read_end)
    test.outboard('show', f'vfio-user:{path}')
    test.equal(server.stop(), 0, 'the exit status')


def test_a_ready_descriptor_that_is_full(test):
    read_end, write_end = full_pipe()
    server = test.start([test.command, 'serve', 'blk', '--ram', '--size', '1M', '--listen',
                         f'vfio-user:{test.sockets / "full.sock"}', '--ready-fd', write_end], pass_fds=(write_end,))
    test.equal(server.wait(), 1, 'the exit status')
    test.true('--ready-fd' in server.output(), f'it says {server.output()}')
    os.close(read_end)
    os.close(write_end)


def test_an_error_that_nobody_reads_does_not_outlive_a_signal(test):
    read_end, write_end = full_pipe()
    client = test.start(['bash', '-c', f'exec "$0" show vfio-user:{test.sockets / "none"} 2>&{write_end}', test.command],
                        pass_fds=(write_end,))
    harness.wait_until(lambda: takes_signals(client), 20, 'the command to take signals')
    client.signal(signal.SIGTERM)
    test.equal(client.wait(), 1, 'the exit status')
    os.close(read_end)
    os.close(write_end)


def test_an_image_that_shrinks_breaks_only_its_requests(test):
    image = test.image(size=16 << 20)
    server = test.serve('blk', '--image', image)
    with open(image, 'r+b') as file:
        file.truncate(1 << 20)
    test.outboard('blk', 'read', server.target, '--length', '512')
    test.outboard('blk', 'read', server.target, '--offset', '8M', '--length', '512', status=None)
    test.outboard('blk', 'read', server.target, '--length', '512')
    test.equal(server.stop(), 0, 'the exit status')


harness.main(globals())
