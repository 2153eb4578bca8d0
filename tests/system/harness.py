"""What the system tests are written with: servers, guests, and a runner that reports each case.

A test program is a file NAME_test.py here; CTest finds it by its name. It looks like this:

    import harness

    def test_disk_is_seen(test):
        server = test.serve('blk', '--ram', '--size', '64M')
        guest = test.guest('disk_seen.sh', modules=['virtio_blk'], devices=[server])
        test.finish_guest(guest)

    harness.main(globals())

Each function test_* is run with a Test, whose folder keeps every log and whose processes are killed when it ends.
A line `# ctest: TIMEOUT 600 PROCESSORS 2` in the file sets properties of its CTest entry.

Every case, those of functions and those that guests report, counts; the last line is `CASES passed failed skipped`.
Exit status 0, 1 if a case failed, 77 if every case was skipped. Python 3.11, standard library only.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
GUEST_SCRIPTS = HERE / 'guest'

# A machine that does other work beside the tests may need a larger one.
TIME_SCALE = float(os.environ.get('OUTBOARD_TIME_SCALE', '1'))

# What a healthy guest never prints.
KERNEL_COMPLAINTS = re.compile(r'BUG:|WARNING:|KASAN|UBSAN|Oops|Kernel panic|DMAR:.*fault|blocked for more than')


class Failure(Exception):
    """A case has failed; the text says why."""


class Skip(Exception):
    """A case cannot run on this machine; the text says why."""


@dataclasses.dataclass
class Case:
    name: str
    verdict: str  # 'ok', 'fail' or 'skip'
    reason: str = ''


# --- Waiting -----------------------------------------------------------------------------------------------------------


def wait_until(condition, seconds, what, interval=0.02):
    """Waits until condition() is true and returns its value; fails after `seconds` (times the time scale)."""
    deadline = time.monotonic() + seconds * TIME_SCALE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f'waited {seconds * TIME_SCALE:g} s in vain: {what}')
        time.sleep(interval)


def is_listening(path):
    """Whether somebody listens on a UNIX socket. Asks the kernel: a connection would count as a client.

    Our servers bind PATH.new and rename it to PATH when they listen; the kernel goes on showing the name that was bound.
    """
    new = f'{path}.new'
    if os.path.exists(new):
        return False
    accepts_connections = 0x10000
    with open('/proc/net/unix', encoding='ascii', errors='replace') as table:
        next(table)
        for line in table:
            fields = line.split(maxsplit=7)
            name = fields[7].rstrip('\n') if len(fields) == 8 else ''
            if name in (str(path), new) and int(fields[3], 16) & accepts_connections:
                return os.path.exists(path)
    return False


# --- Processes ---------------------------------------------------------------------------------------------------------


def _die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Process:
    """A program that runs beside the test. Its output goes to a file; it is killed when the test ends."""

    def __init__(self, command, log, env=None, pass_fds=()):
        self.command = [str(word) for word in command]
        self.log = pathlib.Path(log)
        with open(self.log, 'wb') as output:
            self.popen = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                          env={**os.environ, **(env or {})}, pass_fds=pass_fds,
                                          start_new_session=True, preexec_fn=_die_with_parent)

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def output(self):
        return self.log.read_text(errors='replace')

    def signal(self, number):
        if self.running():
            self.popen.send_signal(number)

    def wait(self, seconds=10):
        """The exit status (negative: the signal that ended it); fails, and kills it, when it does not end in time."""
        try:
            return self.popen.wait(seconds * TIME_SCALE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f'{pathlib.Path(self.command[0]).name} did not end within {seconds * TIME_SCALE:g} s; '
                          f'its output is in {self.log}') from None

    def stop(self, seconds=10):
        """Asks it to end, as a service manager would; its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self):
        if not self.running():
            return self.popen.returncode
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        return self.popen.wait()

    def resident_kib(self):
        status = pathlib.Path(f'/proc/{self.pid}/status').read_text()
        return int(re.search(r'^VmRSS:\s+(\d+)', status, re.MULTILINE).group(1))

    def fd_count(self):
        return len(os.listdir(f'/proc/{self.pid}/fd'))


