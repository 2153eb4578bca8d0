"""The educational device from a shell: a function that is no virtio device takes part in every verb."""

import json
import signal

from command import harness, refused, takes_signals


def edu(test, target, *words, **options):
    action, *values = words
    return test.outboard('edu', action, target, *values, **options).stdout.decode()


def test_it_computes_factorials(test):
    server = test.serve('edu')
    for target in (server.target, 'local:edu'):
        for interrupts in ('auto', 'none', 'intx', 'msi'):
            test.equal(edu(test, target, 'factorial', 12, 0, 34, '--interrupts', interrupts), '479001600\n1\n0\n',
                       f'{target} {interrupts}')
    lines = edu(test, server.target, 'factorial', '0x5', 12, '--json').splitlines()
    test.equal([json.loads(line) for line in lines],
               [{'number': 5, 'result': 120}, {'number': 12, 'result': 479001600}])


def test_the_action_may_follow_the_target(test):
    """The order of earlier versions."""
    test.equal(test.outboard('edu', 'local:edu', 'factorial', 12).stdout, b'479001600\n', 'edu TARGET factorial N')
    test.true(b'edu 1.0, alive' in test.outboard('edu', 'local:edu', 'info').stdout, 'edu TARGET info')


def test_it_moves_memory(test):
    server = test.serve('edu', '--dma-time', '1000')
    for target in (server.target, 'local:edu,dma-time=1000'):
        for interrupts in ('none', 'intx', 'msi'):
            test.true('4 KiB to the device and back, the same' in edu(test, target, 'dma', '--interrupts', interrupts),
                      f'{target} {interrupts}')
    moved = json.loads(edu(test, server.target, 'dma', 7, '--json'))
    test.equal((moved['bytes'], moved['verified'], moved['interrupts']), (4096, True, 2))


def test_it_raises_its_interrupt(test):
    server = test.serve('edu')
    for words, name in (((), 'MSI'), (('--interrupts', 'intx'), 'INTx')):
        raised = json.loads(edu(test, server.target, 'interrupt', '0x80', '--json', *words))
        test.equal((raised['interrupts'], raised['causes']), (name, 128))


def test_it_says_what_it_is(test):
    server = test.serve('edu')
    told = json.loads(edu(test, server.target, 'info', '--json'))
    test.equal((told['version'], told['alive'], told['bar_size'], told['interrupts']), ('1.0', True, 1 << 20, 'MSI'))
    test.true('edu 1.0, alive' in edu(test, 'local:edu', 'info'), 'for people')


def test_it_takes_part_in_the_verbs_of_every_function(test):
    server = test.serve('edu')
    for target in (server.target, 'local:edu'):
        shown = json.loads(test.outboard('show', target, '--json').stdout)
        test.equal((shown['pci']['vendor'], shown['pci']['device'], shown['pci']['class']), (0x1234, 0x11e8, 0x00ff00))
        test.equal(shown['interrupts'], {'INTx': 1, 'MSI': 1})
        test.equal([(bar['bar'], bar['size'], bar['kind']) for bar in shown['bars']], [(0, 1 << 20, 'memory')])
        test.true('virtio' not in shown, 'it is no virtio device')
        test.outboard('lspci', target)
        test.outboard('reset', target)
    test.equal(edu(test, server.target, 'factorial', 5), '120\n', 'after a reset')
    test.equal(server.output(), f'serving edu on {server.target}\n')
    server.signal(signal.SIGHUP)
    test.equal(edu(test, server.target, 'factorial', 5), '120\n', 'after looking again at nothing')
    test.equal(server.stop(), 0, "the server's exit status")


def test_errors(test):
    refused(test, 'edu', 'local:edu', status=2)
    refused(test, 'edu', 'info', status=2)
    for words in (['frobnicate', 'local:edu'], ['local:edu', 'frobnicate']):
        refused(test, 'edu', *words, says=['unknown action', f"'{words[0]}'"], cure='info, factorial', status=2)
    refused(test, 'edu', 'factorial', 'local:edu', says=['factorial needs a number'], cure='factorial TARGET 12', status=2)
    refused(test, 'edu', 'factorial', 'local:edu', '1x', says=["'1x' is not a number"], status=2)
    refused(test, 'edu', 'factorial', 'local:edu', '4294967296', says=["'4294967296'"], status=2)
    refused(test, 'edu', 'info', 'local:edu', '1', says=['unexpected argument: 1'], cure='edu --help', status=2)
    refused(test, 'edu', 'interrupt', 'local:edu', '0', says=['a cause'], cure='interrupt TARGET 1', status=2)
    for words in (['blk', 'info', 'local:edu'], ['example', 'local:edu', '1']):
        refused(test, *words, says=['not a virtio device'], cure='outboard show')
    refused(test, 'edu', 'interrupt', 'local:edu', '--interrupts', 'none', says=['without interrupts'])
    refused(test, 'edu', 'info', 'local:blk,null,size=1M', says=['not an edu device: it is 1af4:1042'])
    refused(test, 'edu', 'factorial', 'local:edu,factorial-time=9000000', '3', '--timeout', '0.2',
            says=['the factorial did not finish in time'])
    refused(test, 'edu', 'info', 'local:edu,packed', says=['packed: unknown option'], cure='dma-mask, dma-time, factorial-time, spin',
            status=2)
    refused(test, 'serve', 'edu', '--listen', 'vduse:edu0', says=['not a virtio device'], cure='vfio-user:PATH')
    refused(test, 'serve', 'edu', '--packed', says=['--packed'], status=2)
    refused(test, 'vduse', 'create', 'edu', 'edu0', says=["'edu'"], cure='blk', status=2)


def test_ctrl_c_ends_a_wait(test):
    client = test.start([test.command, 'edu', 'factorial', 'local:edu,factorial-time=50000000', '3', '--timeout', '60'])
    harness.wait_until(lambda: takes_signals(client), 10, 'the client to be ready')
    client.signal(signal.SIGINT)
    test.equal(client.wait(), 1, "the client's exit status")
    test.true('interrupted while waiting for' in client.output(), client.output())


harness.main(globals())
