"""What can be edited in a C++ source: one small thing each, found by its text."""

import difflib
import hashlib
import re
from dataclasses import dataclass

# name: [(what is looked for, what takes its place)]. Spaces around operators are those of clang-format: what has none is
# no comparison, but part of a template.
OPERATORS = {
    'fence': [(r'^(\s*)(?:memory::)?full_fence\(\);', r'\1;'),
              (r'^(\s*)(if \([^;{]*\) )(?:memory::)?full_fence\(\);', r'\1\2{}')],
    'order': [(r'std::memory_order_(?:release|acquire|acq_rel|seq_cst)\b', 'std::memory_order_relaxed')],
    'compare': [(r' < ', ' <= '), (r' <= ', ' < '), (r' > ', ' >= '), (r' >= ', ' > '), (r' == ', ' != '),
                (r' != ', ' == ')],
    'logic': [(r' && ', ' || '), (r' \|\| ', ' && ')],
    'condition': [(r'\b(if|while) \((?!const |auto |!)(?=[^;]*\) )', r'\1 (false && '),
                  (r'\bif \(!', 'if (')],
    'bound': [(r' \+ 1\b', ''), (r' - 1\b', ''), (r'std::min\b', 'std::max'), (r'std::max\b', 'std::min'),
              (r' \+ ', ' - '), (r' % ', ' / ')],
    'return': [(r'\breturn true;', 'return false;'), (r'\breturn false;', 'return true;'),
               (r'\breturn Error\([^;]*;', 'return {};')],
    'statement': [(r'^(\s+)[a-z_][\w.>-]*(?:\(.*\)|\.\w+\(.*\)|\+\+|--);$', r'\1;'),
                  (r'^(\s+)(?:\+\+|--)[a-z_]\w*;$', r'\1;'),
                  (r'^(\s+)[a-z_]\w*_ (?:=|\+=|-=) [^{]*;$', r'\1;')],
}


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int  # from 1
    operator: str
    old: str  # the whole line
    new: str

    @property
    def key(self):
        """The same for as long as the line is, wherever it moves."""
        return hashlib.sha256('\0'.join([self.file, self.operator, self.old, self.new]).encode()).hexdigest()[:16]

    def applied_to(self, text):
        lines = text.splitlines(keepends=True)
        if self.line > len(lines) or lines[self.line - 1].rstrip('\n') != self.old:
            raise ValueError(f'{self.file}:{self.line} is not what it was')
        lines[self.line - 1] = self.new + '\n'
        return ''.join(lines)

    def diff(self, text):
        made = difflib.unified_diff(text.splitlines(keepends=True), self.applied_to(text).splitlines(keepends=True),
                                    self.file, f'{self.file} ({self.operator})', n=2)
        return ''.join(made)


def code_of(line):
    """How much of a line is code: all up to a comment. None for what is no statement."""
    if line.lstrip().startswith(('//', '#', 'static_assert', 'template', 'using ', 'namespace ', '*', '/*')):
        return None
    return line.partition('//')[0]


def in_string(code, at):
    return code[:at].count('"') % 2 == 1


def of_line(file, number, line):
    code = code_of(line)
    if code is None:
        return
    for operator, rules in OPERATORS.items():
        for pattern, replacement in rules:
            for match in re.finditer(pattern, code.rstrip() if pattern.endswith('$') else code):
                if in_string(code, match.start()):
                    continue
                new = line[:match.start()] + match.expand(replacement) + line[match.end():]
                if new != line:
                    yield Mutant(file, number, operator, line, new)


def of_file(file, text):
    for number, line in enumerate(text.splitlines(), start=1):
        yield from of_line(file, number, line)
