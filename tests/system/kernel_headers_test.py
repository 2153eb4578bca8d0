"""Our layouts of the kernel's interfaces are those in the headers of the guests' kernels.

The comparisons are static assertions in kernel_headers/*.cpp, which are compiled against single headers of a kernel's
package; all else comes from this machine.
"""

import pathlib
import shutil

import harness

PROGRAMS = harness.HERE / 'kernel_headers'
# What the kernel takes out of its headers when it installs them.
MARKS = ('-D__user=', '-D__counted_by(member)=')
HEADERS = ('vduse.h', 'vdpa.h', 'vfio.h', 'iommufd.h')


def kernel_folder(test, which):
    """A folder to include from, with `kernel/` in it: copies of the headers of one kernel."""
    version = harness.kernel_version(which)
    root = pathlib.Path(test.run(['bash', '-c', '. "$0"; echo "$GUEST_ROOT"', harness.GUEST_SCRIPTS / 'lib.sh'])
                        .stdout.decode().strip())
    package = version.rpartition('-cloud-')[0] + '-common'
    source = root / 'usr/src' / f'linux-headers-{package}' / 'include/uapi/linux'
    folder = test.folder / which
    (folder / 'kernel').mkdir(parents=True)
    for header in HEADERS:
        shutil.copy(source / header, folder / 'kernel')
    return folder


def compile_against(test, program, folder, *options):
    """What the compiler says; nothing: the layouts agree."""
    done = test.run(['g++', '-std=c++23', '-fsyntax-only', '-Wall', '-Werror', '-I', harness.SOURCE, '-isystem', folder,
                     *MARKS, *options, PROGRAMS / program], status=None)
    return done.stderr.decode() if done.returncode != 0 else ''


def agree(test, program, which, *options):
    said = compile_against(test, program, kernel_folder(test, which), *options)
    test.true(not said, f'{program} and the {which} kernel: {said[:2000]}')


def test_vduse_of_the_new_kernel(test):
    agree(test, 'vduse.cpp', 'new', '-DOUTBOARD_KERNEL_API_1')


def test_vduse_of_the_lts_kernel(test):
    agree(test, 'vduse.cpp', 'lts')


def test_vfio_of_the_new_kernel(test):
    agree(test, 'vfio.cpp', 'new')


def test_vfio_of_the_lts_kernel(test):
    agree(test, 'vfio.cpp', 'lts')


def test_vfio_of_the_kernel_alone_of_the_new_kernel(test):
    agree(test, 'vfio_kernel.cpp', 'new')


def test_vfio_of_the_kernel_alone_of_the_lts_kernel(test):
    agree(test, 'vfio_kernel.cpp', 'lts')


def test_a_difference_would_be_seen(test):
    folder = kernel_folder(test, 'new')
    header = folder / 'kernel/vduse.h'
    text = header.read_text()
    for was, becomes in (('__u32 vendor_id;\n\t__u32 device_id;', '__u32 device_id;\n\t__u32 vendor_id;'),
                         ('#define VDUSE_BASE\t0x81', '#define VDUSE_BASE\t0x82'),
                         ('VDUSE_SET_STATUS,', 'VDUSE_OTHER, VDUSE_SET_STATUS,')):
        test.true(was in text, f'{was!r} is not in the header')
        header.write_text(text.replace(was, becomes))
        test.true('static assertion failed' in compile_against(test, 'vduse.cpp', folder), f'not seen: {becomes!r}')


harness.main(globals())
