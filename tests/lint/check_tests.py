#!/usr/bin/env python3
"""Checks the names of tests, and that comments refer to something that is in the repository.

A name has fewer than 60 characters. A test of a row of docs/spec-map.md begins with the row: `VR21_...` for VR-21, and the row
exists. `Row21_...` does not say which table is meant. Comments refer to docs/spec-map.md or to a specification, not to
"reference 7.3".
"""

import re
import sys

import rooms

MAX_NAME = 59
TEST = re.compile(r'\b(?:TYPED_)?TEST(?:_[PF])?\(\s*(\w+),\s*(\w+)\s*\)')
CASE = re.compile(r'^def (test_\w+)\(', re.MULTILINE)
ROW = re.compile(r'(?:^|_)(VU|VD|VR|VDUSE|VFIO|CFG|EXP)(\d+(?:And\d+)*)_')
OLD_ROW = re.compile(r'(?:^|_)Row[0-9A-Z]')
TABLE_ROW = re.compile(r'^\| ([A-Z]+-\d+) \|', re.MULTILINE)
DANGLING = re.compile(r'\b[Rr]eference [0-9]+(?:\.[0-9]+|[,;:]| of)|\b(?:virtio|vduse|vfio-pci|vfio-user) (?:notes|reference)\b|'
                      r'\brow [0-9]+ of the (?:reference|notes)\b')


def rows():
    return set(TABLE_ROW.findall((rooms.SOURCE / 'docs' / 'spec-map.md').read_text()))


def complaints_about_name(name, known):
    if len(name) > MAX_NAME:
        yield f'{name} has {len(name)} characters: at most {MAX_NAME}'
    if OLD_ROW.search(name):
        yield f'{name} does not name the table of its row: VR21_..., not Row21_... (docs/spec-map.md)'
    for table, numbers in ROW.findall(name):
        for number in numbers.split('And'):
            if f'{table}-{number}' not in known:
                yield f'{name}: docs/spec-map.md has no row {table}-{number}'


def complaints_about_text(text, known):
    for name in [name for _, name in TEST.findall(text)] + CASE.findall(text):
        yield from complaints_about_name(name, known)
    for number, line in enumerate(text.splitlines(), start=1):
        if found := DANGLING.search(line):
            yield f'line {number}: "{found[0]}" is not in the repository: name docs/spec-map.md or a specification'


def files():
    return [path for folder in ('outboard', 'tests', 'tools', 'bench', 'examples', 'linux', 'templates')
            for path in sorted((rooms.SOURCE / folder).rglob('*'))
            if path.suffix in {'.cpp', '.hpp', '.c', '.h', '.py', '.sh'} and path.parent != rooms.SOURCE / 'tests' / 'lint']


def main():
    known = rows()
    complaints = [f'{path.relative_to(rooms.SOURCE)}: {complaint}'
                  for path in files() for complaint in complaints_about_text(path.read_text(), known)]
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
