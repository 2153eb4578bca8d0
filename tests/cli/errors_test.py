"""Errors for people: one line that names the thing, a cure, and an exit status that a script can tell apart."""

import os
import pty
import select
import struct
import tty

from command import RAM, FakeServer, as_nobody, complaint, harness, refused


def test_usage_is_status_2(test):
    for arguments in ([], ['frobnicate'], ['serve'], ['serve', 'blk', '--frobnicate'], ['blk'], ['blk', 'read'],
                      ['blk', 'bench', RAM, '--rw', 'sideways'], ['blk', 'bench', RAM, '--depth', '0'],
                      ['blk', 'read', RAM, '--offset', '5Z'], ['show', RAM, '--wait', 'soon'],
                      ['serve', 'blk', '--null', '--size', '1M'],
                      *(['serve', 'blk', '--null', '--size', '1M', *words, '--listen', f'vfio-user:{test.sockets}/x']
                        for words in (['--queues', '257'], ['--queue-size', '3'], ['--vectors', '1'])),
                      ['serve', 'blk', '--null', '--size', '1M', '--listen', f'vfio-user:{test.sockets}/x', '--fd', '3'],
                      ['lspci', RAM, '-x', '--dump'], ['serve', 'blk', '--null', '--null']):
        refused(test, *arguments, status=2)


def test_words_that_no_verb_knows(test):
    refused(test, 'shwo', 'x', says=["'shwo'"], cure='show', status=2)
    refused(test, 'serve', 'disk', '--ram', says=["'disk'", 'outboard serve'], cure='blk', status=2)
    refused(test, 'blk', 'raed', RAM, says=["'raed'"], cure='read, write', status=2)
    refused(test, 'blk', says=['needs a verb'], cure='info, read', status=2)
    for words in (['serve', '-v'], ['vduse', '--json'], ['blk', '-v']):
        refused(test, *words, says=[f'`outboard {words[0]}` needs a verb'], cure='its verbs: ', status=2)
    refused(test, 'serve', 'blk', '--null', '--size', '1M', says=['no listener is given'], cure='--listen vfio-user:PATH',
            status=2)
    refused(test, 'show', RAM, 'b', 'c', says=['unexpected argument: b c'], cure='outboard show --help', status=2)
    refused(test, '-v', 'serve', 'blk', '--null', '--size', '1M', '--listen', f'vfio-user:{test.sockets}/x',
            says=['unexpected before the verb: -v'], cure='outboard serve blk --help', status=2)


def test_help_of_an_unknown_verb_is_a_usage_error(test):
    for words in (['help', 'nope'], ['nope', '--help'], ['help', 'blk', 'nope'], ['blk', 'nope', '--help']):
        done = refused(test, *words, says=["unknown verb 'nope'"], cure='its verbs: ', status=2)
        test.true('Usage' not in done, done)


def test_v_twice_adds_debug_lines(test):
    for verb in (['show', RAM], ['blk', 'info', RAM]):
        once, twice = (test.outboard(*verb, option).stderr.decode() for option in ('-v', '-vv'))
        test.true(' debug ' not in once and ' debug ' in twice, f'-v says {once!r}, -vv says {twice!r}')


def test_help_lists_every_target_and_listener(test):
    text = test.outboard('--help').stdout.decode()
    for kind in ('vfio:', 'vfio-user:PATH', 'local:', 'vduse:NAME'):
        test.true(kind in text, f'{kind} is not in the help')


def test_a_word_without_its_value(test):
    said = refused(test, 'serve', 'blk', '--image', '', '--listen', f'vfio-user:{test.sockets}/x', says=['a value is missing'], status=2)
    test.true('image=' not in str(said), f'the syntax of a target: {said}')


def test_numbers_that_are_none(test):
    for words in (['show', RAM, '--wait', 'nan'], ['show', RAM, '--wait', '-1'], ['blk', 'bench', RAM, '--seconds', 'inf'],
                  ['blk', 'bench', RAM, '--depth', '1.5']):
        refused(test, *words, says=[words[-2]], status=2)
    refused(test, 'blk', 'bench', 'local:blk,null,size=16G', '--bs', '5G', says=['--bs', '1 GiB'], status=2)


