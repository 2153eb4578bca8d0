#!/usr/bin/env python3
"""Tests check_docs.py: a link into a file that has not what it names is complained of."""

import pathlib
import tempfile
import unittest

import check_docs

CODE = '''// once() is gone
int Lane::read(int size) { return size; }
'''
TEXT = '''# The page
## 5.x.6.1 Requests: what they `say`
```
# not a heading
```
- **D-EX-1** The device MUST.
'''


class Links(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.page = pathlib.Path(self.folder.name) / 'page.md'
        self.page.write_text(TEXT)
        (self.page.parent / 'lane.cpp').write_text(CODE)

    def complaints(self, link, label='text'):
        return list(check_docs.complaints_about_link(self.page, label, link))

    def test_a_file_that_is_there(self):
        self.assertEqual([], self.complaints('lane.cpp'))
        self.assertEqual([], self.complaints('https://example.org/no#such'))

    def test_a_file_that_is_not_there(self):
        self.assertEqual(1, len(self.complaints('line.cpp')))

    def test_a_name_in_code(self):
        self.assertEqual([], self.complaints('lane.cpp#Lane::read'))
        self.assertEqual([], self.complaints('lane.cpp#read'))
        self.assertEqual(1, len(self.complaints('lane.cpp#Lane::rea')))
        self.assertEqual(1, len(self.complaints('lane.cpp#ane::read')))

    def test_a_name_that_only_a_comment_has(self):
        self.assertEqual(1, len(self.complaints('lane.cpp#once')))

    def test_a_line(self):
        code = self.page.parent / 'lane.cpp'
        code.write_text(f'class Lane;\n// Lane::read is below\n{"int unused;" * 5}\n{CODE}')
        self.assertEqual([], self.complaints('lane.cpp#L5', '`Lane::read`'))
        self.assertEqual([], self.complaints('lane.cpp#L1', '`Lane::read`'))
        self.assertEqual(1, len(self.complaints('lane.cpp#L40', '`Lane::read`')))
        self.assertEqual(1, len(self.complaints('lane.cpp#L5', '`Lane::write`')))
        self.assertEqual('[`Lane::read`](lane.cpp#L5) [a](lane.cpp#read)',
                         check_docs.with_right_lines(self.page, '[`Lane::read`](lane.cpp#L40) [a](lane.cpp#read)'))

    def test_a_heading(self):
        self.assertEqual([], self.complaints('page.md#5x61-requests-what-they-say'))
        self.assertEqual([], self.complaints('#the-page'))
        self.assertEqual(1, len(self.complaints('#not-a-heading')))

    def test_a_statement(self):
        self.assertEqual([], self.complaints('page.md', 'D-EX-1'))
        self.assertEqual(1, len(self.complaints('page.md', '**D-EX-2**')))



class Tests(unittest.TestCase):

    def complaints(self, text):
        return list(check_docs.missing_tests(check_docs.rooms.SOURCE / 'page.md', text))

    def test_one_that_is_there(self):
        self.assertEqual([], self.complaints('`KernelConfigTest.CFG14_CapabilitiesAreUnlinkedAndTheirBytesStayReachable`'))
        self.assertEqual([], self.complaints('`vectors_are_given` in `vfio_drive.sh`'))

    def test_one_that_is_not_there(self):
        self.assertEqual(1, len(self.complaints('`KernelConfigTest.NoSuchRow`')))
        self.assertEqual(1, len(self.complaints('`no_such_case` in `vfio_drive.sh`')))
        self.assertEqual(1, len(self.complaints('`vectors_are_given` in `no_such_script.sh`')))

class GuideToHeaders(unittest.TestCase):

    def test_names_each_header_once(self):
        self.assertEqual([], list(check_docs.wrong_headers('`a/x.hpp`, `a/b/y.hpp`: `z.hpp`', ['a/x.hpp', 'a/b/y.hpp'])))
        self.assertEqual(1, len(list(check_docs.wrong_headers('`a/x.hpp`', ['a/x.hpp', 'a/y.hpp']))))
        self.assertEqual(1, len(list(check_docs.wrong_headers('`a/x.hpp` `a/y.hpp`', ['a/x.hpp']))))
        self.assertEqual(1, len(list(check_docs.wrong_headers('`a/x.hpp` `a/x.hpp`', ['a/x.hpp']))))
        made = '`devices/NAME/x.hpp` `devices/blk/y.hpp`'
        self.assertEqual([], list(check_docs.wrong_headers(made, ['devices/heat/x.hpp', 'devices/blk/y.hpp'])))
        self.assertEqual(1, len(list(check_docs.wrong_headers(made, ['devices/heat/z.hpp', 'devices/blk/y.hpp']))))
        self.assertEqual(1, len(list(check_docs.wrong_headers(made, ['devices/blk/x.hpp', 'devices/blk/y.hpp']))))

    def test_reads_the_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ('a/x.hpp', 'a/internal/y.hpp', 'a/rig_test.hpp', 'a/x.cpp'):
                path = pathlib.Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            self.assertEqual(['a/x.hpp'], list(check_docs.headers_for_users(pathlib.Path(folder))))


if __name__ == '__main__':
    unittest.main()
