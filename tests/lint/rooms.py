"""The table of rooms, read from cmake/OutboardRoomTable.cmake, and the includes of a file."""

import functools
import pathlib
import re

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def may_include(source=SOURCE):
    """{room: the rooms it may include}"""
    text = (source / 'cmake' / 'OutboardRoomTable.cmake').read_text()
    lines = re.findall(r'^set\(OUTBOARD_MAY_INCLUDE_(\w+)([^)]*)\)', text, re.MULTILINE)
    return {room: set(allowed.split()) for room, allowed in lines}


def includes(path):
    """(line number, '<' or '"', name) of each include of a file."""
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), start=1):
        if match := INCLUDE.match(line):
            yield number, match.group(1), match.group(2)


OURS = ('outboard', 'tools', 'tests')


@functools.cache
def included(path):
    """The names that a file includes; none of a file that is not there."""
    return tuple(name for _, _, name in includes(path)) if path.exists() else ()


@functools.cache
def closure(path, source=SOURCE):
    """A file and all of our files that it includes, directly or not."""
    seen, todo = set(), [path]
    while todo:
        file = todo.pop()
        if file in seen or not file.exists():
            continue
        seen.add(file)
        todo += [source / name for name in included(file) if name.split('/')[0] in OURS]
    return sorted(seen)
