"""Runs GoogleTest programs whole, for trees in which starting a program once for each test costs more than the tests do.

What they are is asked of CTest, which runs each test in a process of its own; so does the unit layer, and a test that passes only
after another one is found there.
"""

import collections
import concurrent.futures
import dataclasses
import json
import re
import subprocess

FILTER = '--gtest_filter='
MARK = re.compile(r'\[( RUN      |       OK |  FAILED  |  SKIPPED )\] ([\w/]+\.[\w/]+)')
# A program that runs for longer than both together hangs.
SECONDS_A_PROGRAM = 120
SECONDS_A_TEST = 2


@dataclasses.dataclass
class Verdicts:
    passed: list = dataclasses.field(default_factory=list)
    failed: dict = dataclasses.field(default_factory=dict)  # name: output
    skipped: dict = dataclasses.field(default_factory=dict)


def programs(tree, labels, pattern=None):
    """{(program, its own arguments, folder): tests of it} of a tree, for the labels and test names that match."""
    listed = subprocess.run(['ctest', '--test-dir', str(tree), '--show-only=json-v1'], capture_output=True, text=True, check=True)
    found = collections.defaultdict(dict)
    for test in json.loads(listed.stdout)['tests']:
        command = test.get('command', [])
        properties = {entry['name']: entry['value'] for entry in test.get('properties', [])}
        if len(command) < 2 or not command[1].startswith(FILTER) or not set(properties.get('LABELS', [])) & set(labels):
            continue
        if pattern and not re.search(pattern, test['name']):
            continue
        arguments = tuple(word for word in command[2:] if not word.startswith('--gtest_'))
        key = (command[0], arguments, properties['WORKING_DIRECTORY'])
        found[key][command[1].removeprefix(FILTER)] = test['name']
    return found


def verdicts_of(output):
    """What a run said: Verdicts by GoogleTest's names, and the test that had begun and not ended."""
    verdicts, running, began = Verdicts(), None, 0
    for match in MARK.finditer(output):
        kind, name = match[1].strip(), match[2]
        if kind == 'RUN':
            running, began = name, match.start()
        elif name != running:
            continue  # the summary at the end names them again
        else:
            said = output[began:match.start()]
            if kind == 'OK':
                verdicts.passed.append(name)
            else:
                (verdicts.failed if kind == 'FAILED' else verdicts.skipped)[name] = said
            running = None
    return verdicts, (running, output[began:]) if running else None


def start(key, tests, environment):
    program, arguments, folder = key
    chosen = [f'{FILTER}{":".join(tests)}']
    process = subprocess.Popen([program, *arguments, *chosen, '--gtest_also_run_disabled_tests', '--gtest_color=no'], cwd=folder,
                               env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
    limit = SECONDS_A_PROGRAM + SECONDS_A_TEST * len(tests)
    try:
        output, _ = process.communicate(timeout=limit)
        return output, process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return f'{output}\nstill running after {limit} s: killed', None


def run_program(key, tests, environment):
    """Verdicts by CTest's names. A program that dies fails the test that ran, and is started again for those after it."""
    verdicts, left = Verdicts(), dict(tests)
    while left:
        output, status = start(key, left, environment)
        some, broken = verdicts_of(output)
        if broken:
            some.failed[broken[0]] = broken[1]
        for name in some.passed:
            verdicts.passed.append(left.pop(name))
        for kind in ('failed', 'skipped'):
            for name, said in getattr(some, kind).items():
                getattr(verdicts, kind)[left.pop(name)] = said
        if left and not broken:
            # It ended before the others, or never began one.
            verdicts.failed.update({name: f'did not run: status {status}\n{output[-2000:]}' for name in left.values()})
            return verdicts
        if not left and not broken and status != 0 and not some.failed:
            # A leak, say: found when all tests are over.
            verdicts.failed[f'{key[0]} {" ".join(key[1])}'] = f'status {status} after its tests\n{output[-8000:]}'
    return verdicts


def run(tree, labels, jobs, environment, pattern=None):
    """Runs them, the largest first; yields the Verdicts of each."""
    found = sorted(programs(tree, labels, pattern).items(), key=lambda item: -len(item[1]))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda item: run_program(*item, environment), found)
