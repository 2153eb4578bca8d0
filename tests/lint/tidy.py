#!/usr/bin/env python3
"""Runs clang-tidy on the files whose inputs changed since it last passed on them.

The inputs of a file: itself, our headers that it includes (directly or not), its compile command, .clang-tidy, and the
version of clang-tidy. When the file passes, a stamp of that name is left in ${XDG_CACHE_HOME:-~/.cache}/outboard/tidy, which
trees and clones share as they share ccache. Read are the sources of the library, the command, the examples, with the headers
that they include; and by itself each header that none of them includes.

Most of the time goes into the standard library's headers, which every source includes: sources with the same flags are read
as one. Where there is a complaint, and where sources cannot be compiled as one, halves are read, and in the end each source.
Two checks cannot be made of a batch: check_includes.py makes them by reading. --all reads each source by itself.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

import rooms

TIDY = 'clang-tidy-19'
TREE = rooms.SOURCE / 'build' / 'asan-ubsan'
# One command for each source, since clang-tidy reads a source as often as the file names it and several targets compile the
# same; and the batches. Inside the tree, where clang-tidy finds .clang-tidy.
COMMANDS = TREE / 'tidy'
BATCH = 10
# In a batch an include that another source has, too, is no fault, and a using declaration may be used by another source.
IN_A_BATCH = ['--checks=-readability-duplicate-include,-misc-unused-using-decls']
# How far the analyzer follows the paths of a function. Its default, 225000, makes it six times as slow: --all keeps that.
ANALYZER_NODES = ['--extra-arg=-Xclang', '--extra-arg=-analyzer-config', '--extra-arg=-Xclang', '--extra-arg=max-nodes=20000']
STAMPS = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'outboard' / 'tidy'
STAMP_DAYS = 30  # a stamp that nobody has asked for since goes


# A precompiled header makes clang-tidy no faster.
PRECOMPILED = (['-Xclang', '-include-pch', '-Xclang', None], ['-Xclang', '-include', '-Xclang', None], ['-Winvalid-pch'],
               ['-Xclang', '-fno-pch-timestamp'])


def without_precompiled(arguments):
    """The arguments of a compiler without those of a precompiled header. None above stands for any argument."""
    kept = []
    while arguments:
        for drop in PRECOMPILED:
            if [given for given, word in zip(arguments, drop) if word is not None] == [word for word in drop if word]:
                arguments = arguments[len(drop):]
                break
        else:
            kept.append(arguments[0])
            arguments = arguments[1:]
    return kept


def of_each_source(entry):
    """An entry of compile_commands.json; where CMake made one source of several (UNITY_BUILD), one for each of these."""
    given = pathlib.Path(entry['file'])
    arguments = without_precompiled(shlex.split(entry['command']))
    unity = given.parent.name == 'Unity'
    for file in re.findall(r'^#include "(.*)"$', given.read_text(), re.MULTILINE) if unity else [entry['file']]:
        yield {'file': file, 'directory': entry['directory'],
               'arguments': [file if argument == entry['file'] else argument for argument in arguments]}


@functools.cache
def settings():
    version = subprocess.run([TIDY, '--version'], capture_output=True, check=True).stdout
    return version + (rooms.SOURCE / '.clang-tidy').read_bytes()


def inputs_hash(entry, path):
    # Paths relative to the source tree: another clone of the same sources gives the same hash.
    digest = hashlib.sha256(settings() + '\0'.join(entry['arguments']).replace(str(rooms.SOURCE), '.').encode())
    for file in rooms.closure(path):
        digest.update(str(file.relative_to(rooms.SOURCE)).encode() + b'\0' + file.read_bytes())
    return digest.hexdigest()


def is_source(name):
    path = pathlib.Path(name)
    if not path.is_relative_to(rooms.SOURCE) or path.is_relative_to(TREE) or not path.exists():
        return False
    return path.relative_to(rooms.SOURCE).parts[0] in ('outboard', 'tools', 'examples') and not name.endswith('_test.cpp')


def wanted(entries):
    """(file to give to clang-tidy, source file that it stands for, entry)"""
    included = set()
    for name, entry in sorted(entries.items()):
        if is_source(name):
            included.update(rooms.closure(pathlib.Path(name)))
            yield pathlib.Path(name), pathlib.Path(name), entry
    checks = TREE / 'header_check'
    for name, entry in sorted(entries.items()):
        path = pathlib.Path(name)
        if path.is_relative_to(checks):
            header = rooms.SOURCE / 'outboard' / str(path.relative_to(checks)).removesuffix('.cpp')
            if header.exists() and header not in included:
                yield path, header, entry


@dataclasses.dataclass
class Job:
    path: pathlib.Path    # what clang-tidy is given
    source: pathlib.Path  # the file that this stands for
    entry: dict
    stamp: pathlib.Path


def read(path, depth):
    """What clang-tidy complains of in a file, or None."""
    commands = path.parent if path.is_relative_to(COMMANDS) else COMMANDS
    done = subprocess.run([TIDY, '--quiet', '-p', str(commands), *depth, str(path)], capture_output=True, text=True,
                          check=False)
    if done.returncode == 0:
        return None
    return done.stdout + '\n'.join(line for line in done.stderr.splitlines() if 'error' in line)


def run(batch, depth):
    """[(source, complaints)] of the sources of a batch. Where there are some, its halves are read; in the end, each source."""
    complaints = (read(batch[0].path, depth) if len(batch) == 1 else
                  read(batch_source(batch), [*depth, *IN_A_BATCH]))
    if complaints is None:
        for job in batch:
            job.stamp.touch()
        return []
    if len(batch) == 1:
        return [(batch[0].source, complaints)]
    middle = len(batch) // 2
    return run(batch[:middle], depth) + run(batch[middle:], depth)


def flags(entry):
    """The arguments that are not of one source alone."""
    arguments = [argument for argument in entry['arguments'] if argument != entry['file']]
    output = arguments.index('-o')
    return tuple(arguments[:output] + arguments[output + 2:])


def batches(jobs, size):
    alike = {}
    for job in jobs:
        alike.setdefault(flags(job.entry), []).append(job)
    for same in alike.values():
        count = -(-len(same) // size)
        yield from (same[i::count] for i in range(count))


def batch_source(batch):
    """Writes a source that holds those of a batch, in a folder of its own with its compile_commands.json."""
    first = batch[0]
    folder = COMMANDS / hashlib.sha256('\0'.join(str(job.path) for job in batch).encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    path = folder / 'batch.cpp'
    path.write_text('\n'.join(job.path.read_text() for job in batch))
    write_commands(folder, [first.entry | {'file': str(path), 'arguments': [
        str(path) if argument == first.entry['file'] else argument for argument in first.entry['arguments']]}])
    return path


def write_commands(folder, entries):
    (folder / 'compile_commands.json').write_text(json.dumps(list(entries)))


def passed_before(stamp):
    """Whether there is a stamp, which is thereby kept for longer."""
    if not stamp.exists():
        return False
    stamp.touch()
    return True


def drop_old_stamps():
    for stamp in STAMPS.iterdir():
        if time.time() - stamp.stat().st_mtime > STAMP_DAYS * 86400:
            stamp.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('-j', type=int, default=2)
    parser.add_argument('--all', action='store_true', help='also files that have passed as they are, and each path to its end')
    parser.add_argument('files', nargs='*', help='only files whose path contains one of these')
    options = parser.parse_args()
    STAMPS.mkdir(parents=True, exist_ok=True)
    drop_old_stamps()
    entries = {entry['file']: entry for each in json.loads((TREE / 'compile_commands.json').read_text())
               for entry in of_each_source(each)}
    jobs = []
    for path, source, entry in wanted(entries):
        name = str(source.relative_to(rooms.SOURCE))
        if options.files and not any(part in name for part in options.files):
            continue
        stamp = STAMPS / inputs_hash(entry, source)
        if options.all or not passed_before(stamp):
            jobs.append(Job(path, source, entry, stamp))
    shutil.rmtree(COMMANDS, ignore_errors=True)
    COMMANDS.mkdir()
    write_commands(COMMANDS, entries.values())
    depth = [] if options.all else ANALYZER_NODES
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        for complaints in pool.map(lambda batch: run(batch, depth), batches(jobs, 1 if options.all else BATCH)):
            for source, text in complaints:
                failed += 1
                print(f'{source.relative_to(rooms.SOURCE)}:\n{text}', flush=True)
    print(f'clang-tidy: {len(jobs)} files read, {failed} with complaints')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
