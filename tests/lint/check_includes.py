#!/usr/bin/env python3
"""Reads every include of the library and complains about one that the table of rooms does not allow.

Headers must be guarded by #pragma once. Files *_test.cpp and *_test.hpp are exempt. Usage: check_includes.py [SOURCE_FOLDER]
"""

import pathlib
import re
import sys

import rooms


def place_of(parts):
    """('blk', 'devices') of devices/blk/..., (None, 'pci') of pci/...: which device, which room."""
    if parts[0] == 'devices' and len(parts) > 2:
        return parts[1], 'devices'
    return None, parts[0]


def complaint(path, quote, name, table):
    """What is wrong with an include of outboard/PATH, or None."""
    device, room = place_of(path.parts)
    if room not in table:
        return f"there is no room '{room}' in the table"
    if quote == '"':
        return f'write <outboard/...>, not "{name}"'
    if not name.startswith('outboard/'):
        return None
    other_device, other = place_of(pathlib.PurePath(name).parts[1:])
    if '..' in name.split('/'):
        return f'<{name}> leaves its folder'
    if other == room:
        return None if device == other_device else f"device '{device}' may not include device '{other_device}'"
    if other not in table[room]:
        return f"room '{room}' may not include '{other}' (cmake/OutboardRoomTable.cmake)"
    return None


def check(source):
    table = rooms.may_include(source)
    library = source / 'outboard'
    for path in sorted([*library.rglob('*.hpp'), *library.rglob('*.cpp')]):
        if path.name.endswith(('_test.cpp', '_test.hpp')):
            continue
        if path.suffix == '.hpp' and not re.search('^#pragma once$', path.read_text(), re.MULTILINE):
            yield f'{path.relative_to(source)}:1: has no #pragma once'
        for number, quote, name in rooms.includes(path):
            if text := complaint(path.relative_to(library), quote, name, table):
                yield f'{path.relative_to(source)}:{number}: {text}'


def main():
    source = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else rooms.SOURCE
    complaints = list(check(source))
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