def test_help_has_an_example(test):
    for verb in (['serve'], ['serve', 'blk'], ['show'], ['lspci'], ['blk'], ['blk', 'info'], ['blk', 'read'],
                 ['blk', 'write'], ['blk', 'verify'], ['blk', 'bench'], ['reset'], ['doctor']):
        text = test.outboard(*verb, '--help').stdout.decode()
        test.true('Example:' in text and f'outboard {" ".join(verb)}' in text, f'no example for {verb}: {text}')
        test.equal(test.outboard('help', *verb).stdout.decode(), text, f'help {verb}')
    help_text = test.outboard('--help').stdout
    test.equal(test.outboard('help').stdout, help_text, 'outboard help')
    test.true(test.outboard('--version').stdout.startswith(b'outboard 0.'), 'no version')


def test_help_that_nobody_gets_is_a_failure(test):
    for words in ('--help', '--version', 'help'):
        done = test.run(['bash', '-c', f'"$0" {words} >/dev/full', test.command], status=1)
        complaint(test, done, 'standard output', 'No space left')


def test_words_of_a_target(test):
    refused(test, 'show', 'disk.raw', says=['disk.raw', 'not a target'], cure='vfio-user:PATH', status=2)
    refused(test, 'show', 'vfoi-user:/x', says=["'vfoi-user'"], cure='vfio-user:PATH', status=2)
    refused(test, 'show', 'local:disk', says=["'disk'"], cure='blk', status=2)
    refused(test, 'show', 'local:blk,null,size=1M,pakced', says=['pakced: unknown option'], cure='packed', status=2)
    refused(test, 'show', 'local:blk,pakced', says=['pakced: unknown option'], cure='packed', status=2)
    refused(test, 'show', 'local:edu,ram', says=['ram: unknown option'], cure='dma-mask', status=2)
    refused(test, 'show', 'local:blk', says=['image, ram, null: no backing storage'], cure='image=FILE', status=2)
    refused(test, 'show', 'local:blk,null', says=['size: a null disk needs a size'], cure='size=64M', status=2)
    refused(test, 'show', 'local:blk,null,size=big', says=["size: 'big'"], status=2)
    refused(test, 'show', 'local:blk,null,size=1M,queues=300', says=['queues: 300'], status=2)
    refused(test, 'show', 'local:blk,null,size=1M,size=2M', says=['size: given twice'], status=2)
    refused(test, 'show', 'local:blk,null,size=1M,threads=2', says=['threads: unknown option'], status=2)
    refused(test, 'show', 'vfio:nowhere', says=['nowhere'], status=2)


def test_a_value_that_an_option_does_not_take_is_status_2(test):
    disk = ['serve', 'blk', '--listen', f'vfio-user:{test.sockets}/s']
    null = [*disk, '--null', '--size', '1M']
    for words in (['--queues', '257'], ['--queues', 'two'], ['--queue-size', '3'], ['--queue-size', '100'],
                  ['--serial', 'x' * 21], ['--vectors', '1'], ['--spin', '-1'], ['--iommu-platform', 'foo']):
        refused(test, *null, *words, says=[f'{words[0]}: '], status=2)
    for size in ('12x', '0', '1000'):
        refused(test, *disk, '--ram', '--size', size, says=['--size: '], status=2)
    refused(test, *disk, '--ram', says=['--size: a ram disk needs a size'], cure='--size 64M', status=2)
    refused(test, *disk, '--image', 'disk.raw', '--engine', 'magic', says=["--engine: 'magic'", 'io_uring'], status=2)
    refused(test, *null, '--direct', says=['--direct: has no use beside --null, --size'], cure='leave it out', status=2)
    refused(test, *disk, says=['--image, --ram, --null: no backing storage is given'], cure='--image FILE', status=2)
    refused(test, *null, '--image', 'x', says=['--image, --ram, --null'], cure='--ram', status=2)
    refused(test, 'serve', 'edu', '--dma-mask', 'x', '--listen', f'vfio-user:{test.sockets}/s', says=['--dma-mask: '], status=2)
    refused(test, 'serve', 'blk', '--null', '--size', '1M', '--fd', '77', says=['--fd: descriptor 77 is not open'], status=2)
    # What is wrong with the thing that an option names is no wrong usage.
    refused(test, *disk, '--image', test.folder / 'none', says=['no such image'], cure='truncate', status=1)


