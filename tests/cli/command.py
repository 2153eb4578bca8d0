"""What the tests of the command share. They are written with the harness of the system tests."""

import fcntl
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import sys
import termios
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'system'))
sys.dont_write_bytecode = True
import harness  # noqa: E402  pylint: disable=wrong-import-position

RAM = 'local:blk,ram,size=16M'


def complaint(test, done, *says, cure='', notice=''):
    """Checks what a command that has failed said: one line, the thing, and perhaps a cure. `notice`: in a line of the log
    before it."""
    text = done.stderr.decode()
    lines = text.splitlines()
    if notice:
        test.true(lines and notice in lines[0], f'{notice!r} is not in the first line of {text!r}')
        lines = lines[1:]
    test.true(lines and lines[0].startswith('outboard: '), f'not an error for people: {text!r}')
    test.true(len(lines) == (2 if cure else len(lines)) and len(lines) <= 2, f'not one line and a cure: {text!r}')
    for words in says:
        test.true(str(words) in lines[0], f'{words!r} is not in {lines[0]!r}')
    if cure:
        test.true(lines[1].startswith('  ') and cure in lines[1], f'the cure {cure!r} is not in {text!r}')
    return lines[0]


def refused(test, *arguments, says=(), cure='', notice='', status=1, **options):
    """Runs the command, which has to fail, and checks what it says."""
    return complaint(test, test.outboard(*arguments, status=status, **options), *says, cure=cure, notice=notice)


def as_nobody(test):
    """The start of a command line that runs the command without any rights; skips where that cannot be done."""
    if os.geteuid() != 0:
        return [test.command]
    if not shutil.which('setpriv'):
        test.skip('there is no setpriv')
    os.chmod(test.sockets, 0o755)
    copy = test.sockets / 'outboard'
    shutil.copy(test.command, copy)
    os.chmod(copy, 0o755)
    return ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', copy]


def lock_as_dead_server(file):
    """The locks on an image that a killed server leaves as long as the kernel has requests of it; of another boot."""
    f_ofd_setlk = 37
    first_owner = 1 << 61
    fcntl.fcntl(file, f_ofd_setlk, struct.pack('hhqqi', fcntl.F_RDLCK, os.SEEK_SET, first_owner + 1, 1, 0))


# What a process is at: so that a test waits for that, and not for some time.


def _status(process, field):
    """A line of /proc/PID/status: of the process where it says so, else of its first thread."""
    status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
    return re.search(rf'^{field}:\s+(\S+)', status, re.MULTILINE).group(1)


def takes_signals(process):
    """It is the command, and has come to where Ctrl-C is a wish that it heeds."""
    blocked = int(_status(process, 'SigBlk'), 16)
    return 'outboard' in _status(process, 'Name') and blocked >> (signal.SIGINT - 1) & 1 == 1


def has_taken(process, number):
    """A signal that was sent to it is no longer pending."""
    return (int(_status(process, 'ShdPnd'), 16) | int(_status(process, 'SigPnd'), 16)) >> (number - 1) & 1 == 0


def ignores(process, number):
    return int(_status(process, 'SigIgn'), 16) >> (number - 1) & 1 == 1


def sleeps_so_far(process):
    return int(_status(process, 'voluntary_ctxt_switches'))


def processor_time(process):
    """In ticks of 10 ms, of all its threads."""
    fields = pathlib.Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])


def unread(pipe):
    """How many bytes wait in a pipe."""
    return struct.unpack('i', fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


class FakeServer:
    """Listens on a UNIX socket and lets a function talk to each client."""

    def __init__(self, path, talk):
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.talk = talk
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                try:
                    self.talk(client)
                except OSError:
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)
