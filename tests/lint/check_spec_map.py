#!/usr/bin/env python3
"""Checks docs/spec-map.md: every test that it names exists, and so does every file.

Tests are named `program.Suite.Name`, in backquotes, without what a parameterised test has around it in CTest. A row says
`shown`, `not built` or `missing` in its last column; `shown` needs a test, and no row may be there twice. A case of a test
script is named `tests/PATH#function`. Each statement of the example device's chapter has a row.
"""

import re
import sys

import rooms

TEST = re.compile(r'\b(?:TYPED_)?TEST(?:_[PF])?\(\s*(\w+),\s*(\w+)\s*\)')
NAMED_TEST = re.compile(r'`(\w+_test\.\w+\.\w+)`')
NAMED_CASE = re.compile(r'`(tests/[\w/]+\.(?:py|sh))#(\w+)`')
NAMED_FILE = re.compile(r'`([\w/]+\.[ch]pp)`')
ROW = re.compile(r'^\| ([A-Z]+-[\w-]+) \|(.*)\|\s*$', re.MULTILINE)


def program_of(path):
    """The test program that a file is built into, as outboard_add_room and outboard_add_device name them."""
    parts = path.relative_to(rooms.SOURCE / 'outboard').parts
    room = f'device_{parts[1]}' if parts[0] == 'devices' and len(parts) == 3 else parts[0]
    return room + ('_threads_test' if path.name.endswith('_threads_test.cpp') else '_test')


def tests():
    return {f'{program_of(path)}.{suite}.{name}'
            for path in (rooms.SOURCE / 'outboard').rglob('*_test.cpp')
            for suite, name in TEST.findall(path.read_text())}


def complaints_about_row(row, text):
    status = text.rsplit('|', 1)[-1].strip()
    if not status.startswith(('shown', 'not built', 'missing')):
        yield f'{row}: the status "{status}" is none'
    if status.startswith('shown') and not NAMED_TEST.search(text) and not NAMED_CASE.search(text):
        yield f'{row}: shown, but no test is named'


def missing_cases(text):
    for name, function in NAMED_CASE.findall(text):
        path = rooms.SOURCE / name
        if not path.exists() or not re.search(rf'\b{function}\b', path.read_text()):
            yield f'there is no case {function} in {name}'


def statements():
    """The identifiers of the example device's chapter, each of which has a row."""
    chapter = rooms.SOURCE / 'outboard' / 'devices' / 'example' / 'specification.md'
    return set(re.findall(r'^- \*\*([DR]-EX-\d+)\*\*', chapter.read_text(), re.MULTILINE))


def main():
    text = (rooms.SOURCE / 'docs' / 'spec-map.md').read_text()
    known = tests()
    complaints = [f'there is no test {name}' for name in sorted(set(NAMED_TEST.findall(text)) - known)]
    complaints += [f'there is no file outboard/{name}' for name in sorted(set(NAMED_FILE.findall(text)))
                   if not (rooms.SOURCE / 'outboard' / name).exists()]
    complaints += missing_cases(text)
    rows = ROW.findall(text)
    ids = [row for row, _ in rows]
    complaints += [f'{statement} of the example device has no row' for statement in sorted(statements() - set(ids))]
    complaints += [f'{row} is there twice' for row in sorted({row for row in ids if ids.count(row) > 1})]
    for row, rest in rows:
        complaints += complaints_about_row(row, rest)
    if not rows:
        complaints.append('no rows found')
    for complaint in complaints:
        print(f'docs/spec-map.md: {complaint}', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
