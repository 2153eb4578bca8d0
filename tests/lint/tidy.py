#!/usr/bin/env python3
"""Runs clang-tidy on the files whose inputs changed since it last passed on them.

The inputs of a file: itself, our headers that it includes (directly or not), its compile command, .clang-tidy, and the
version of clang-tidy. Their hash is kept in build/tidy when the file passes. Read are the sources of the library, the
command, the examples; and each header that no source of the same name brings along.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import json
import subprocess
import sys

import rooms

TIDY = 'clang-tidy-19'
TREE = rooms.SOURCE / 'build' / 'asan-ubsan'
STAMPS = rooms.SOURCE / 'build' / 'tidy'


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
    digest = hashlib.sha256(settings() + entry['command'].encode())
    for file in closure(path):
        digest.update(str(file).encode() + b'\0' + file.read_bytes())
    return digest.hexdigest()


def wanted(entries):
    """(file to give to clang-tidy, source file that it stands for, entry)"""
    checks = TREE / 'header_check'
    for name, entry in sorted(entries.items()):
        path = rooms.pathlib.Path(name)
        if path.is_relative_to(checks):
            header = rooms.SOURCE / 'outboard' / str(path.relative_to(checks)).removesuffix('.cpp')
            if header.exists() and not header.with_suffix('.cpp').exists():
                yield path, header, entry
        elif path.is_relative_to(rooms.SOURCE) and not path.is_relative_to(TREE) and path.exists():
            top = path.relative_to(rooms.SOURCE).parts[0]
            if top in ('outboard', 'tools', 'examples') and not name.endswith('_test.cpp'):
                yield path, path, entry


def run(job):
    path, source, entry, stamp, key = job
    done = subprocess.run([TIDY, '--quiet', '-p', str(TREE), str(path)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        stamp.write_text(key)
        return source, ''
    return source, done.stdout + '\n'.join(line for line in done.stderr.splitlines() if 'error' in line)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('-j', type=int, default=2)
    parser.add_argument('--all', action='store_true', help='also files that have passed as they are')
    parser.add_argument('files', nargs='*', help='only files whose path contains one of these')
    options = parser.parse_args()
    STAMPS.mkdir(parents=True, exist_ok=True)
    entries = {entry['file']: entry for entry in json.loads((TREE / 'compile_commands.json').read_text())}
    jobs = []
    for path, source, entry in wanted(entries):
        name = str(source.relative_to(rooms.SOURCE))
        if options.files and not any(part in name for part in options.files):
            continue
        stamp, key = STAMPS / name.replace('/', '__'), inputs_hash(entry, source)
        if options.all or not stamp.exists() or stamp.read_text() != key:
            jobs.append((path, source, entry, stamp, key))
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
