#!/usr/bin/env python3
"""Reads every include of the library and complains about one that the table of rooms does not allow.

The same for the command: a verb's folder includes no other verb's, and a slow library is included by one file. What users
are shown includes no internal header. No include stands twice, and no source declares to use a name that it does not use.

Headers must be guarded by #pragma once. Files *_test.cpp and *_test.hpp are exempt. Usage: check_includes.py [SOURCE_FOLDER]
"""

import pathlib
import re
import sys

import rooms


COMMAND = pathlib.PurePath('tools/outboard')
# What is slow to compile, and the file of the command that stands in front of it.
FRONTS = {'CLI': 'verb.cpp', 'nlohmann': 'json.cpp', 'spdlog': 'stderr_log.cpp'}


SIDES = {'device': 'devices', 'driver': 'drivers'}


def place_of(parts):
    """('blk', 'devices') of devices/blk/..., (None, 'pci') of pci/...: which device, which room.

    'drivers' for a driver's files, 'devices' for the others of a device's folder.
    """
    if parts[0] == 'devices' and len(parts) > 2:
        return parts[1], 'drivers' if side_of(parts) == 'driver' else 'devices'
    return None, parts[0]


def side_of(parts):
    """'device', 'driver', or None for what both sides share: devices/blk/layout.hpp."""
    name = re.split('[_.]', parts[-1])[0]
    return name if name in SIDES else None


def complaint(path, quote, name, table):
    """What is wrong with an include of outboard/PATH, or None."""
    device, room = place_of(path.parts)
    if room not in table:
        return f"there is no room '{room}' in the table"
    if quote == '"':
        return f'write <outboard/...>, not "{name}"'
    if name.startswith('tests/'):
        return f'<{name}> is for tests'
    if not name.startswith('outboard/'):
        return None
    other_parts = pathlib.PurePath(name).parts[1:]
    other_device, other = place_of(other_parts)
    if '..' in name.split('/'):
        return f'<{name}> leaves its folder'
    if device and device == other_device:
        sides = {side_of(path.parts), side_of(other_parts)}
        return 'a device and its driver share only what is of neither side' if sides == set(SIDES) else None
    if other == 'drivers':
        other = 'devices'
    if other == room:
        return None if device == other_device else f"device '{device}' may not include device '{other_device}'"
    if other not in table[room]:
        return f"room '{room}' may not include '{other}' (cmake/OutboardRoomTable.cmake)"
    return None


def command_complaint(path, quote, name, _table):
    """The same for an include of tools/outboard/PATH."""
    if quote == '"':
        return f'write <tools/outboard/...>, not "{name}"'
    front = FRONTS.get(name.split('/')[0])
    if front not in (None, str(path)):
        return f'{front} is there to include <{name}>'
    if not pathlib.PurePath(name).is_relative_to(COMMAND):
        return None
    verb = pathlib.PurePath(name).relative_to(COMMAND).parts[:-1]
    if verb in ((), path.parts[:-1]) or str(path) == 'main.cpp':
        return None
    return f"<{name}> is of verb '{verb[0]}'"


def check_folder(source, folder, complain, table):
    for path in sorted([*folder.rglob('*.hpp'), *folder.rglob('*.cpp')]):
        if path.name.endswith(('_test.cpp', '_test.hpp')):
            continue
        if path.suffix == '.hpp' and not re.search('^#pragma once$', path.read_text(), re.MULTILINE):
            yield f'{path.relative_to(source)}:1: has no #pragma once'
        for number, quote, name in rooms.includes(path):
            if text := complain(path.relative_to(folder), quote, name, table):
                yield f'{path.relative_to(source)}:{number}: {text}'


# What users read, to do the same.
SHOWN = ('examples', 'templates')


USING = re.compile(r'^using (?:\w+::)+(\w+);', re.MULTILINE)
COMMENT = re.compile(r'//[^\n]*')


def check_needed(source):
    """Each include stands once, and a source uses each name that it declares to use. See tidy.py for why this is here."""
    for path in sorted(file for folder in ('outboard', 'tools', 'examples') for file in (source / folder).rglob('*.[ch]pp')):
        names = rooms.included(path)
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f'{path.relative_to(source)}: includes <{name}> twice'
        text = COMMENT.sub('', path.read_text()) if path.suffix == '.cpp' else ''
        for name in USING.findall(text):
            if len(re.findall(rf'\b{name}\b', text)) == 1:
                yield f'{path.relative_to(source)}: does not use {name}, which it declares to use'


def check_shown(source):
    for path in sorted(path for folder in SHOWN for path in (source / folder).rglob('*') if path.is_file()):
        for number, _, name in rooms.includes(path):
            if '/internal/' in name or name.startswith('tests/'):
                yield f'{path.relative_to(source)}:{number}: <{name}> is not for users'


def check(source):
    table = rooms.may_include(source)
    yield from check_folder(source, source / 'outboard', complaint, table)
    yield from check_folder(source, source / COMMAND, command_complaint, table)
    yield from check_needed(source)
    yield from check_shown(source)


def main():
    source = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else rooms.SOURCE
    complaints = list(check(source))
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