def test_an_option_of_the_other_listener(test):
    null = ['serve', 'blk', '--null', '--size', '1M', '--listen']
    for words in (['--threads', '2'], ['--replace'], ['--accept-other-storage'], ['--old-requests-ended'], ['--journal', 'x'], ['--no-attach']):
        refused(test, *null, f'vfio-user:{test.sockets}/s', *words, says=[words[0], 'for vduse:NAME', test.sockets],
                cure='leave it out', status=2)
    for words in (['--error-interrupt'], ['--vectors', '3'], ['--unplug-wait', '3']):
        refused(test, *null, 'vduse:none', *words, says=[words[0], 'for vfio-user:PATH', 'vduse:none'], cure='leave it out',
                status=2)
    refused(test, *null, 'vduse:none', '--journal', 'x', '--no-journal', says=['--journal, --no-journal', 'mutually exclusive'],
            cure='leave one', status=2)
    refused(test, *null, 'vduse:none', '--old-requests-ended', says=['--old-requests-ended: needs --accept-other-storage'],
            cure='add --accept-other-storage', status=2)
    refused(test, *null, 'vduse:none', '--iommu-platform', 'on', says=['--iommu-platform: '], cure='--iommu-platform require',
            status=2)


def test_too_few_file_descriptors(test):
    for limit, queues in ((9, 1), (12, 1), (16, 1), (64, 256), (400, 256)):
        done = test.run(['bash', '-c', f'ulimit -n {limit}; exec "$0" "$@"', test.command, 'serve', 'blk', '--null', '--size',
                         '1M', '--queues', queues, '--listen', f'vfio-user:{test.sockets}/s'], status=1)
        complaint(test, done, 'file', cure='ulimit -n')


def test_a_listener_that_cannot_exist_is_a_usage_error(test):
    null = ['serve', 'blk', '--null', '--size', '1M', '--listen']
    for name in ('a/b', 'control', 'x' * 65):
        refused(test, *null, f'vduse:{name}', says=[f"'{name}'"], cure='1 to 64', status=2)
    path = f'/tmp/{"x" * 200}'
    refused(test, *null, f'vfio-user:{path}', says=['107'], cure='shorter', status=2)
    refused(test, 'serve', 'edu', '--listen', f'vfio-user:{path}', says=['107'], cure='shorter', status=2)
    refused(test, 'serve', 'pci', '--device', RAM, '--listen', f'vfio-user:{path}', says=['107'], cure='shorter', status=2)
    refused(test, 'show', f'vfio-user:{path}', says=['107'], cure='shorter', status=2)


def test_words_of_a_listener(test):
    refused(test, 'serve', 'blk', '--null', '--size', '1M', '--listen', 'tcp:80', says=["'tcp'"], cure='vfio-user:PATH',
            status=2)


def test_no_such_image(test):
    path = test.folder / 'missing.raw'
    refused(test, 'serve', 'blk', '--image', path, '--listen', f'vfio-user:{test.sockets}/s', says=[path, 'no such image'],
            cure='truncate')


def test_image_that_is_not_whole_sectors(test):
    image = test.image(size=1000)
    refused(test, 'serve', 'blk', '--image', image, '--listen', f'vfio-user:{test.sockets}/s', says=[image, '512'],
            cure='truncate')
    test.equal(os.path.getsize(image), 1000, 'the size of the image')
    test.true(not (test.sockets / 's').exists(), 'a socket was left')


def test_image_that_is_a_folder(test):
    refused(test, 'serve', 'blk', '--image', test.folder, '--listen', f'vfio-user:{test.sockets}/s', says=[test.folder])


