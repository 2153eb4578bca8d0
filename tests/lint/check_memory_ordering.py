#!/usr/bin/env python3
"""Checks docs/memory-ordering.md: each row (S1, P1, V1, J1, M1...) is named beside the code that keeps it, and code names no other.

A row is named in a comment, as `S7` or `Row S7`. A row whose order is `plain` is no single place and may be unnamed. A full fence
has its row beside it or in the lines above, and its function is one that tests/handshake takes the fence of.
"""

import re
import sys

import rooms

TABLE_ROW = re.compile(r'^\| ([SPMVJ]\d+) \|[^|]*\|[^|]*\| *([^|]*?) *\|', re.MULTILINE)
NAMED = re.compile(r'\b[SPMVJ][1-9]\d?\b')


def rows_of_page():
    return dict(TABLE_ROW.findall((rooms.SOURCE / 'docs' / 'memory-ordering.md').read_text()))


def rows_of_code():
    """{row: where it is named first}"""
    found = {}
    for path in sorted((rooms.SOURCE / 'outboard').rglob('*.?pp')):
        if path.name.endswith('_test.cpp'):
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for row in NAMED.findall(line.partition('//')[2]):
                found.setdefault(row, f'{path.relative_to(rooms.SOURCE)}:{number}')
    return found


FENCE = re.compile(r'^\s.*\bfull_fence\(\);')
FUNCTION = re.compile(r'^\w[\w<>:&*~ ]*\b(\w+::\w+)\(')
LINES_ABOVE = 12


def complaints_about_fences():
    tested = (rooms.SOURCE / 'tests' / 'handshake' / 'handshake_test.cpp').read_text()
    for path in sorted((rooms.SOURCE / 'outboard').rglob('*.cpp')):
        if path.name.endswith('_test.cpp'):
            continue
        lines = path.read_text().splitlines()
        function = ''
        for at, line in enumerate(lines):
            if match := FUNCTION.match(line):
                function = match[1]
            if not FENCE.match(line):
                continue
            where = f'{path.relative_to(rooms.SOURCE)}:{at + 1}'
            if not any(NAMED.search(near.partition('//')[2]) for near in lines[max(0, at - LINES_ABOVE):at + 1]):
                yield f'{where}: a full fence without a row of docs/memory-ordering.md'
            name = function.rpartition('::')[2]
            if f'::{name}"' not in tested and f'"{name}"' not in tested:
                yield f'{where}: tests/handshake does not take away the fence of {function}'


def main():
    page, code = rows_of_page(), rows_of_code()
    complaints = [f'{where}: {row} is no row of docs/memory-ordering.md' for row, where in code.items() if row not in page]
    complaints += [f'docs/memory-ordering.md: no code names {row}' for row, order in page.items()
                   if row not in code and order != 'plain']
    complaints += complaints_about_fences()
    if not page:
        complaints.append('docs/memory-ordering.md: no rows found')
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
