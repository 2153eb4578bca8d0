#!/usr/bin/env python3
"""Tests of check_tests.py: what it refuses, and what it lets pass."""

import unittest

import check_tests

ROWS = {'VR-21', 'VU-5', 'VU-6'}


def complaints(text):
    return list(check_tests.complaints_about_text(text, ROWS))


class CheckTests(unittest.TestCase):
    def test_a_long_name(self):
        self.assertEqual(complaints(f'TEST_F(Suite, {"A" * 59}) {{'), [])
        self.assertIn('60 characters', complaints(f'TEST_F(Suite, {"A" * 60}) {{')[0])
        self.assertIn('characters', complaints(f'def test_{"a" * 55}(test):\n')[0])

    def test_a_row_names_its_table(self):
        self.assertEqual(complaints('TEST_P(Suite, VR21_WritesChangeNothing) {'), [])
        self.assertEqual(complaints('TEST_P(Suite, R_EX_2_VU5And6_Both) {'), [])
        self.assertIn('no row VR-22', complaints('TEST_P(Suite, VR22_Anything) {')[0])
        self.assertIn('name the table', complaints('TEST_P(Suite, Row21_Anything) {')[0])
        self.assertIn('name the table', complaints('TEST_P(Suite, RowPm_Anything) {')[0])

    def test_a_reference_that_nobody_has(self):
        self.assertIn('line 2', complaints('int a;\n// reference 7.3, row 15\n')[0])
        self.assertEqual(len(complaints('// see the vfio-user notes\n')), 1)
        self.assertEqual(complaints('// VIRTIO 1.4, 2.2; docs/spec-map.md, VR-15: the last reference\n'), [])


if __name__ == '__main__':
    unittest.main()