def test_image_that_another_server_has(test):
    image = test.image()
    test.serve('blk', '--image', image)
    refused(test, 'serve', 'blk', '--image', image, '--listen', f'vfio-user:{test.sockets}/s', says=[image, 'is using the image'],
            cure='fuser', notice='waiting up to 3 s: process')
    refused(test, 'blk', 'info', f'local:blk,image={image}', says=[image, 'is using the image'], cure='fuser')


def test_folder_of_the_socket_is_missing(test):
    path = test.sockets / 'no' / 's'
    refused(test, 'serve', 'blk', '--null', '--size', '1M', '--listen', f'vfio-user:{path}', says=[path], cure='create')


def test_path_that_is_no_socket(test):
    image = test.image()
    refused(test, 'serve', 'blk', '--null', '--size', '1M', '--listen', f'vfio-user:{image}', says=[image, 'no socket'])
    test.equal(os.path.getsize(image), 64 << 20, 'the size of what is there')


def test_socket_of_a_live_server(test):
    server = test.serve('blk', '--null', '--size', '1M')
    refused(test, 'serve', 'blk', '--null', '--size', '1M', '--listen', server.target, says=[server.socket, 'live server'],
            cure='another path')
    test.outboard('show', server.target)


def test_socket_of_a_dead_server_is_replaced(test):
    server = test.serve('blk', '--ram', '--size', '1M')
    server.kill()
    test.true(server.socket.exists(), 'the dead server has left no socket')
    again = test.serve('blk', '--ram', '--size', '2M', socket_path=server.socket)
    test.true(b'2097152' in test.outboard('blk', 'info', again.target, '--json').stdout, 'not the new server')


def test_no_right_to_an_image_or_a_socket(test):
    words = as_nobody(test)
    image = test.sockets / 'private.raw'
    image.write_bytes(bytes(1 << 20))
    image.chmod(0)
    listener = f'vfio-user:{test.sockets}/s'
    done = test.run([*words, 'serve', 'blk', '--image', image, '--listen', 'vfio-user:/tmp/outboard-nobody'], status=1)
    complaint(test, done, image, 'ermission')
    if os.geteuid() == 0:
        done = test.run([*words, 'serve', 'blk', '--null', '--size', '1M', '--listen', listener], status=1)
        complaint(test, done, f'{test.sockets}/s', 'ermission', cure='directory')
        server = test.serve('blk', '--null', '--size', '1M')
        complaint(test, test.run([*words, 'show', server.target], status=1), server.socket, 'ermission')


def test_nobody_listens(test):
    path = test.sockets / 'none'
    refused(test, 'show', f'vfio-user:{path}', says=[path], cure='outboard serve')


def test_a_lock_file_of_another_user(test):
    words = as_nobody(test)
    if os.geteuid() != 0:
        test.skip('there is no other user to be had')
    folder = test.sockets / 'shared'
    folder.mkdir()
    folder.chmod(0o777)
    (folder / 's.lock').touch(0o600)
    done = test.run([*words, 'serve', 'blk', '--null', '--size', '1M', '--listen', f'vfio-user:{folder}/s'], status=1)
    complaint(test, done, f'{folder}/s.lock is not a file of this user', cure='remove')


def test_a_second_client_is_told_who_has_the_device(test):
    server = test.serve('blk', '--ram', '--size', '16M')
    first = test.start([test.command, 'blk', 'bench', server.target, '--seconds', '60'])
    harness.wait_until(lambda: (test.sockets / f'{server.socket.name}.lock').read_bytes(), 20, 'the first client')
    refused(test, 'show', server.target, says=[server.socket, 'another client', f'process {first.pid}'])
    test.true(first.running(), 'the first client has ended')


