#!/usr/bin/env python3
"""gtest_programs.py counts what a program said, and what it did not come to say."""

import pathlib
import tempfile
import unittest

import gtest_programs

# A program as GoogleTest makes them, in which the second of three tests does what it is told.
PROGRAM = '''#!/bin/sh
case "$1" in --gtest_filter=*) tests=$(echo "${{1#*=}}" | tr : ' ') ;; esac
for test in $tests; do
  echo "[ RUN      ] $test"
  [ "$test" = A.Second ] && {{ {second}; }}
  echo "[       OK ] $test (0 ms)"
done
{last}
'''


class Programs(unittest.TestCase):

    def verdicts(self, second=':', last=':'):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / 'program'
            program.write_text(PROGRAM.format(second=second, last=last))
            program.chmod(0o755)
            tests = {name: f'x_test.{name}' for name in ('A.First', 'A.Second', 'A.Third')}
            return gtest_programs.run_program((str(program), (), folder), tests, None)

    def test_all_pass(self):
        self.assertEqual(['x_test.A.First', 'x_test.A.Second', 'x_test.A.Third'], self.verdicts().passed)

    def test_one_fails(self):
        said = self.verdicts(second='echo why; echo "[  FAILED  ] A.Second (1 ms)"; continue', last='exit 1')
        self.assertEqual(2, len(said.passed))
        self.assertEqual(['x_test.A.Second'], list(said.failed))
        self.assertIn('why', said.failed['x_test.A.Second'])

    def test_one_is_skipped(self):
        said = self.verdicts(second='echo reason; echo "[  SKIPPED ] A.Second (1 ms)"; continue')
        self.assertEqual(2, len(said.passed))
        self.assertIn('reason', said.skipped['x_test.A.Second'])

    def test_the_program_dies_and_the_others_run_all_the_same(self):
        said = self.verdicts(second='echo overflow; exit 1')
        self.assertEqual(['x_test.A.First', 'x_test.A.Third'], said.passed)
        self.assertIn('overflow', said.failed['x_test.A.Second'])

    def test_the_program_ends_early_and_says_all_is_well(self):
        said = self.verdicts(second='echo "[       OK ] A.Second (0 ms)"; exit 0')
        self.assertEqual(2, len(said.passed))
        self.assertEqual(['x_test.A.Third'], list(said.failed))

    def test_a_leak_that_is_found_at_the_end(self):
        said = self.verdicts(last='echo leak; exit 23')
        self.assertEqual(3, len(said.passed))
        self.assertEqual(1, len(said.failed))

    def test_a_test_that_hangs(self):
        for name, seconds in (('SECONDS_A_PROGRAM', 1), ('SECONDS_A_TEST', 0)):
            self.addCleanup(setattr, gtest_programs, name, getattr(gtest_programs, name))
            setattr(gtest_programs, name, seconds)
        said = self.verdicts(second='exec sleep 100')
        self.assertEqual(['x_test.A.Second'], list(said.failed))

    def test_a_program_that_does_not_start_its_tests(self):
        said = gtest_programs.run_program(('/bin/false', (), '/'), {'A.First': 'x_test.A.First'}, None)
        self.assertEqual(['x_test.A.First'], list(said.failed))


if __name__ == '__main__':
    unittest.main()
