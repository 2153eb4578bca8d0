#!/usr/bin/env python3
"""The registers of configuration space are defined once: each field is used, no bit has two names, no flag is named again.

A field that nothing reads is a field that nothing has checked. A flag that is printed from a name and a number elsewhere is a
second definition.
"""

import re
import sys

import rooms

HEADERS = ('outboard/pci/registers.hpp', 'outboard/pci/express_registers.hpp')
DEFINITION = re.compile(r'^struct (?P<register>\w+) : Register<'
                        r'|\bstatic constexpr (?P<kind>Field|Flag)<(?P<low>\d+)(?:, (?P<high>\d+))?>\s*(?P<field>\w+)\{(?:"(?P<name>[^"]+)")?',
                        re.MULTILINE)
ALIAS = re.compile(r'\busing (\w+) = (?:\w+::)*(\w+);')
MEMBER = re.compile(r'\b(\w+)::(?=(\w+))')
NAME_AND_BIT = re.compile(r'\{"([^"]+)", *\d+\}')


class Field:
    def __init__(self, register, match):
        self.register, self.name, self.printed = register, match['field'], match['name']
        self.is_flag = match['kind'] == 'Flag'
        self.bits = range(int(match['low']), int(match['high'] or match['low']) + 1)

    def __str__(self):
        return f'{self.register}::{self.name}'


def fields(text):
    register = None
    for match in DEFINITION.finditer(text):
        register = match['register'] or register
        if match['field']:
            yield Field(register, match)


def named(text):
    """(type, member) of each member that a source names, through `using A = B;` too, whichever function that is in."""
    members = set(MEMBER.findall(text))
    return members | {(register, member) for alias, register in ALIAS.findall(text) for kind, member in members if kind == alias}


def unused(definitions, texts):
    used = set().union(*map(named, texts))
    return [f'{field} is named nowhere else' for field in definitions if (field.register, field.name) not in used]


def overlapping(definitions):
    """Flags that share a bit with another field. Fields may: a class code has parts."""
    for flag in definitions:
        for other in definitions:
            if flag.is_flag and other is not flag and other.register == flag.register and flag.bits[0] in other.bits:
                yield f'{flag} and {other} have the same bit'


def named_again(definitions, path, text):
    names = {field.printed for field in definitions if field.printed}
    for number, line in enumerate(text.splitlines(), start=1):
        for match in NAME_AND_BIT.finditer(line):
            if match[1] in names:
                yield f'{path}:{number}: {match[0]} names a bit again: it is a Flag of {" or ".join(HEADERS)}'


def sources():
    for folder in ('outboard', 'tools'):
        for path in sorted((rooms.SOURCE / folder).rglob('*')):
            name = str(path.relative_to(rooms.SOURCE))
            if path.suffix in ('.cpp', '.hpp') and name not in HEADERS and not name.endswith('_test.cpp'):
                yield name, path.read_text(errors='replace')


def check_itself():
    sample = list(fields('struct A : Register<std::uint16_t> {\n  static constexpr Flag<0> on{"On"};\n'
                         '  static constexpr Field<1, 2>\n      kind{};\n  static constexpr Flag<2> late{"Late"};\n'))
    assert [str(field) for field in sample] == ['A::on', 'A::kind', 'A::late']
    assert unused(sample, ['using B = pci::A; get(B::kind), pci::A::late, C::on']) == ['A::on is named nowhere else']
    assert list(overlapping(sample)) == ['A::late and A::kind have the same bit']
    assert len(list(named_again(sample, 'x', 'f({{"On", 3}, {"Off", 3}})'))) == 1


def main():
    check_itself()
    definitions = [field for header in HEADERS for field in fields((rooms.SOURCE / header).read_text())]
    texts = dict(sources())
    complaints = [*unused(definitions, texts.values()), *overlapping(definitions)]
    for path, text in texts.items():
        complaints += named_again(definitions, path, text)
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints or not definitions else 0)


if __name__ == '__main__':
    main()
