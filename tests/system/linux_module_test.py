"""The kernel modules of this checkout build for both kernels without a warning, in the kernel's own style."""

import harness

MODULES = sorted(path.parent for path in (harness.SOURCE / 'linux').glob('*/Kbuild'))


def test_builds_for_the_new_kernel(test):
    for module in MODULES:
        test.kernel_module(module, kernel='new')


def test_builds_for_the_lts_kernel_and_sparse_agrees(test):
    """Debian's sparse cannot parse the headers of 7.x kernels; it checks byte order and locks."""
    for module in MODULES:
        test.kernel_module(module, kernel='lts', arguments=['C=1'])


def test_what_outboard_new_makes_is_no_worse(test):
    test.outboard('new', 'thermometer', '--standalone', test.folder / 'new')
    module = test.folder / 'new' / 'linux'
    test.kernel_module(module, kernel='new')
    test.kernel_module(module, kernel='lts', arguments=['C=1'])
    test.equal(checkpatch(test, module), (0, ''), 'what checkpatch says')


def test_a_warning_is_a_failure(test):
    source = test.folder / 'source'
    source.mkdir()
    (source / 'Kbuild').write_text('obj-m := unused.o\n')
    (source / 'unused.c').write_text('#include <linux/module.h>\nstatic int unused;\nMODULE_DESCRIPTION("x");\n'
                                     'MODULE_LICENSE("GPL");\n')
    try:
        test.kernel_module(source)
    except harness.Failure as failure:
        test.true('unused' in str(failure), f'another failure: {failure}')
    else:
        test.fail('it was built')


def checkpatch(test, folder):
    done = test.run([harness.GUEST_SCRIPTS / 'checkpatch.sh', folder], status=None)
    if done.returncode == 77:
        test.skip(done.stderr.decode().strip().replace('\n', ' '))
    return done.returncode, (done.stdout + done.stderr).decode().strip()


def test_checkpatch_has_no_complaint(test):
    for module in MODULES:
        status, said = checkpatch(test, module)
        test.equal((status, said), (0, ''), str(module))


def test_checkpatch_would_complain(test):
    (test.folder / 'bad.c').write_text('int a( void ) {\n    return 0 ;\n}\n')
    status, said = checkpatch(test, test.folder)
    test.true(status == 1 and 'ERROR' in said, f'status {status}: {said}')


harness.main(globals())
