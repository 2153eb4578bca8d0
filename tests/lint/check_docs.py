#!/usr/bin/env python3
"""Checks the Markdown files: relative links lead somewhere, and quoted code is what the file says.

A link into another file may say where: `[text](PATH.md#a-heading)` needs that heading (as GitHub makes its anchor),
`[text](PATH.cpp#Class::name)` needs that name in the code of the file, comments apart. [`Class::name`](PATH.cpp#L12) leads to the
line where that name is defined, or to one so near that both are on the screen; --fix puts such links right. A link whose text
is the identifier of a statement (`D-EX-1`) leads to a file that has it. A test named in backquotes,
`Suite.Name`, exists, and so does a `case` in `script.sh` of tests/system. docs/headers.md names each header that is for users,
and no other.

A fenced block after a line `<!-- from: PATH -->` must occur in that file (PATH from the top of the tree) as it stands.
Code in comments of the block's own indentation does not matter: blocks are compared with common indentation removed.
"""

import argparse
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
LINE = re.compile(r'L(\d+)')
NEAR = 15  # lines
TEST = re.compile(r'\bTEST(?:_[FP])?\(\s*(\w+),\s*(\w+)\s*\)')
HEADER = re.compile(r'`(\w+(?:/\w+)+\.hpp)`')
NAMED_TEST = re.compile(r'`([A-Z]\w+\.[A-Z]\w+)`')
NAMED_CASE = re.compile(r'`(\w+)` in `(\w+\.(?:sh|py))`')


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


def line_of(name, text):
    """The line of code where a name is defined; where it stands first, if that does not show."""
    code = COMMENT.sub(lambda comment: re.sub(r'[^\n]', ' ', comment[0]), text)
    lines = [(number, line) for number, line in enumerate(code.splitlines(), start=1)
             if re.search(rf'(?<![\w:]){re.escape(name)}(?!\w)', line)]
    for pattern in (r'\S.*[^;]$', r'  \S.*\{'):  # at the top of the file, in a class
        for number, line in lines:
            if re.match(pattern, line.rstrip()):
                return number
    return lines[0][0] if lines else None


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
    if target.suffix in CODE and (line := LINE.fullmatch(fragment)):
        name = label.strip('`')
        now = line_of(name, text)
        if now is None:
            yield f'the link to {link}: there is no {name} in it'
        elif abs(now - int(line[1])) > NEAR:
            yield f'the link to {link}: {name} is in line {now} (check_docs.py --fix)'
        return
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


@functools.cache
def known_tests():
    return {'.'.join(test) for room in ('outboard', 'tests') for path in (rooms.SOURCE / room).rglob('*.cpp')
            for test in TEST.findall(path.read_text())}


def missing_tests(path, text):
    where = path.relative_to(rooms.SOURCE)
    for name in NAMED_TEST.findall(text):
        if name not in known_tests():
            yield f'{where}: there is no test {name}'
    for case, script in NAMED_CASE.findall(text):
        file = rooms.SOURCE / 'tests' / 'system' / script
        if not file.exists() or not re.search(rf'\b{case}\b', file.read_text()):
            yield f'{where}: there is no case {case} in {script}'


def headers_for_users(folder):
    """Those of outboard/ that are neither internal nor the tests' own, as ROOM/NAME.hpp."""
    for path in folder.rglob('*.hpp'):
        if path.parent.name != 'internal' and not path.name.endswith('_test.hpp'):
            yield str(path.relative_to(folder))


def device_of(name):
    """X of devices/X/..."""
    return name.split('/')[1] if name.startswith('devices/') else None


def wrong_headers(text, headers):
    """What is wrong with the guide to headers.

    devices/NAME/x.hpp there is x.hpp of each device type of which the guide names no header: `outboard new` has made it.
    """
    named = HEADER.findall(text)
    known = {device_of(name) for name in named}
    alike = {name for name in named if device_of(name) == 'NAME'}
    named = [name for name in named if name not in alike]
    headers = [name for name in headers
               if device_of(name) in known or name.replace(f'/{device_of(name)}/', '/NAME/', 1) not in alike]
    for name in sorted(set(headers) - set(named)):
        yield f'does not name {name}, which is for users'
    for name in sorted(set(named) - set(headers)):
        yield f'there is no header {name} for users'
    for name in sorted({name for name in named if named.count(name) > 1}):
        yield f'names {name} twice'


def with_right_lines(path, text):
    """The text of a page, its links leading to the very lines."""
    def right(match):
        name, _, fragment = match[2].partition('#')
        target = path.parent / name
        if not LINE.fullmatch(fragment) or target.suffix not in CODE or not target.is_file():
            return match[0]
        now = line_of(match[1].strip('`'), target.read_text(errors='replace'))
        return f'[{match[1]}]({name}#L{now})' if now else match[0]
    return LINK.sub(right, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fix', action='store_true', help='put links to lines right')
    args = parser.parse_args()
    complaints = []
    for path in markdown_files():
        text = path.read_text()
        if args.fix and (right := with_right_lines(path, text)) != text:
            path.write_text(right)
            text = right
        complaints += [*broken_links(path, text), *wrong_quotes(path, text), *missing_tests(path, text)]
    guide = rooms.SOURCE / 'docs' / 'headers.md'
    complaints += [f'docs/headers.md: {complaint}' for complaint in
                   wrong_headers(guide.read_text(), list(headers_for_users(rooms.SOURCE / 'outboard')))]
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
