#!/usr/bin/env python3
"""check_std_includes.py finds what it is there to find."""

import pathlib
import tempfile
import unittest

import check_std_includes


class CheckStdIncludes(unittest.TestCase):
    def complaints(self, **files):
        """Of files of outboard/base, given as NAME_SUFFIX=text."""
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder)
            room = source / 'outboard' / 'base'
            room.mkdir(parents=True)
            for name, text in files.items():
                (room / '.'.join(name.rsplit('_', 1))).write_text(text)
            return list(check_std_includes.check(source))

    def test_name_without_its_header(self):
        self.assertEqual(self.complaints(x_cpp='std::vector<int> x;\n'),
                         ['outboard/base/x.cpp: uses vector without including <vector>'])
        self.assertEqual(len(self.complaints(x_cpp='#include <vector>\nint y = std::ranges::min(x), z = std::ranges::max(x);\n')), 2)
        self.assertEqual(len(self.complaints(x_cpp='auto x = fmt::format("{}", 1);\n')), 1)

    def test_name_with_its_header(self):
        self.assertEqual(self.complaints(x_cpp='#include <vector>\nstd::vector<int> x;\n'), [])
        self.assertEqual(self.complaints(x_cpp='#include <fmt/format.h>\nauto x = fmt::format("{}", 1);\n'), [])

    def test_header_in_one_of_ours(self):
        include = '#include <outboard/base/x.hpp>\nstd::vector<int> x;\n'
        self.assertEqual(self.complaints(x_hpp='#include <vector>\n', x_cpp=include), [])
        self.assertEqual(len(self.complaints(x_hpp='#include <string>\n', x_cpp=include)), 1)

    def test_what_comes_with_another(self):
        self.assertEqual(self.complaints(x_cpp='#include <string>\nstd::size_t x;\n'), [])
        self.assertEqual(len(self.complaints(x_cpp='#include <optional>\nstd::size_t x;\n')), 1)

    def test_comments_and_strings(self):
        self.assertEqual(self.complaints(x_cpp='// std::vector\nchar x[] = "std::vector";\n'), [])


unittest.main()