class Server(Process):
    """`outboard serve`, ready for clients once constructed."""

    def __init__(self, command, socket_path, log, wait=True, **options):
        self.socket = pathlib.Path(socket_path)
        super().__init__(command, log, **options)
        if wait:
            self.wait_ready()

    @property
    def target(self):
        return f'vfio-user:{self.socket}'

    def wait_ready(self, seconds=20):
        def ready():
            if not self.running():
                raise Failure(f'the server ended with status {self.popen.returncode}: {self.output().strip()[-500:]}')
            return is_listening(self.socket)
        wait_until(ready, seconds, f'a server on {self.socket}')

    def qemu_device(self, **properties):
        """The QEMU arguments that plug this server's function in."""
        device = {'driver': 'vfio-user-pci', 'socket': {'type': 'unix', 'path': str(self.socket)}, **properties}
        return ['-device', json.dumps(device)]


# --- The guest root ----------------------------------------------------------------------------------------------------


def _guest_shell(script, *arguments):
    command = ['bash', '-c', f'set -euo pipefail; . "$0"; {script}', str(GUEST_SCRIPTS / 'lib.sh'), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        raise Skip(done.stderr.strip().replace('\n', ' '))
    if done.returncode != 0:
        raise Failure(done.stderr.strip())
    return done.stdout.strip()


def kernel_version(which='new'):
    """The release of a kernel of the root: 'new' (7.x) or 'lts' (6.12)."""
    return _guest_shell('guest_need_root; guest_kernel_version "$1"', which)


def root_command(program, *arguments):
    """The command that runs a program of the guest root on this machine."""
    return ['bash', '-c', 'set -euo pipefail; . "$0"; guest_need_root; guest_exec "$@"',
            str(GUEST_SCRIPTS / 'lib.sh'), program, *map(str, arguments)]


def root_file(name):
    """The path of a file of the guest root."""
    return pathlib.Path(_guest_shell('guest_need_root; echo "$GUEST_ROOT"')) / name


def _cpio_newc(files):
    """An archive {name: (mode, bytes)} that the kernel unpacks after the one before it."""
    archive = bytearray()
    folders = {str(parent): (0o040755, b'') for name in files for parent in reversed(pathlib.PurePath(name).parents[:-1])}
    entries = [*folders.items(), *files.items(), ('TRAILER!!!', (0, b''))]
    for inode, (name, (mode, data)) in enumerate(entries, start=1):
        fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        archive += b'070701' + b''.join(b'%08X' % field for field in fields) + name.encode() + b'\0'
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive) + bytes(-len(archive) % 512)


