#!/usr/bin/env python3
"""Checks the Markdown files: relative links lead somewhere, and quoted code is what the file says.

A fenced block after a line `<!-- from: PATH -->` must occur in that file (PATH from the top of the tree) as it stands.
Code in comments of the block's own indentation does not matter: blocks are compared with common indentation removed.
"""

import re
import subprocess
import sys
import textwrap

import rooms

LINK = re.compile(r'\]\(([^)\s]+)\)')
QUOTE = re.compile(r'<!-- from: (\S+) -->\s*\n```[^\n]*\n(.*?)^```', re.MULTILINE | re.DOTALL)
FENCE = re.compile(r'^```.*?^```', re.MULTILINE | re.DOTALL)


def markdown_files():
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '--', '*.md'], cwd=rooms.SOURCE,
                            capture_output=True, text=True, check=True).stdout
    return [rooms.SOURCE / name for name in listed.splitlines() if (rooms.SOURCE / name).exists()]


def broken_links(path, text):
    for target in LINK.findall(FENCE.sub('', text)):
        if re.match(r'[a-z]+:|#', target):
            continue
        if not (path.parent / target.split('#')[0]).exists():
            yield f'{path.relative_to(rooms.SOURCE)}: the link to {target} leads nowhere'


def wrong_quotes(path, text):
    for name, block in QUOTE.findall(text):
        file = rooms.SOURCE / name
        where = path.relative_to(rooms.SOURCE)
        if not file.exists():
            yield f'{where}: quotes {name}, which does not exist'
        elif not occurs(block, file.read_text()):
            yield f'{where}: the code quoted from {name} is not in it any more'


def occurs(block, text):
    block = textwrap.dedent(block).strip('\n').splitlines()
    lines = text.splitlines()
    starts = range(len(lines) - len(block) + 1)
    return any(textwrap.dedent('\n'.join(lines[i:i + len(block)])).splitlines() == block for i in starts)


def main():
    complaints = []
    for path in markdown_files():
        text = path.read_text()
        complaints += [*broken_links(path, text), *wrong_quotes(path, text)]
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
