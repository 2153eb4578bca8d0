#!/usr/bin/env python3
"""Reads which names of the standard library and of fmt a file uses, and complains where it does not include their headers.

The precompiled headers hide that from the compiler in our own trees; who compiles us as a subdirectory has none. An include
counts also when it stands in one of our headers that the file includes. Usage: check_std_includes.py [SOURCE_FOLDER]
"""

import pathlib
import re
import sys

import rooms

# Each header, and the names that are looked for. ranges::NAME of <algorithm> are all of them but `ranges::views`.
NAMES = {
    'algorithm': 'min max minmax clamp copy copy_n fill fill_n find find_if all_of any_of none_of sort stable_sort equal count '
                 'count_if transform lower_bound upper_bound remove_if reverse rotate swap_ranges max_element min_element',
    'array': 'array to_array',
    'atomic': 'atomic atomic_ref atomic_flag atomic_thread_fence atomic_signal_fence memory_order memory_order_relaxed '
              'memory_order_acquire memory_order_release memory_order_acq_rel memory_order_seq_cst',
    'bit': 'bit_cast bit_ceil bit_floor bit_width byteswap countl_one countl_zero countr_zero endian has_single_bit popcount',
    'bitset': 'bitset',
    'charconv': 'from_chars to_chars',
    'chrono': 'chrono chrono_literals',
    'concepts': 'convertible_to derived_from floating_point integral invocable same_as signed_integral unsigned_integral',
    'condition_variable': 'condition_variable',
    'cstddef': 'byte max_align_t nullptr_t ptrdiff_t size_t to_integer',
    'cstdint': 'int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t',
    'cstdio': 'FILE fclose fflush fopen fprintf fputs snprintf tmpfile',
    'cstdlib': 'abort aligned_alloc at_quick_exit atexit exit free getenv quick_exit strtoul strtoull',
    'cstring': 'memchr memcmp memcpy memmove memset strerror strlen',
    'deque': 'deque',
    'exception': 'exception exception_ptr terminate',
    'expected': 'expected unexpected',
    'filesystem': 'filesystem',
    'fmt/format.h': 'fmt::format fmt::format_to fmt::formatter fmt::memory_buffer fmt::join fmt::print',
    'fstream': 'fstream ifstream ofstream',
    'functional': 'function greater hash invoke less move_only_function plus ref',
    'future': 'async future future_status launch promise',
    'initializer_list': 'initializer_list',
    'iostream': 'cerr cout',
    'iterator': 'back_inserter distance istreambuf_iterator make_move_iterator next prev size ssize',
    'limits': 'numeric_limits',
    'list': 'list',
    'map': 'map multimap',
    'memory': 'addressof construct_at destroy_at enable_shared_from_this make_shared make_unique shared_ptr unique_ptr weak_ptr',
    'mutex': 'call_once lock_guard mutex once_flag recursive_mutex scoped_lock unique_lock',
    'new': 'align_val_t bad_alloc nothrow',
    'numeric': 'accumulate gcd iota',
    'optional': 'nullopt optional',
    'queue': 'priority_queue queue',
    'random': 'minstd_rand mt19937 mt19937_64 random_device uniform_int_distribution',
    'ranges': 'views',
    'regex': 'regex regex_search smatch',
    'set': 'multiset set',
    'source_location': 'source_location',
    'span': 'as_bytes as_writable_bytes dynamic_extent span',
    'sstream': 'istringstream ostringstream stringstream',
    'stdexcept': 'invalid_argument logic_error out_of_range runtime_error',
    'string': 'getline string to_string',
    'string_view': 'string_view string_view_literals',
    'system_error': 'errc error_code generic_category system_category system_error',
    'thread': 'jthread this_thread thread',
    'tuple': 'apply make_tuple tie tuple',
    'type_traits': 'conditional_t decay_t false_type has_unique_object_representations_v invoke_result_t is_const_v is_enum_v '
                   'is_integral_v is_same_v is_standard_layout_v is_trivially_copyable_v is_unsigned_v is_void_v '
                   'make_unsigned_t remove_const_t remove_cv_t remove_cvref_t true_type type_identity_t underlying_type_t',
    'unordered_map': 'unordered_map',
    'unordered_set': 'unordered_set',
    'utility': 'as_const cmp_greater cmp_less exchange forward in_place index_sequence make_index_sequence make_pair move pair '
               'swap to_underlying unreachable',
    'variant': 'get_if holds_alternative monostate variant visit',
    'vector': 'vector',
}
HEADER_OF = {name: header for header, names in NAMES.items() for name in names.split()}
CONTAINERS = {'array', 'deque', 'list', 'map', 'set', 'span', 'string', 'string_view', 'unordered_map', 'vector'}
# What the standard says comes with another header.
COMES_WITH = {
    ('errc', 'charconv'), ('in_place', 'optional'), ('in_place', 'variant'),
    *(('size', header) for header in CONTAINERS), *(('size_t', header) for header in CONTAINERS | {'cstring', 'cstdlib', 'cstdio'}),
    *(('initializer_list', header) for header in CONTAINERS | {'algorithm', 'utility', 'optional', 'memory'}),
    *(('getline', header) for header in ('fstream', 'sstream', 'iostream')),
}
USE = re.compile(r'\bstd::(?:(ranges)::)?(\w+)|\b(fmt::\w+)')
COMMENTS_AND_STRINGS = re.compile(r'''//[^\n]*|'"'|"(?:\\.|[^"\\\n])*"''')
FOLDERS = ('outboard', 'tools', 'examples')


def uses(text):
    """{name: header} of what a file uses."""
    found = {}
    for ranges, name, other in USE.findall(COMMENTS_AND_STRINGS.sub('""', text)):
        if ranges:
            found[f'ranges::{name}'] = 'ranges' if name == 'views' else 'algorithm'
        elif header := HEADER_OF.get(other or name):
            found[other or name] = header
    return found


def reached(source, path):
    """The foreign headers that a file includes, itself or by one of ours."""
    return {name for file in rooms.closure(path, source) for name in rooms.included(file) if name.split('/')[0] not in rooms.OURS}


def check(source):
    for path in sorted(file for folder in FOLDERS for file in (source / folder).rglob('*.[ch]pp')):
        there = reached(source, path)
        for name, header in sorted(uses(path.read_text()).items()):
            if header not in there and not any((name, other) in COMES_WITH for other in there):
                yield f'{path.relative_to(source)}: uses {name} without including <{header}>'


def main():
    source = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else rooms.SOURCE
    complaints = list(check(source))
    print('\n'.join(complaints), end='\n' if complaints else '', file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == '__main__':
    main()
