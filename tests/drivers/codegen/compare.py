"""Compares the machine code of the functions typed_NAME and raw_NAME of an object file, instruction by instruction.

    compare.py OBJECT [--print]

Exit status 1 where a pair differs, or there is none; 77 without objdump.
"""

import argparse
import re
import shutil
import subprocess
import sys


def functions(path):
    """{name: [instruction]}; a jump inside a function is written by its distance from the function's start."""
    text = subprocess.run(['objdump', '--disassemble', '--no-show-raw-insn', path], capture_output=True, text=True,
                          check=True).stdout
    found, name, start = {}, None, 0
    for line in text.splitlines():
        if head := re.match(r'([0-9a-f]+) <(\w+)>:', line):
            start, name = int(head.group(1), 16), head.group(2)
            found[name] = []
        elif (instruction := re.match(r'\s*([0-9a-f]+):\s+(.*\S)', line)) and name:
            own = re.sub(rf'([0-9a-f]+) <{name}(\+0x[0-9a-f]+)?>', lambda jump: f'+{int(jump.group(1), 16) - start:#x}',
                         instruction.group(2))
            found[name].append(re.sub(r'\s+', ' ', own))
    return found


def body(instructions):
    """Without what fills the space up to the next function."""
    kept = list(instructions)
    while kept and re.match(r'(data16 )*(cs )?(nop|xchg %ax,%ax)', kept[-1]):
        kept.pop()
    return kept


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('object')
    parser.add_argument('--print', action='store_true', help='the code of each pair')
    options = parser.parse_args()
    if not shutil.which('objdump'):
        print('there is no objdump')
        sys.exit(77)
    code = functions(options.object)
    names = sorted(name.removeprefix('typed_') for name in code if name.startswith('typed_'))
    different = 0
    for name in names:
        typed, raw = body(code[f'typed_{name}']), body(code.get(f'raw_{name}', []))
        same = typed == raw and typed
        different += not same
        print(f'{name}: {len(typed)} instructions, {"the same" if same else "different"}')
        if options.print or not same:
            print('\n'.join(f'    {line}' for line in typed))
        if not same:
            print('  and by hand:\n' + '\n'.join(f'    {line}' for line in raw))
    if different or not names:
        sys.exit(1)


main()
