#!/usr/bin/env python3
"""Makes the reference of the headers with Doxygen; any warning is an error.

Without an argument nothing is kept. A second run asks more of the headers that authors of devices and drivers write
against (AUTHORS): each public name in them has a comment. Exit status 77 where there is no Doxygen.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

import rooms

DOXYFILE = rooms.SOURCE / 'docs' / 'Doxyfile'

# Wire layouts are not here: their fields are explained by the section that a struct names.
AUTHORS = [f'outboard/{name}.hpp' for name in (
    'virtio/device', 'virtio/device_core', 'virtio/device_state', 'virtio/device_type', 'virtio/driver_queue',
    'virtio/features', 'virtio/journal', 'journal/file', 'virtio/queue_state', 'virtio/request', 'virtio/transport',
    'virtio_pci/function', 'virtio_pci/transport',
    'devices/blk/device', 'devices/blk/driver', 'devices/blk/driver_io', 'devices/blk/driver_queue',
    'devices/example/device', 'devices/example/driver')]


def run(folder, **settings):
    """The warnings of one run."""
    log = folder / 'warnings'
    settings |= {'OUTPUT_DIRECTORY': folder, 'WARN_LOGFILE': log}
    text = DOXYFILE.read_text() + ''.join(f'{name} = {value}\n' for name, value in settings.items())
    done = subprocess.run(['doxygen', '-'], input=text, cwd=rooms.SOURCE, text=True, capture_output=True, check=False)
    warnings = [line for line in log.read_text().splitlines() if line.strip()] if log.exists() else []
    log.unlink(missing_ok=True)
    if done.returncode != 0 and not warnings:
        warnings = [f'doxygen ended with status {done.returncode}: {done.stderr.strip()}']
    return [line.replace(f'{rooms.SOURCE}/', '') for line in warnings]


def undocumented(folder):
    # Every header is read, so that what overrides a function finds its comment there.
    warnings = run(folder, EXTRACT_ALL='NO', WARN_IF_UNDOCUMENTED='YES', GENERATE_HTML='NO', GENERATE_XML='YES')
    return [line for line in warnings if line.startswith(tuple(f'{name}:' for name in AUTHORS))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=pathlib.Path, help='the folder that receives html/index.html')
    args = parser.parse_args()
    if shutil.which('doxygen') is None:
        print('reference: there is no doxygen here', file=sys.stderr)
        sys.exit(77)
    complaints = [f'{name}: there is no such header' for name in AUTHORS if not (rooms.SOURCE / name).exists()]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        output = args.output or scratch / 'reference'
        output.mkdir(parents=True, exist_ok=True)
        complaints += run(output.resolve())
        (scratch / 'strict').mkdir()
        complaints += undocumented(scratch / 'strict')
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    if complaints:
        sys.exit(1)
    if args.output:
        print(f'{args.output}/html/index.html')


if __name__ == '__main__':
    main()