def _base_initrd(version, modules, programs, host_programs):
    """The archive with everything but the test's own files; made once for each combination, kept with the root."""
    cache = pathlib.Path(_guest_shell('guest_need_root; echo "$GUEST_CACHE"'))
    key = hashlib.sha256()
    key.update((cache / 'root' / '.manifest').read_bytes())
    for part in [version, *sorted(modules), '-', *sorted(programs), '-']:
        key.update(part.encode() + b'\0')
    for name in ['init', 'cases.sh', 'initrd.sh']:
        key.update((GUEST_SCRIPTS / name).read_bytes())
    for program in sorted(map(str, host_programs)):
        key.update(program.encode() + b'\0' + hashlib.sha256(pathlib.Path(program).read_bytes()).digest())
    folder = cache / 'initrd'
    folder.mkdir(exist_ok=True)
    archive = folder / f'{key.hexdigest()[:24]}.cpio'
    if not archive.exists():
        for old in sorted(folder.glob('*.cpio'), key=lambda file: file.stat().st_mtime)[:-20]:
            old.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = pathlib.Path(scratch) / 'initrd'
            options = [word for module in modules for word in ('-m', module)]
            options += [word for program in programs for word in ('-t', program)]
            options += [word for program in host_programs for word in ('-b', str(program))]
            done = subprocess.run([str(GUEST_SCRIPTS / 'initrd.sh'), '-k', version, '-o', str(made), *options],
                                  capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Failure(f'making the initial RAM disk: {done.stderr.strip()}')
            made.rename(archive)
    os.utime(archive)
    return archive


class Guest(Process):
    """A QEMU guest that runs one script and powers off."""

    def __init__(self, folder, sockets, initrd, image, append, qemu, smp, memory, reboot, timeout):
        self.folder = pathlib.Path(folder)
        self.timeout = timeout
        # The path of a socket has at most 107 bytes; that of a folder in a tree has any number.
        self.qmp_path = pathlib.Path(sockets) / f'{self.folder.name}.qmp'
        self._qmp = None
        self.env = {'GUEST_SMP': str(smp), 'GUEST_MEM': memory, 'GUEST_REBOOT': '1' if reboot else ''}
        self._booted_again = False
        command = [GUEST_SCRIPTS / 'run.sh', self.folder, image, initrd, append,
                   '-qmp', f'unix:{self.qmp_path},server=on,wait=off', *qemu]
        super().__init__(command, self.folder / 'run', env=self.env)
        self.deadline = time.monotonic() + timeout * TIME_SCALE

    def _file(self, name):
        path = self.folder / name
        return path.read_text(errors='replace') if path.exists() else ''

    def console(self):
        return self._file('console')

    def results(self):
        """The lines that the guest wrote to its second serial port."""
        return self._file('result').replace('\r', '').splitlines()

    def messages(self):
        """QEMU's own messages."""
        return self._file('qemu')

    def wait_note(self, text, seconds=60):
        """Waits until the guest's script has said `note TEXT`."""
        def noted():
            if f'NOTE {text}' in self.results():
                return True
            if not self.running() and not self._boot_again():
                raise Failure(f'the guest ended before it said "{text}"; {self.describe()}')
            return False
        wait_until(noted, seconds, f'the guest to say "{text}"; {self.describe()}')

    def qmp(self, command, **arguments):
        """Runs a QEMU monitor command and returns its answer."""
        if self._qmp is None:
            connection = socket.socket(socket.AF_UNIX)
            wait_until(lambda: is_listening(self.qmp_path), 20, "QEMU's monitor")
            connection.settimeout(20 * TIME_SCALE)
            connection.connect(str(self.qmp_path))
            self._qmp = connection.makefile('rw', encoding='utf-8')
            self._qmp.readline()
            self._qmp_call('qmp_capabilities', {})
        return self._qmp_call(command, arguments)

    def _qmp_call(self, command, arguments):
        self._qmp.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self._qmp.flush()
        while True:
            line = self._qmp.readline()
            if not line:
                raise Failure(f'QEMU closed its monitor during {command}')
            answer = json.loads(line)
            if 'error' in answer:
                raise Failure(f'{command}: {answer["error"]["desc"]}')
            if 'return' in answer:
                return answer['return']

    def quit(self):
        """Ends QEMU. It may do so by itself meanwhile: a guest that powers off does not wait for us."""
        try:
            self.qmp('quit')
        except (OSError, ValueError, Failure):
            wait_until(lambda: not self.running(), 20, f'QEMU to end; {self.describe()}')

    def finish(self):
        """Waits for the end; the status of the guest's script, or None if it died before reporting one."""
        try:
            self.popen.wait(max(0.1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f'the guest did not end within {self.timeout * TIME_SCALE:g} s; {self.describe()}') from None
        for line in self.results():
            if match := re.match(r'RC (\d+)', line):
                return int(match.group(1))
        return self.finish() if self._boot_again() else None

    def _boot_again(self):
        """Once, where the kernel died before its first program of what QEMU's TCG does and no device of ours: an int3 of the kernel's
        own patching that another processor has taken away already, in one of some hundred boots; or, on a busy machine, a timer
        interrupt that does not come while the kernel looks whether it has one."""
        console = self.console()
        early = any(text in console for text in ('Oops: int3', "timer doesn't work through"))
        if self._booted_again or not early or 'GUEST start' in console:
            return False
        print(f'the kernel of the guest died before it had begun; booting it again ({self.folder})', flush=True)
        (self.folder / 'console').rename(self.folder / 'console-of-the-first-boot')
        self._booted_again = True
        super().__init__(self.command, self.log, env=self.env)
        self.deadline = time.monotonic() + self.timeout * TIME_SCALE
        return True

    def cases(self):
        """The cases reported so far."""
        found = []
        for line in self.results():
            if match := re.match(r'CASE (\S+) (ok|fail|skip) ?(.*)', line):
                found.append(Case(*match.groups()))
        return found

    def describe(self):
        last = [line for line in self.console().splitlines() if line.strip()][-3:]
        return f'logs in {self.folder}, console ends: {" | ".join(last)} {self.messages().strip()[-300:]}'.strip()


# --- Tests -------------------------------------------------------------------------------------------------------------


class Test:
    """What a test function is given: a folder, and servers and guests that end with it."""

    def __init__(self, name, folder, command):
        self.name = name
        self.folder = folder
        self.command = command  # the `outboard` program
        self.reported = []  # Cases from guests, or from report()
        self.allow_kernel_complaints = False
        self._processes = []
        self._guests = []
        # Socket paths are limited to 107 bytes, so they are not in the folder of logs.
        self.sockets = pathlib.Path(tempfile.mkdtemp(prefix='outboard-test-'))

    def close(self):
        for process in reversed(self._processes):
            process.kill()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def _keep(self, process):
        self._processes.append(process)
        return process

    def _name(self, name):
        count = sum(1 for path in self.folder.iterdir() if path.name.split('.')[0].rstrip('0123456789-') == name)
        return name if count == 0 else f'{name}-{count + 1}'

    # Reporting

    def skip(self, reason):
        raise Skip(reason)

    def fail(self, reason):
        raise Failure(reason)

    def report(self, name, ok, reason=''):
        """Reports one more case of this test, and goes on."""
        self.reported.append(Case(name, 'ok' if ok else 'fail', reason))

    def equal(self, actual, expected, what='value'):
        if actual != expected:
            raise Failure(f'{what}: got {actual!r}, expected {expected!r}')

    def true(self, condition, reason):
        if not condition:
            raise Failure(reason)

    # Programs of this machine

    def _need_command(self):
        if not self.command.exists():
            raise Failure(f'there is no {self.command}; run ./dev build')

    def outboard(self, *arguments, status=0, seconds=60, stdin=b'', env=None):
        """Runs `outboard ARGUMENTS` to its end; fails unless its exit status is `status` (None: any)."""
        self._need_command()
        return self.run([self.command, *arguments], status=status, seconds=seconds, stdin=stdin, env=env)

    def root_program(self, program, *arguments, status=0, seconds=60, stdin=b''):
        """The same for a program of the guest root: qemu-img, mkfs.ext4, lspci, ..."""
        return self.run(root_command(program, *arguments), status=status, seconds=seconds, stdin=stdin)

    def run(self, command, status=0, seconds=60, stdin=b'', env=None):
        command = [str(word) for word in command]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=seconds * TIME_SCALE,
                                  env={**os.environ, **(env or {})}, preexec_fn=_die_with_parent, check=False)
        except subprocess.TimeoutExpired:
            raise Failure(f'{" ".join(command)} did not end within {seconds * TIME_SCALE:g} s') from None
        if status is not None and done.returncode != status:
            said = (done.stderr or done.stdout).decode(errors='replace').strip()[-500:]
            raise Failure(f'{" ".join(command)}: exit status {done.returncode}, expected {status}: {said}')
        return done

    def start(self, command, name='process', **options):
        """A program that runs beside the test."""
        return self._keep(Process(command, self.folder / f'{self._name(name)}.log', **options))

    def serve(self, *arguments, socket_path=None, wait=True, listen=True, under=(), **options):
        """`outboard serve ARGUMENTS --listen vfio-user:SOCKET`, ready for clients; behind the words of `under`."""
        self._need_command()
        name = self._name('server')
        path = socket_path or self.sockets / f'{name}.sock'
        words = ['--listen', f'vfio-user:{path}'] if listen else []
        command = [*under, self.command, 'serve', *arguments, *words]
        server = Server(command, path, self.folder / f'{name}.log', wait=False, **options)
        self._keep(server)
        if wait:
            server.wait_ready()
        return server

    def image(self, name='disk.raw', size=64 << 20, data=b''):
        """A sparse image file in the test's folder, which begins with `data`."""
        path = self.folder / name
        with open(path, 'wb') as file:
            file.truncate(size)
            file.write(data)
        return path

    def kernel_module(self, source, *, kernel='new', arguments=()):
        """Builds the kernel module whose sources are in a folder, with all warnings; its .ko file. A warning is a failure."""
        out = self.folder / self._name('module')
        log = self.run([GUEST_SCRIPTS / 'kmod.sh', kernel, source, out, 'W=1', *arguments], status=None, seconds=300)
        text = (log.stdout + log.stderr).decode(errors='replace')
        if log.returncode == 77:
            raise Skip(text.strip().replace('\n', ' '))
        if log.returncode != 0 or re.search(r'warning|error', text, re.IGNORECASE):
            raise Failure(f'{source} for the kernel {kernel!r}: {text.strip()[-2000:]}')
        modules = list(out.glob('*.ko'))
        if len(modules) != 1:
            raise Failure(f'{source}: expected one module, got {modules}')
        return modules[0]

    # Guests

    def guest(self, script, *, kernel='new', modules=(), programs=(), host_programs=(), files=None, devices=(), qemu=(),
              append='', smp=1, memory='512M', reboot=False, timeout=120):
        """Starts a guest that runs `script`: a file beside the tests, or the text of one (if it has a newline).

        modules: kernel modules to have at hand (the script loads them). programs: from the guest root. host_programs:
        paths of this machine's. files: {path in the guest: path here, or bytes}. devices: Servers, or lists of QEMU
        arguments. reboot: a reboot boots again. timeout: seconds until the guest must have ended.
        """
        version = kernel_version(kernel)
        image = _guest_shell('guest_kernel_image "$1"', version)
        base = _base_initrd(version, list(modules), list(programs), list(host_programs))
        text = script.encode() if '\n' in str(script) else (HERE / script).read_bytes()
        overlay = {'test': (0o100755, text)}
        for path, content in (files or {}).items():
            data = content if isinstance(content, bytes) else pathlib.Path(content).read_bytes()
            overlay[path.lstrip('/')] = (0o100755, data)
        folder = self.folder / self._name('guest')
        folder.mkdir()
        initrd = self.sockets / f'{folder.name}.cpio'
        with open(initrd, 'wb') as out:
            out.write(base.read_bytes())
            out.write(_cpio_newc(overlay))
        words = [word for device in devices
                 for word in (device.qemu_device() if isinstance(device, Server) else device)]
        guest = Guest(folder, self.sockets, initrd, image, append, [*words, *map(str, qemu)], smp, memory, reboot,
                      timeout)
        self._guests.append(guest)
        return self._keep(guest)

    def finish_guest(self, guest, status=None):
        """Waits for a guest and reports each of its cases. Fails if it died, or complained, or reported nothing."""
        got = guest.finish()
        self.reported += guest.cases()
        if got is None:
            raise Failure(f'the guest died; {guest.describe()}')
        if not self.allow_kernel_complaints:
            if complaint := KERNEL_COMPLAINTS.search(guest.console()):
                line = next(line for line in guest.console().splitlines() if complaint.group(0) in line)
                raise Failure(f'the guest kernel complained: {line.strip()}')
        if status is not None and got != status:
            raise Failure(f'the guest script ended with status {got}, expected {status}; {guest.describe()}')
        if status is None and not guest.cases():
            raise Failure(f'the guest reported no case; {guest.describe()}')
        return got

    def run_guest(self, script, **options):
        """guest() and finish_guest() in one; the finished guest."""
        guest = self.guest(script, **options)
        self.finish_guest(guest)
        return guest


def _run_function(name, function, folder, command):
    """Runs one test function; the Cases that it makes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    test = Test(name, folder, command)
    try:
        function(test)
        own = Case(name, 'ok')
    except Failure as failure:
        own = Case(name, 'fail', str(failure))
    except Skip as skip:
        own = Case(name, 'skip', str(skip))
    except Exception:  # pylint: disable=broad-except
        own = Case(name, 'fail', traceback.format_exc())
    finally:
        test.close()
    reported = [Case(f'{name}.{case.name}', case.verdict, case.reason) for case in test.reported]
    # A function that only passed on what others reported is not a case of its own.
    return reported if reported and own.verdict == 'ok' else [*reported, own]


def main(names):
    """Runs the functions test_* of a module (or those whose name contains an argument)."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--outboard', type=pathlib.Path, default=SOURCE / 'build' / 'outboard')
    parser.add_argument('--work', type=pathlib.Path, help='folder for logs')
    parser.add_argument('--list', action='store_true', help='list the tests')
    parser.add_argument('filters', nargs='*', help='run only tests whose name contains one of these')
    options = parser.parse_args()
    functions = {name: value for name, value in names.items() if name.startswith('test_') and callable(value)}
    if options.filters:
        functions = {name: value for name, value in functions.items() if any(f in name for f in options.filters)}
    if options.list:
        print('\n'.join(functions))
        return
    program = pathlib.Path(names['__file__']).stem
    work = (options.work or pathlib.Path(tempfile.gettempdir()) / 'outboard-system' / program).resolve()
    counts = {'ok': 0, 'fail': 0, 'skip': 0}
    for name, function in functions.items():
        began = time.monotonic()
        cases = _run_function(name, function, work / name, options.outboard.resolve())
        for case in cases:
            counts[case.verdict] += 1
            print(f'CASE {case.name} {case.verdict} {case.reason}'.rstrip(), flush=True)
        print(f'     {time.monotonic() - began:.1f} s, logs in {work / name}', flush=True)
    print(f'CASES {counts["ok"]} {counts["fail"]} {counts["skip"]}', flush=True)
    if counts['fail'] or not functions:
        sys.exit(1)
    sys.exit(77 if counts['skip'] and not counts['ok'] else 0)
