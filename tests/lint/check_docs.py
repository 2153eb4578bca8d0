#!/usr/bin/env python3
"""Checks the Markdown files: relative links lead somewhere, and quoted code is what the file says.

A link into another file may say where: `[text](PATH.md#a-heading)` needs that heading (as GitHub makes its anchor),
`[text](PATH.cpp#Class::name)` needs that name in the code of the file, comments apart. A link whose text is the identifier of
a statement (`D-EX-1`) leads to a file that has it.

A fenced block after a line `<!-- from: PATH -->` must occur in that file (PATH from the top of the tree) as it stands.
Code in comments of the block's own indentation does not matter: blocks are compared with common indentation removed.
"""

import functools
import re
import subprocess
import sys
import textwrap

import rooms

LINK = re.compile(r'\[([^\]]*)\]\(([^)\s]+)\)')
QUOTE = re.compile(r'<!-- from: (\S+) -->\s*\n```[^\n]*\n(.*?)^```', re.MULTILINE | re.DOTALL)
FENCE = re.compile(r'^```.*?^```', re.MULTILINE | re.DOTALL)
HEADING = re.compile(r'^#+ (.*?)\s*$', re.MULTILINE)
STATEMENT = re.compile(r'\*?\*?([DR]-[A-Z]+-\d+)\*?\*?')
CODE = {'.c', '.h', '.cpp', '.hpp'}
COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/', re.DOTALL)


def markdown_files():
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '--', '*.md'], cwd=rooms.SOURCE,
                            capture_output=True, text=True, check=True).stdout
    return [rooms.SOURCE / name for name in listed.splitlines() if (rooms.SOURCE / name).exists()]


def anchor(heading):
    """What GitHub makes of a heading."""
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).lower()
    return re.sub(r'[^\w\- ]', '', text).replace(' ', '-')


@functools.cache
def anchors(text):
    seen, found = {}, set()
    for heading in HEADING.findall(FENCE.sub('', text)):
        name = anchor(heading)
        count = seen[name] = seen.get(name, -1) + 1
        found.add(f'{name}-{count}' if count else name)
    return found


def names_something(suffix, text, fragment):
    if suffix == '.md':
        return fragment in anchors(text)
    if suffix in CODE:
        return re.search(rf'(?<!\w){re.escape(fragment)}(?!\w)', COMMENT.sub('', text)) is not None
    return True


def complaints_about_link(path, label, link):
    """`label` and `link` as they stand in the file `path`."""
    if re.match(r'[a-z]+:', link):
        return
    name, _, fragment = link.partition('#')
    target = path.parent / name if name else path
    if not target.exists():
        yield f'the link to {link} leads nowhere'
        return
    if not target.is_file():
        return
    text = target.read_text(errors='replace')
    if fragment and not names_something(target.suffix, text, fragment):
        yield f'the link to {link}: there is no {fragment} in it'
    statement = STATEMENT.fullmatch(label)
    if statement and statement[1] not in text:
        yield f'the link to {link}: it says nothing of {statement[1]}'


def broken_links(path, text):
    for label, link in LINK.findall(FENCE.sub('', text)):
        for complaint in complaints_about_link(path, label, link):
            yield f'{path.relative_to(rooms.SOURCE)}: {complaint}'


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
