"""The programs of the README do what they say."""

import json

from command import harness


def program(test, name):
    path = test.command.parent.parent / 'examples' / f'example_{name}'
    if not path.exists():
        test.skip(f'{path.name} was not built')
    return path


def test_read_disk(test):
    read_disk = program(test, 'read_disk')
    image = test.image(size=1 << 20, data=b'A')
    server = test.serve('blk', '--image', test.image(name='served.raw', size=1 << 20, data=b'A'))
    for target in (f'local:blk,image={image}', server.target):
        said = test.run([read_disk, target]).stdout.decode()
        test.true(said.startswith('1048576 bytes') and said.endswith('0x41\n'), f'it says {said}')
    test.run([read_disk, 'local:nothing'], status=1)


def test_drive_edu(test):
    server = test.serve('edu')
    for target in ('local:edu', server.target):
        said = test.run([program(test, 'drive_edu'), target]).stdout.decode()
        test.equal(said, f'{target}: 12! is 479001600\n{target}: there and back again\n')
    test.run([program(test, 'drive_edu'), 'local:blk,null,size=1M'], status=1)


def test_increment_device(test):
    path = test.sockets / 'increment.sock'
    test.start([program(test, 'increment_device'), path])
    shown = json.loads(test.outboard('show', f'vfio-user:{path}', '--wait', '10', '--json').stdout)
    test.equal((shown['virtio']['device_id'], shown['virtio']['queue_sizes']), (63, [64]))


harness.main(globals())
