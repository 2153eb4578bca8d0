#!/usr/bin/env python3
"""What `./dev test` does: builds the trees, runs the layers of tests, counts the cases. See ./dev test --help."""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

import gtest_programs

SOURCE = pathlib.Path(__file__).resolve().parent.parent
BUILD = SOURCE / 'build'
SANITIZERS = {
    'ASAN_OPTIONS': 'detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0',
    'UBSAN_OPTIONS': 'print_stacktrace=1',
    'TSAN_OPTIONS': 'halt_on_error=1:second_deadlock_stack=1',
    'ASAN_SYMBOLIZER_PATH': '/usr/bin/llvm-symbolizer-19',
    'TSAN_SYMBOLIZER_PATH': '/usr/bin/llvm-symbolizer-19',
}


@dataclasses.dataclass
class Count:
    passed: int = 0
    failures: list = dataclasses.field(default_factory=list)
    skips: list = dataclasses.field(default_factory=list)

    def add(self, other):
        self.passed += other.passed
        self.failures += other.failures
        self.skips += other.skips

    def line(self):
        return f'{self.passed} passed, {len(self.failures)} failed, {len(self.skips)} skipped'


class BuildFailed(Exception):
    """A tree could not be built; the compiler has said why."""


# Of the layer that runs: what went into building, in seconds.
building = 0.0


def build(tree, *targets):
    global building
    began = time.monotonic()
    done = subprocess.run([SOURCE / 'dev', 'build', tree, *targets], check=False)
    building += time.monotonic() - began
    if done.returncode != 0:
        raise BuildFailed(tree)


# --- Counting ----------------------------------------------------------------------------------------------------------


def cases_of(testcase, layer):
    """The cases of one CTest entry: one, or those that a system test has counted itself."""
    name = f'{layer}: {testcase.get("name")}'
    output = testcase.findtext('system-out') or ''
    count = Count()
    if re.search(r'^CASES \d+ \d+ \d+$', output, re.MULTILINE):
        for case, verdict, reason in re.findall(r'^CASE (\S+) (ok|fail|skip) ?(.*)$', output, re.MULTILINE):
            if verdict == 'ok':
                count.passed += 1
            else:
                (count.failures if verdict == 'fail' else count.skips).append(f'{name}: {case}: {reason}')
        return count
    status = testcase.get('status')
    if status == 'run':
        count.passed = 1
    elif testcase.find('skipped') is not None or status in ('notrun', 'disabled'):
        missing = 'Unable to find executable' in output or testcase.get('name', '').endswith('_NOT_BUILT')
        (count.failures if missing else count.skips).append(f'{name}: {skip_reason(output)}')
    else:
        count.failures.append(name)
    return count


