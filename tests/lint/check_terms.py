#!/usr/bin/env python3
"""Checks the words of what shows how a device type is made: the example device, the guide, and the templates.

Three points of the review of 2019 (docs/spec-map.md, RV): a request is one *buffer* made of *elements*; nothing in a chapter
is another device type's; nothing is built under the switch of another device.
"""

import re
import sys

import rooms

# In quotation marks it may stand: that is how the guide tells what was wrong.
WRONG_TERM = re.compile(r'(?<!["“])\b(?:(?:first|second|input|output|reply|response|readable|writable)[ -]|in-|out-)buffers?\b',
                        re.IGNORECASE)
OTHER_DEVICE = re.compile(r'\b(?:virtual block|block device|sectors?|disks?|network|packets?|entropy|keyboards?)\b',
                          re.IGNORECASE)


def texts(*patterns):
    return [path for pattern in patterns for path in sorted(rooms.SOURCE.glob(pattern)) if path.is_file()]


def found(pattern, paths, what):
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for match in pattern.finditer(line):
                yield f'{path.relative_to(rooms.SOURCE)}:{number}: "{match[0]}" {what}'


def wrong_terms():
    """VIRTIO 1.4, 2.6: a buffer is a whole request; what it is made of are elements."""
    paths = texts('outboard/devices/example/*', 'linux/virtio_example/*.[ch]', 'linux/virtio_example/*.md', 'templates/**/*.in',
                  'docs/new-device.md')
    return found(WRONG_TERM, paths, 'for a part of a buffer: say element')


def words_of_other_devices():
    """A chapter that was copied keeps what is true of another device only."""
    return found(OTHER_DEVICE, texts('outboard/devices/example/specification.md', 'templates/**/specification.md.in'),
                 'is of another device')


def switches_of_others():
    """Each device has its own: outboard_add_device in its folder, and its own name in Kconfig."""
    for path in texts('outboard/devices/*/CMakeLists.txt'):
        names = re.findall(r'\boutboard_add_device\((\w+)', path.read_text())
        if names != [path.parent.name]:
            yield f'{path.relative_to(rooms.SOURCE)}: adds {names}, not its own folder'
    for path in texts('linux/*/Kbuild', 'linux/*/Kconfig'):
        own = path.parent.name.upper()
        for name in re.findall(r'\bCONFIG_(\w+)|^config (\w+)', path.read_text(), re.MULTILINE):
            if ''.join(name) != own:
                yield f'{path.relative_to(rooms.SOURCE)}: uses the switch {"".join(name)}, not {own}'


def main():
    # That the patterns find what they are for.
    assert WRONG_TERM.search('puts it into the second buffer') and WRONG_TERM.search('Input buffers')
    assert not WRONG_TERM.search('they said "first buffer"') and not WRONG_TERM.search('a buffer of eventq')
    assert OTHER_DEVICE.search('a simple virtual block device')
    complaints = [*wrong_terms(), *words_of_other_devices(), *switches_of_others()]
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
