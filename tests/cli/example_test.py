"""The example device from a shell: numbers, batches, and what the device tells unasked."""

import json
import os
import signal

from command import complaint, harness, refused, unread

LARGEST = 4294967295


def numbers(test, target, *words, status=0, stdin=b''):
    return test.outboard('example', target, *words, status=status, stdin=stdin).stdout.decode()


def test_it_adds_one(test):
    server = test.serve('example')
    for target in (server.target, 'local:example', 'local:example,packed,in-order', 'local:example,poll'):
        test.equal(numbers(test, target, 41), '42\n', target)
        test.equal(numbers(test, target, 0, LARGEST), '1\n0\n', target)


def test_batches_keep_their_order(test):
    values = list(range(1000)) + [LARGEST]
    text = '\n'.join(map(str, values)).encode()  # the last line without an end
    for target in (test.serve('example', '--packed').target, 'local:example,queue-size=4'):
        answers = numbers(test, target, '--batch', stdin=text).split()
        test.equal(answers, [str((value + 1) % (LARGEST + 1)) for value in values], target)


def test_an_empty_batch_is_done(test):
    test.equal(numbers(test, 'local:example', '--batch'), '')


def test_json_is_an_object_a_line(test):
    lines = numbers(test, 'local:example,limit=9', '--batch', '--json', stdin=b'9\n10\n', status=1).splitlines()
    test.equal([json.loads(line) for line in lines],
               [{'value': 9, 'result': 10, 'refused': False}, {'value': 10, 'result': 10, 'refused': True}])


def test_r_ex_5_text_that_is_no_number_is_refused(test):
    for text in ('abc', '12x', '', '0x10', '1.5', '4294967296', '99999999999999999999', ' 1', '+1'):
        refused(test, 'example', 'local:example', '--', text, status=2, says=[f"'{text}' is not a number between"])
    done = test.outboard('example', 'local:example', '--batch', stdin=b'1\nseven\n3\n', status=1)
    test.equal(done.stdout, b'2\n')
    complaint(test, done, 'line 2', "'seven' is not a number")


def test_a_number_above_the_limit_is_refused(test):
    server = test.serve('example', '--limit', '100')
    test.equal(numbers(test, server.target, 100, 101, 7, status=1), '101\n101 refused\n8\n')


def test_a_device_that_breaks_is_well_after_a_reset(test):
    server = test.serve('example', '--break-on', '13')
    refused(test, 'example', server.target, 12, 13, says=[server.target])
    # The next driver resets it.
    test.equal(numbers(test, server.target, 12), '13\n')


def test_the_limit_changes_while_the_driver_runs(test):
    limit = test.folder / 'limit'
    limit.write_text('100\n')
    server = test.serve('example', '--limit-file', limit)
    client = test.start([test.command, 'example', server.target, '150', '--watch'])
    harness.wait_until(lambda: '150 refused\n' in client.output(), 10, 'the first refusal')
    limit.write_text('7\n')
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: 'limit 7, epoch 1\n' in client.output(), 10, 'the changed limit')
    client.signal(signal.SIGINT)
    test.equal(client.wait(), 0, "the client's exit status")
    test.equal(sorted(client.output().splitlines()),
               sorted(['limit 100, epoch 0', '150 refused', '150 refused', 'limit 7, epoch 1']))
    test.equal(numbers(test, server.target, 7, 8, status=1), '8\n8 refused\n')


def test_what_is_watched_is_an_object_a_line_too(test):
    client = test.start([test.command, 'example', 'local:example,limit=9', '10', '--watch', '--json'])
    expected = [{'limit': 9, 'epoch': 0}, {'value': 10, 'result': 10, 'refused': True},
                {'event': 'limit-hit', 'value': 10, 'missed': 0}]
    harness.wait_until(lambda: client.output().count('\n') == len(expected), 20, 'three lines')
    lines = [json.loads(line) for line in client.output().splitlines()]
    test.true(all(line in lines for line in expected), f'it says {lines}')
    client.signal(signal.SIGTERM)
    test.equal(client.wait(), 0, "the client's exit status")


def test_watching_ends_with_the_server(test):
    server = test.serve('example', '--limit', '100')
    client = test.start([test.command, 'example', server.target, '--watch'])
    harness.wait_until(lambda: 'limit 100, epoch 0\n' in client.output(), 10, 'the limit')
    server.signal(signal.SIGKILL)
    test.equal(client.wait(), 1, "the client's exit status")
    test.true('\noutboard: ' in client.output(), f'it says {client.output()}')


def test_a_limit_file_that_is_wrong_changes_nothing(test):
    limit = test.folder / 'limit'
    limit.write_text('100\n')
    server = test.serve('example', '--limit-file', limit)
    limit.write_text('many\n')
    server.signal(signal.SIGHUP)
    harness.wait_until(lambda: "'many' is not a limit" in server.output(), 10, 'the complaint')
    test.equal(numbers(test, server.target, 100), '101\n')


def test_ctrl_c_ends_a_wait_for_a_device_that_does_not_answer(test):
    server = test.serve('example')
    read_end, write_end = os.pipe()
    client = test.start(['bash', '-c', f'exec "$0" example {server.target} --batch <&{read_end}', test.command],
                        pass_fds=(read_end,))
    os.write(write_end, b'1\n')
    harness.wait_until(lambda: client.output() == '2\n', 20, 'the first answer')
    server.signal(signal.SIGSTOP)
    os.write(write_end, b'2\n')
    harness.wait_until(lambda: unread(read_end) == 0, 20, 'the command to read the second number')
    client.signal(signal.SIGINT)
    test.equal(client.wait(60), 1, "the client's exit status")
    test.true('interrupted' in client.output(), f'it says {client.output()}')
    server.signal(signal.SIGCONT)
    os.close(write_end)
    os.close(read_end)


def test_mistakes(test):
    refused(test, 'example', 'local:example', status=2, says=['numbers, --batch or --watch'], cure='--help')
    refused(test, 'example', 'local:example', '--batch', '5', status=2, says=['--batch'])
    refused(test, 'example', 'local:example', '--watch', says=['no limit'])
    refused(test, 'example', 'local:blk,ram,size=1M', '5', says=['not an example device'])
    refused(test, 'serve', 'example', '--listen', 'vfio-user:x.sock', '--limit', '1', '--limit-file', 'y',
            says=['--limit, --limit-file: they are mutually exclusive'], cure='leave one', status=2)
    refused(test, 'serve', 'example', '--listen', 'vfio-user:x.sock', '--limit-file', test.folder / 'none',
            says=['none', 'no limit can be read'])


harness.main(globals())
