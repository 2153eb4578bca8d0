# How everything of ours is compiled. Applied target by target, so that a project that adds us as a
# subdirectory keeps its own flags.

include_guard(GLOBAL)

option(OUTBOARD_WERROR "Warnings are errors" ${PROJECT_IS_TOP_LEVEL})

function(outboard_compile_settings target)
  target_compile_features(${target} PUBLIC cxx_std_23)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wnon-virtual-dtor -Woverloaded-virtual -Wextra-semi -Wcast-align
    -Wvla -Wimplicit-fallthrough -Wunused -Wformat=2 -Wundef
    # g++ would also complain about a parameter that is named as a member function is.
    $<IF:$<CXX_COMPILER_ID:GNU>,-Wshadow=local,-Wshadow>
    # A designated initialiser names what it sets; the rest is meant to be default.
    -Wno-missing-field-initializers
    # g++ 12 reports copies inside std::string that cannot happen (its bug 105651).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
    $<$<BOOL:${OUTBOARD_WERROR}>:-Werror>)
endfunction()
