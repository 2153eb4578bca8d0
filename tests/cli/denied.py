"""Runs a program for which some system calls fail: denied.py ENOSYS|EPERM CALL[,CALL...] PROGRAM ARGUMENT...

What an older kernel (ENOSYS) or a container's seccomp profile (EPERM) does to it. The filter stays with all that it executes.
"""

import ctypes
import errno
import os
import struct
import sys

# Calls that came with Linux 5.1 or later have one number on every architecture.
CALLS = {
    'io_uring_setup': 425, 'io_uring_enter': 426, 'io_uring_register': 427, 'pidfd_send_signal': 424, 'pidfd_open': 434,
    'close_range': 436, 'openat2': 437, 'pidfd_getfd': 438, 'faccessat2': 439, 'process_madvise': 440, 'epoll_pwait2': 441,
    'fchmodat2': 452,
}
# Without these nothing works, and the command has to say so.
NEEDED = {'clone3': 435}
# linux/filter.h, linux/seccomp.h, linux/prctl.h
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL_WITH = 0x7fff0000, 0x00050000
SET_NO_NEW_PRIVS, SET_SECCOMP, FILTER_MODE = 38, 22, 2


class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_char_p)]


def instruction(code, value, if_true=0):
    return struct.pack('=HBBI', code, if_true, 0, value)


def deny(numbers, error):
    text = instruction(LOAD_WORD, 0)  # seccomp_data.nr
    for i, number in enumerate(numbers):
        text += instruction(JUMP_IF_EQUAL, number, len(numbers) - i)
    text += instruction(RETURN, ALLOW) + instruction(RETURN, FAIL_WITH | error)
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(text) // 8, text)
    if libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.prctl(SET_SECCOMP, FILTER_MODE, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), 'installing a seccomp filter')


if __name__ == '__main__':
    deny([(CALLS | NEEDED)[name] for name in sys.argv[2].split(',')], getattr(errno, sys.argv[1]))
    os.execvp(sys.argv[3], sys.argv[3:])
