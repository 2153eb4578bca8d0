#!/usr/bin/env python3
"""check_includes.py finds what it is there to find."""

import pathlib
import shutil
import tempfile
import unittest

import check_includes
import rooms


class CheckIncludes(unittest.TestCase):
    def complaints(self, path, line, first='#pragma once', folder_of_path='outboard'):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder)
            (source / 'cmake').mkdir()
            shutil.copy(rooms.SOURCE / 'cmake' / 'OutboardRoomTable.cmake', source / 'cmake')
            file = source / folder_of_path / path
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
        self.refused('testing/x.hpp', '#include <outboard/vfio_user/y.hpp>')
        self.refused('testing/x.hpp', '#include <tests/support/y.hpp>')

    def test_the_sides_of_a_device_know_nothing_of_each_other(self):
        for driver in ('driver.cpp', 'driver_queue.hpp', 'internal/driver_core.cpp'):
            self.allowed(f'devices/blk/{driver}', '#include <outboard/devices/blk/layout.hpp>')
            self.allowed(f'devices/blk/{driver}', '#include <outboard/devices/blk/internal/driver_core.hpp>')
            self.refused(f'devices/blk/{driver}', '#include <outboard/devices/blk/device.hpp>')
            self.refused(f'devices/blk/{driver}', '#include <outboard/devices/blk/internal/device_request_queue.hpp>')
            self.refused(f'devices/blk/{driver}', '#include <outboard/storage/y.hpp>')
            self.refused(f'devices/blk/{driver}', '#include <outboard/devices/net/driver.hpp>')
        self.allowed('devices/blk/device.cpp', '#include <outboard/storage/y.hpp>')
        self.refused('devices/blk/device.cpp', '#include <outboard/devices/blk/driver.hpp>')

    def test_users_are_shown_no_internal_header(self):
        for place, name in (('examples', 'x.cpp'), ('templates', 'core/x.cpp.in')):
            for line in ('#include <outboard/virtio/internal/y.hpp>', '#include <tests/support/y.hpp>'):
                self.assertEqual(len(self.complaints(name, line, folder_of_path=place)), 1)
            self.assertEqual(self.complaints(name, '#include <outboard/virtio/y.hpp>', folder_of_path=place), [])

    def test_what_is_there_is_needed(self):
        self.refused('base/x.cpp', '#include <vector>\n#include <string>\n#include <vector>')
        self.refused('base/x.cpp', 'using outboard::Bytes;  // Bytes')
        self.allowed('base/x.cpp', 'using outboard::Bytes;\nBytes bytes;')
        self.allowed('base/x.hpp', 'using outboard::Bytes;')

    def test_written_in_full(self):
        self.refused('base/x.cpp', '#include "y.hpp"')
        self.refused('base/x.cpp', '#include <outboard/base/../memory/y.hpp>')

    def test_unknown_room(self):
        self.refused('attic/x.cpp', '#include <vector>')

    def test_headers_are_guarded(self):
        self.assertEqual(len(self.complaints('base/x.hpp', '', first='')), 1)
        self.assertEqual(self.complaints('base/x.cpp', '', first=''), [])

    def command(self, path, line):
        return len(self.complaints(path, line, folder_of_path='tools/outboard'))

    def test_verbs_of_the_command_are_apart(self):
        self.assertEqual(self.command('blk/x.cpp', '#include <tools/outboard/blk/y.hpp>'), 0)
        self.assertEqual(self.command('blk/x.cpp', '#include <tools/outboard/text.hpp>'), 0)
        self.assertEqual(self.command('main.cpp', '#include <tools/outboard/serve/y.hpp>'), 0)
        self.assertEqual(self.command('blk/x.cpp', '#include <tools/outboard/show/y.hpp>'), 1)
        self.assertEqual(self.command('text.cpp', '#include <tools/outboard/show/y.hpp>'), 1)
        self.assertEqual(self.command('blk/x.cpp', '#include "y.hpp"'), 1)

    def test_slow_libraries_are_included_once(self):
        self.assertEqual(self.command('verb.cpp', '#include <CLI/CLI.hpp>'), 0)
        self.assertEqual(self.command('verb.hpp', '#include <CLI/CLI.hpp>'), 1)
        self.assertEqual(self.command('show/json.cpp', '#include <nlohmann/json.hpp>'), 1)
        self.assertEqual(self.command('main.cpp', '#include <spdlog/spdlog.h>'), 1)
        self.assertEqual(self.command('show/x_test.cpp', '#include <nlohmann/json.hpp>'), 0)

    def test_others(self):
        self.allowed('base/x.cpp', '#include <vector>')
        self.allowed('base/x.cpp', '// #include "y.hpp"')


unittest.main()
