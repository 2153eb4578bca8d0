#!/usr/bin/env python3
"""check_includes.py finds what it is there to find."""

import pathlib
import shutil
import tempfile
import unittest

import check_includes
import rooms


class CheckIncludes(unittest.TestCase):
    def complaints(self, path, line, first='#pragma once'):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder)
            (source / 'cmake').mkdir()
            shutil.copy(rooms.SOURCE / 'cmake' / 'OutboardRoomTable.cmake', source / 'cmake')
            file = source / 'outboard' / path
            file.parent.mkdir(parents=True)
            file.write_text(f'{first}\n{line}\n')
            return list(check_includes.check(source))

    def allowed(self, path, line):
        self.assertEqual(self.complaints(path, line), [])

    def refused(self, path, line):
        self.assertEqual(len(self.complaints(path, line)), 1)

    def test_downwards(self):
        self.allowed('memory/x.hpp', '#include <outboard/base/y.hpp>')
        self.allowed('vfio_user/x.cpp', '#include <outboard/pci/y.hpp>')
        self.allowed('devices/blk/x.hpp', '#include <outboard/virtio/y.hpp>')
        self.allowed('targets/x.cpp', '#include <outboard/devices/blk/y.hpp>')

    def test_own_room(self):
        self.allowed('pci/x.hpp', '#include <outboard/pci/y.hpp>')
        self.allowed('devices/blk/x.cpp', '#include <outboard/devices/blk/y.hpp>')

    def test_upwards(self):
        self.refused('base/x.hpp', '#include <outboard/memory/y.hpp>')
        self.refused('pci/x.cpp', '#include <outboard/virtio/y.hpp>')
        self.refused('virtio/x.cpp', '#include <outboard/targets/y.hpp>')

    def test_device_knows_no_transport_and_no_other_device(self):
        self.refused('devices/blk/x.hpp', '#include <outboard/virtio_pci/y.hpp>')
        self.refused('devices/blk/x.hpp', '#include <outboard/devices/net/y.hpp>')

    def test_fakes_are_for_tests(self):
        self.refused('pci/x.cpp', '#include <outboard/testing/y.hpp>')
        self.allowed('pci/x_test.cpp', '#include <outboard/testing/y.hpp>')
        self.allowed('pci/x_test.hpp', '#include <outboard/testing/y.hpp>')
        self.refused('testing/x.hpp', '#include <outboard/targets/y.hpp>')

    def test_written_in_full(self):
        self.refused('base/x.cpp', '#include "y.hpp"')
        self.refused('base/x.cpp', '#include <outboard/base/../memory/y.hpp>')

    def test_unknown_room(self):
        self.refused('attic/x.cpp', '#include <vector>')

    def test_headers_are_guarded(self):
        self.assertEqual(len(self.complaints('base/x.hpp', '', first='')), 1)
        self.assertEqual(self.complaints('base/x.cpp', '', first=''), [])

    def test_others(self):
        self.allowed('base/x.cpp', '#include <vector>')
        self.allowed('base/x.cpp', '// #include "y.hpp"')


unittest.main()
