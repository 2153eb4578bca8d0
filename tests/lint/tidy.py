#!/usr/bin/env python3
"""Runs clang-tidy on the files whose inputs changed since it last passed on them.

The inputs of a file: itself, our headers that it includes (directly or not), its compile command, .clang-tidy, and the
version of clang-tidy. When the file passes, a stamp of that name is left in ${XDG_CACHE_HOME:-~/.cache}/outboard/tidy, which
trees and clones share as they share ccache. Read are the sources of the library, the command, the examples, with the headers
that they include; and by itself each header that none of them includes.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

import rooms

TIDY = 'clang-tidy-19'
TREE = rooms.SOURCE / 'build' / 'asan-ubsan'
# One command for each source. clang-tidy reads a source as often as the file names it, and several targets compile the same.
COMMANDS = TREE / 'tidy'
# How far the analyzer follows the paths of a function. Its default, 225000, makes it three times as slow: --all keeps that.
ANALYZER_NODES = ['--extra-arg=-Xclang', '--extra-arg=-analyzer-config', '--extra-arg=-Xclang', '--extra-arg=max-nodes=50000']
STAMPS = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'outboard' / 'tidy'
STAMP_DAYS = 30  # a stamp that nobody has asked for since goes


@functools.cache
def closure(path):
    """A file and all of our headers that it includes."""
    seen, todo = set(), [path]
    while todo:
        file = todo.pop()
        if file in seen or not file.exists():
            continue
        seen.add(file)
        todo += [rooms.SOURCE / name for _, _, name in rooms.includes(file) if name.split('/')[0] in ('outboard', 'tools')]
    return sorted(seen)


@functools.cache
def settings():
    version = subprocess.run([TIDY, '--version'], capture_output=True, check=True).stdout
    return version + (rooms.SOURCE / '.clang-tidy').read_bytes()


def inputs_hash(entry, path):
    # Paths relative to the source tree: another clone of the same sources gives the same hash.
    digest = hashlib.sha256(settings() + entry['command'].replace(str(rooms.SOURCE), '.').encode())
    for file in closure(path):
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
            included.update(closure(pathlib.Path(name)))
            yield pathlib.Path(name), pathlib.Path(name), entry
    checks = TREE / 'header_check'
    for name, entry in sorted(entries.items()):
        path = pathlib.Path(name)
        if path.is_relative_to(checks):
            header = rooms.SOURCE / 'outboard' / str(path.relative_to(checks)).removesuffix('.cpp')
            if header.exists() and header not in included:
                yield path, header, entry


def run(job):
    path, source, _, stamp, depth = job
    done = subprocess.run([TIDY, '--quiet', '-p', str(COMMANDS), *depth, str(path)], capture_output=True, text=True,
                          check=False)
    if done.returncode == 0:
        stamp.touch()
        return source, ''
    return source, done.stdout + '\n'.join(line for line in done.stderr.splitlines() if 'error' in line)


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
    entries = {entry['file']: entry for entry in json.loads((TREE / 'compile_commands.json').read_text())}
    COMMANDS.mkdir(exist_ok=True)
    (COMMANDS / 'compile_commands.json').write_text(json.dumps(list(entries.values())))
    jobs = []
    for path, source, entry in wanted(entries):
        name = str(source.relative_to(rooms.SOURCE))
        if options.files and not any(part in name for part in options.files):
            continue
        stamp = STAMPS / inputs_hash(entry, source)
        if options.all or not passed_before(stamp):
            jobs.append((path, source, entry, stamp, [] if options.all else ANALYZER_NODES))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        for source, complaints in pool.map(run, jobs):
            if complaints:
                failed += 1
                print(f'{source.relative_to(rooms.SOURCE)}:\n{complaints}', flush=True)
    print(f'clang-tidy: {len(jobs)} files read, {failed} with complaints')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