def test_another_protocol_on_the_socket(test):
    def http(client):
        client.sendall(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' * 4)
        client.recv(4096)

    def zeros(client):
        client.recv(4096)
        client.sendall(bytes(64))

    def echo(client):
        client.sendall(client.recv(4096))

    def goodbye(client):
        client.recv(4)

    for talk in (http, zeros, echo, goodbye):
        path = test.sockets / talk.__name__
        with FakeServer(path, talk):
            refused(test, 'show', f'vfio-user:{path}', says=[path])


def test_another_version_of_the_protocol(test):
    def version_1(client):
        message = client.recv(4096)
        number = struct.unpack_from('<H', message)[0]
        client.sendall(struct.pack('<HHIIIHH', number, 1, 20, 1, 0, 1, 0))
        client.recv(4096)

    path = test.sockets / 'one'
    with FakeServer(path, version_1):
        refused(test, 'show', f'vfio-user:{path}', says=[path, 'version'])


def test_ranges_beyond_the_disk(test):
    refused(test, 'blk', 'read', RAM, '--offset', '17M', says=['16777216'])
    refused(test, 'blk', 'read', RAM, '--length', '17M', says=['16777216'])
    refused(test, 'blk', 'write', RAM, '--offset', '16M', stdin=b'x', says=['16777216'])
    refused(test, 'blk', 'verify', RAM, '--write', '--length', '100', says=['512'])
    refused(test, 'blk', 'bench', RAM, '--bs', '100', says=['512'])
    refused(test, 'blk', 'bench', RAM, '--bs', '32M', '--seconds', '0.1')


def test_writing_to_a_read_only_disk(test):
    image = test.image(size=1 << 20)
    refused(test, 'blk', 'write', f'local:blk,image={image},read-only', stdin=b'x', says=['ead-only'])


def test_input_that_is_too_short(test):
    refused(test, 'blk', 'write', RAM, '--length', '4096', stdin=b'x' * 100, says=['standard input', '100 of 4096'])


def test_bytes_of_a_disk_do_not_go_to_a_terminal(test):
    keyboard, screen = pty.openpty()
    tty.setraw(screen)
    command = ['bash', '-c', f'exec "$0" blk read {RAM} --length 512 "$@" >&{screen}', test.command]
    client = test.start(command, pass_fds=(screen,))
    test.equal(client.wait(), 2, 'the exit status')
    test.true('not printed on a terminal' in client.output() and '--force' in client.output(), f'it says {client.output()}')
    test.equal(select.select([keyboard], [], [], 0)[0], [], 'what the terminal got')
    forced = test.start([*command, '--force'], pass_fds=(screen,))
    shown = b''
    while len(shown) < 512:
        shown += os.read(keyboard, 4096)
    test.equal(shown, bytes(512), 'what the terminal got')
    test.equal(forced.wait(), 0, 'the exit status')
    os.close(keyboard)
    os.close(screen)


def test_nobody_reads_the_output(test):
    script = f'"$0" blk read {RAM} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}'
    done = test.run(['bash', '-c', script, test.command], status=1)
    test.equal(done.stderr, b'', 'what it says')


def test_only_users_that_may_get_in(test):
    nobody = as_nobody(test)
    if nobody == [test.command]:
        test.skip('only root can be somebody else')
    closed = test.serve('blk', '--ram', '--size', '1M')
    open_to = {words: test.serve('blk', '--ram', '--size', '1M', *words.split())
               for words in ('--allow-uid 65534', '--allow-uid nobody', '--allow-gid 65534', '--allow-uid 12345')}
    for words, server in open_to.items():
        may = '12345' not in words
        done = test.run([*nobody, 'blk', 'info', server.target], status=0 if may else 1)
        if not may:
            complaint(test, done, 'does not let this user in', cure='--allow-uid')
        refused(test, 'blk', 'info', server.target, says=['does not let this user in'], cure='--allow-uid')
    test.true('no permission to connect' in test.run([*nobody, 'blk', 'info', closed.target], status=1).stderr.decode(),
              'the permissions of a socket without these options do not hold')
    test.outboard('blk', 'info', closed.target)
    for words, says in (('--allow-uid=no-such-user', 'no user'), ('--allow-gid=no-such-group', 'no group'),
                        ('--allow-uid=4294967295', 'no user')):
        refused(test, 'serve', 'blk', '--ram', '--size', '1M', '--listen', f'vfio-user:{test.sockets}/x', words, says=[says],
                status=2)


harness.main(globals())
