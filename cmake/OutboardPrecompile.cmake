# Precompiled headers: a third to a half of the time that a source takes is the standard library's and GoogleTest's headers.
# Much of the rest is what each source instantiates of them: trees with a sanitizer compile ten sources as one (CMAKE_UNITY_BUILD in
# CMakePresets.json), so names in unnamed namespaces of one room differ. Tests are compiled one by one.
#
# Only in trees of our own: who adds us as a subdirectory has other flags. A source that relies on them without including what it
# uses is found by tests/lint/check_std_includes.py.

include_guard(GLOBAL)

# What most sources of the library include, and what most tests do. In angle brackets, since CMake writes any other name with its
# whole path, and ccache would take each clone's precompiled headers for others.
set(OUTBOARD_PRECOMPILE_library <algorithm> <array> <atomic> <chrono> <cstddef> <cstdint> <cstring> <deque> <expected> <functional>
  <map> <memory> <mutex> <optional> <ranges> <span> <string> <string_view> <utility> <vector> <fmt/format.h>)
set(OUTBOARD_PRECOMPILE_tests ${OUTBOARD_PRECOMPILE_library} <filesystem> <fstream> <gmock/gmock.h> <gtest/gtest.h>)

option(OUTBOARD_PRECOMPILE "Precompile the headers of the standard library and of GoogleTest" ${PROJECT_IS_TOP_LEVEL})

# outboard_precompile(TARGET library|tests): both kinds are compiled once, with the flags of the first target that asks; a target
# with others cannot have them.
function(outboard_precompile target kind)
  if(NOT OUTBOARD_PRECOMPILE)
    return()
  endif()
  get_property(first GLOBAL PROPERTY OUTBOARD_PRECOMPILED_${kind})
  if(first)
    target_precompile_headers(${target} REUSE_FROM ${first})
  else()
    set_property(GLOBAL PROPERTY OUTBOARD_PRECOMPILED_${kind} ${target})
    target_precompile_headers(${target} PRIVATE ${OUTBOARD_PRECOMPILE_${kind}})
  endif()
  # For ccache, too: without these each precompiled header is another one.
  target_compile_options(${target} PRIVATE
    $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess> "$<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>")
endfunction()
