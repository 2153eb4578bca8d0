#!/usr/bin/env python3
"""Checks docs/memory-ordering.md: each row (S1, P1, V1, J1, M1...) is named beside the code that keeps it, and code names no other.

A row is named in a comment, as `S7` or `Row S7`. A row whose order is `plain` is no single place and may be unnamed.
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


def main():
    page, code = rows_of_page(), rows_of_code()
    complaints = [f'{where}: {row} is no row of docs/memory-ordering.md' for row, where in code.items() if row not in page]
    complaints += [f'docs/memory-ordering.md: no code names {row}' for row, order in page.items()
                   if row not in code and order != 'plain']
    if not page:
        complaints.append('docs/memory-ordering.md: no rows found')
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
