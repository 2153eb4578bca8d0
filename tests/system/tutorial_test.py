"""The tutorial of docs/new-device.md, typed by a newcomer who types exactly what is there, in a clean clone.

A comment before a fenced block says what is done with it:

    <!-- tutorial: run -->            typed into a shell in the clone; a command that fails fails the test
    <!-- tutorial: guest -->          the same, and then there is the shell of a guest
    <!-- tutorial: in the guest -->   typed into that, line by line; `exit` ends it
    <!-- tutorial: prints -->         each line must be in what the last block printed, in this order
"""

import contextlib
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import time

import harness

# ctest: TIMEOUT 3600 PROCESSORS 2

PAGE = harness.SOURCE / 'docs' / 'new-device.md'
BLOCK = re.compile(r'<!-- tutorial: ([\w ]+) -->\n```\w*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
GUEST_PROMPT = re.compile(r'^[~/]\S* # ', re.MULTILINE)


def clone(folder):
    """A clone of this tree, with what has not been committed yet."""
    def git(*words):
        return subprocess.run(['git', '-C', harness.SOURCE, *words], capture_output=True, text=True, check=False)
    if git('rev-parse', '--git-dir').returncode != 0:
        raise harness.Skip('this is no clone of the project: there is nothing to clone')
    shutil.rmtree(folder, ignore_errors=True)
    done = git('clone', '--quiet', '--no-hardlinks', harness.SOURCE, folder)
    if done.returncode != 0:
        raise harness.Failure(f'git clone: {done.stderr.strip()}')
    for name in git('diff', '--name-only', 'HEAD').stdout.splitlines():
        if (harness.SOURCE / name).exists():
            shutil.copy2(harness.SOURCE / name, folder / name)
        else:
            (folder / name).unlink()
    for name in git('ls-files', '--others', '--exclude-standard').stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(harness.SOURCE / name, folder / name)
    # A newcomer's clone has no changes of its own.
    for words in (['add', '--all'], ['-c', 'user.name=tutorial', '-c', 'user.email=tutorial@localhost', 'commit',
                                     '--quiet', '--allow-empty', '--message', 'what is not committed yet']):
        subprocess.run(['git', '-C', folder, *words], check=True)


class Terminal:
    """A shell that is typed into; what it prints is kept."""

    def __init__(self, folder, log):
        self.popen = subprocess.Popen(['bash', '--norc', '-e'], cwd=folder, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.log = open(log, 'wb')
        self.printed = ''  # by the last block
        self.blocks = 0
        os.set_blocking(self.popen.stdout.fileno(), False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.popen.stdout, selectors.EVENT_READ)

    def close(self):
        self.popen.kill()
        # Whoever it has started, and nobody else: they are in its session.
        for entry in pathlib.Path('/proc').glob('[0-9]*/stat'):
            try:
                fields = entry.read_text().rsplit(')', 1)[1].split()
                if int(fields[3]) == self.popen.pid:
                    os.kill(int(entry.parent.name), signal.SIGKILL)
            except (OSError, IndexError):
                pass
        self.popen.wait()
        self.log.close()

    def processes(self):
        """What has been started and has not ended, and where in the kernel it is."""
        found = []
        for folder in pathlib.Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError, IndexError):
                if int((folder / 'stat').read_text().rsplit(')', 1)[1].split()[3]) == self.popen.pid:
                    words = (folder / 'cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
                    signals = re.findall(r'^(SigPnd|ShdPnd|SigIgn):\s+(\S+)', (folder / 'status').read_text(), re.M)
                    found.append((folder.name, words.strip()[:120], (folder / 'wchan').read_text(), signals))
        return found

    def type(self, text):
        self.popen.stdin.write(text.encode())
        self.popen.stdin.flush()

    def wait_for(self, pattern, seconds, what, start=0):
        """Waits until the pattern is in what has been printed, from `start` on."""
        deadline = time.monotonic() + seconds * harness.TIME_SCALE
        while not pattern.search(self.printed, start):
            if time.monotonic() > deadline:
                raise harness.Failure(f'{what}: no end within {seconds} s: ... {self.printed[-500:]}; it runs '
                                      f'{self.processes()}')
            ended = self.popen.poll() is not None
            data = self.popen.stdout.read() if self.selector.select(timeout=0 if ended else 1) else None
            if data == b'' or (ended and data is None):
                raise harness.Failure(f'{what}: it has failed: ... {self.printed.strip()[-1500:]}')
            if data:
                self.log.write(data)
                self.log.flush()
                self.printed += data.decode(errors='replace').replace('\r', '')

    # What is done with each kind of block.

    def begin(self, block):
        self.printed = ''
        self.blocks += 1
        # Read as a whole before anything of it runs: a guest takes what is typed meanwhile.
        self.type(f'{{\n{block}echo "block {self.blocks} has ended"\n}}\n')

    def wait_for_end(self, what):
        self.wait_for(re.compile(rf'^block {self.blocks} has ended$', re.MULTILINE), 900, what)

    def run(self, block):
        self.begin(block)
        self.wait_for_end(block)

    def guest(self, block):
        self.begin(block)
        self.wait_for(GUEST_PROMPT, 600, block)

    def in_the_guest(self, block):
        for line in block.splitlines():
            start = len(self.printed)
            self.type(f'{line}\n')
            if line != 'exit':
                self.wait_for(GUEST_PROMPT, 120, line, start)
        self.wait_for_end(block)

    def prints(self, block):
        at = 0
        for line in block.splitlines():
            found = self.printed.find(line, at)
            if found < 0:
                raise harness.Failure(f'the tutorial shows "{line}", but it printed: ... {self.printed[at:][-1500:]}')
            at = found + len(line)


def test_tutorial(test):
    folder = test.folder / 'clone'
    clone(folder)
    blocks = BLOCK.findall(PAGE.read_text())
    test.true(len(blocks) > 10, 'the tutorial has hardly any blocks')
    terminal = Terminal(folder, test.folder / 'terminal.log')
    try:
        for kind, block in blocks:
            # /tmp may have somebody's thermometer already.
            getattr(terminal, kind.replace(' ', '_'))(block.replace('/tmp/', f'{test.sockets}/'))
        # What `./dev test system -R thermometer` of the last step runs.
        terminal.run('python3 -B tests/system/thermometer_test.py --outboard build/release/bin/outboard --work build/system/new\n')
    finally:
        terminal.close()
        shutil.rmtree(folder, ignore_errors=True)


harness.main(globals())
