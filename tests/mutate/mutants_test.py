#!/usr/bin/env python3
"""Tests of mutants.py."""

import unittest

import mutants


def edits(text, operator):
    return [mutant.new for mutant in mutants.of_file('x.cpp', text) if mutant.operator == operator]


class Mutants(unittest.TestCase):
    def test_fences_are_taken_away(self):
        self.assertEqual(edits('  memory::full_fence();  // S7', 'fence'), ['  ;  // S7'])
        self.assertEqual(edits('  if (published) memory::full_fence();', 'fence'), ['  if (published) {}'])

    def test_orders_are_relaxed(self):
        self.assertEqual(edits('  at.store(1, std::memory_order_release);', 'order'),
                         ['  at.store(1, std::memory_order_relaxed);'])

    def test_each_comparison_is_one_edit(self):
        self.assertEqual(edits('  if (a < b && c == d) return;', 'compare'),
                         ['  if (a <= b && c == d) return;', '  if (a < b && c != d) return;'])

    def test_templates_have_no_comparison(self):
        self.assertEqual(edits('std::vector<std::byte> bytes;', 'compare'), [])

    def test_conditions_become_false(self):
        self.assertEqual(edits('  if (full()) return;', 'condition'), ['  if (false && full()) return;'])
        self.assertEqual(edits('  if (!full()) return;', 'condition'), ['  if (full()) return;'])

    def test_declarations_in_conditions_are_left_alone(self):
        self.assertEqual(edits('  if (const auto at = find(); at) return;', 'condition'), [])

    def test_returns_are_turned_round(self):
        self.assertEqual(edits('  return Error(EINVAL, "no");', 'return'), ['  return {};'])
        self.assertEqual(edits('  return true;', 'return'), ['  return false;'])

    def test_statements_are_dropped(self):
        self.assertEqual(edits('  timer_.reset();', 'statement'), ['  ;'])
        self.assertEqual(edits('  ++count;', 'statement'), ['  ;'])
        self.assertEqual(edits('  size_ = 0;', 'statement'), ['  ;'])

    def test_comments_texts_and_directives_are_no_code(self):
        self.assertEqual(edits('// a < b\n#if a < b\n  say("a < b");  // a < b\n', 'compare'), [])

    def test_an_edit_is_of_one_line_and_known_wherever_that_moves(self):
        before = list(mutants.of_file('x.cpp', 'int x;\n  return true;\n'))
        after = list(mutants.of_file('x.cpp', 'int x;\nint y;\n  return true;\n'))
        self.assertEqual([each.key for each in before], [each.key for each in after])
        self.assertEqual(before[0].applied_to('int x;\n  return true;\n'), 'int x;\n  return false;\n')
        with self.assertRaises(ValueError):
            after[0].applied_to('int x;\n  return true;\n')


if __name__ == '__main__':
    unittest.main()