def skip_reason(output):
    """What GoogleTest says after `Skipped`, or else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ['no reason given']
    return next((lines[i + 1] for i, line in enumerate(lines[:-1]) if line.endswith('Skipped')), lines[-1])


def read_junit(path, layer):
    count = Count()
    for testcase in xml.etree.ElementTree.parse(path).getroot().iter('testcase'):
        count.add(cases_of(testcase, layer))
    return count


# --- Layers ------------------------------------------------------------------------------------------------------------


def ctest(options, layer, tree, labels, jobs=None):
    """Runs the tests of a tree that have one of the labels."""
    report = BUILD / 'reports' / f'{layer}.xml'
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    command = ['ctest', '--test-dir', str(BUILD / tree), '-L', f'^({labels})$', '-j', str(jobs or options.j),
               '--output-on-failure', '--no-label-summary', '--no-tests=ignore', '--output-junit', str(report),
               '--test-output-size-passed', '4000000', '--test-output-size-failed', '4000000']
    command += ['-R', options.R] if options.R else []
    # A line for each test is too much when there are thousands; of a guest test one wants to see them.
    command += ['--progress'] if sys.stdout.isatty() and layer != 'system' else []
    quiet = not sys.stdout.isatty() and layer != 'system'
    done = subprocess.run(command, env={**os.environ, **SANITIZERS}, check=False, text=True,
                          stdout=subprocess.PIPE if quiet else None)
    if quiet:
        print(brief(done.stdout), flush=True)
    count = read_junit(report, layer) if report.exists() else Count()
    if done.returncode != 0 and not count.failures:
        count.failures.append(f'{layer}: ctest ended with status {done.returncode}')
    return count


def brief(output):
    """The output of CTest without its lines about tests that passed."""
    noise = re.compile(r'^\s*(Start\s+\d+:|\d+/\d+ Test\s+#\d+: .*(Passed|Skipped))|^Internal ctest|^Test project')
    return '\n'.join(line for line in output.splitlines() if line.strip() and not noise.match(line))


def layer_unit(options):
    build('release')
    return ctest(options, 'unit', 'release', 'unit|threads|fuzz')


def layer_cli(options):
    build('release')
    return ctest(options, 'cli', 'release', 'cli')


def layer_install(options):
    build('release')
    return ctest(options, 'install', 'release', 'install|lint')


def whole_programs(options, layer, tree, labels):
    """Starting a sanitized program takes longer than a test does: each runs all of its tests in one process."""
    count = Count()
    for verdicts in gtest_programs.run(BUILD / tree, labels, options.j, {**os.environ, **SANITIZERS}, options.R):
        count.passed += len(verdicts.passed)
        count.skips += [f'{layer}: {name}: {skip_reason(said)}' for name, said in verdicts.skipped.items()]
        for name, said in verdicts.failed.items():
            print(f'{name} failed:\n{said}', flush=True)
            count.failures.append(f'{layer}: {name}')
    return count


def layer_asan(options):
    build('asan-ubsan', 'outboard_unit_programs', 'outboard_threads_programs', 'outboard_fuzz_programs')
    count = whole_programs(options, 'asan', 'asan-ubsan', {'unit', 'threads'})
    count.add(ctest(options, 'asan', 'asan-ubsan', 'fuzz'))
    return count


def layer_tsan(options):
    build('tsan', 'outboard_threads_programs')
    return whole_programs(options, 'tsan', 'tsan', {'threads'})


def layer_tidy(options):
    if options.R:
        return Count()
    build('asan-ubsan', 'configure')
    command = [sys.executable, '-B', SOURCE / 'tests' / 'lint' / 'tidy.py', '-j', str(options.j)]
    ok = subprocess.run(command, check=False).returncode == 0
    return Count(passed=1) if ok else Count(failures=['tidy: clang-tidy has complaints'])


def layer_system(options):
    build('release')
    fetched = subprocess.run([SOURCE / 'tests' / 'system' / 'guest' / 'fetch.sh'], stdout=subprocess.PIPE, text=True,
                             check=False)
    if fetched.returncode == 0:
        versions = [line for line in (pathlib.Path(fetched.stdout.strip()) / '.manifest').read_text().splitlines()
                    if line.startswith(('qemu-system-x86_', 'linux-image-'))]
        print('  guest root: ' + ', '.join(versions), flush=True)
    return ctest(options, 'system', 'release', 'system', jobs=min(options.j, 2))


LAYERS = {'unit': layer_unit, 'cli': layer_cli, 'install': layer_install, 'asan': layer_asan, 'tsan': layer_tsan, 'tidy': layer_tidy,
          'system': layer_system}


def layer_iommufd(options):
    """Only when it is asked for: the kernel that it needs takes minutes to build."""
    build('release')
    guest = SOURCE / 'tests' / 'system' / 'guest'
    for script in ['fetch.sh', 'iommufd_kernel.sh']:
        if subprocess.run([guest / script], stdout=subprocess.DEVNULL, check=False).returncode != 0:
            return Count(failures=[f'iommufd: {script} failed'])
    command = [sys.executable, '-B', SOURCE / 'tests' / 'system' / 'vfio_iommufd.py', '--outboard',
               BUILD / 'release' / 'bin' / 'outboard', '--work', BUILD / 'release' / 'system' / 'vfio_iommufd']
    done = subprocess.run([*command, *([options.R] if options.R else [])], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end='', flush=True)
    count = Count()
    for case, verdict, reason in re.findall(r'^CASE (\S+) (ok|fail|skip) ?(.*)$', done.stdout, re.MULTILINE):
        if verdict == 'ok':
            count.passed += 1
        else:
            (count.failures if verdict == 'fail' else count.skips).append(f'iommufd: {case}: {reason}')
    if done.returncode != 0 and not count.failures:
        count.failures.append(f'iommufd: vfio_iommufd.py ended with status {done.returncode}')
    return count


def run_layer(name, options):
    global building
    print(f'--- {name}', flush=True)
    began, building = time.monotonic(), 0.0
    try:
        count = (layer_iommufd if name == 'iommufd' else LAYERS[name])(options)
    except BuildFailed as failure:
        count = Count(failures=[f'{name}: build/{failure} could not be built'])
    minutes = (time.monotonic() - began) / 60
    spent = f'{minutes:.1f} minutes' + (f' ({building / 60:.1f} of them building)' if building > 6 else '')
    print(f'--- {name}: {count.line()}, {spent}', flush=True)
    return count, f'{minutes:.1f}' + (f' (building {building / 60:.1f})' if building > 6 else '')


def layer(name):
    """An argument that is one of LAYERS. (`choices` would check the empty list, too.)"""
    if name not in LAYERS:
        raise argparse.ArgumentTypeError(f"there is no layer '{name}': " + ', '.join(LAYERS))
    return name


def main():
    parser = argparse.ArgumentParser(prog='./dev test')
    parser.add_argument('layers', nargs='*', type=layer, metavar='layer')
    parser.add_argument('-R', metavar='REGEX')
    parser.add_argument('-j', type=int, default=os.cpu_count())
    parser.add_argument('--iommufd', action='store_true')
    parser.add_argument('--list', action='store_true')
    options = parser.parse_args()
    if options.list:
        print('\n'.join(LAYERS))
        return
    total, minutes = Count(), {}
    started = time.monotonic()
    # A suite that is asked for by name runs alone, and counts in no other run.
    for name in ['iommufd'] if options.iommufd else LAYERS:
        if options.iommufd or not options.layers or name in options.layers:
            count, minutes[name] = run_layer(name, options)
            total.add(count)
    print('\nminutes: ' + ', '.join(f'{name} {spent}' for name, spent in minutes.items()) +
          f'; together {(time.monotonic() - started) / 60:.1f}')
    for text in total.skips:
        print(f'skipped: {text}')
    for text in total.failures:
        print(f'FAILED: {text}')
    print(total.line())
    sys.exit(1 if total.failures else 0)


if __name__ == '__main__':
    main()
