# Programs made of the library: the command, examples, benchmarks. Each looks into its folder and tolerates its absence.

include_guard(GLOBAL)

# outboard_add_programs(FOLDER PATTERN PREFIX LINKS lib...): one program, PREFIX + file name, for each matching file.
function(outboard_add_programs folder pattern prefix)
  cmake_parse_arguments(PARSE_ARGV 3 arg "" "" "LINKS")
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${folder}/${pattern}")
  foreach(source IN LISTS sources)
    get_filename_component(name "${source}" NAME_WE)
    set(program "${prefix}${name}")
    add_executable(${program} "${source}")
    outboard_compile_settings(${program})
    outboard_see_all_rooms(${program})
    target_link_libraries(${program} PRIVATE ${arg_LINKS})
    set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/${folder}")
  endforeach()
endfunction()

# Generates the source file of what `outboard new` writes; its path goes to RESULT.
function(_outboard_embed_templates result)
  set(folder "${PROJECT_SOURCE_DIR}/templates/device")
  set(output "${PROJECT_BINARY_DIR}/generated/device_templates.cpp")
  set(script "${PROJECT_SOURCE_DIR}/cmake/embed_templates.cmake")
  file(GLOB_RECURSE templates CONFIGURE_DEPENDS "${folder}/*.in")
  add_custom_command(OUTPUT "${output}"
    COMMAND "${CMAKE_COMMAND}" "-DFOLDER=${folder}" "-DOUTPUT=${output}" -P "${script}"
    DEPENDS "${script}" ${templates}
    COMMENT "Embedding templates/device" VERBATIM)
  set(${result} "${output}" PARENT_SCOPE)
endfunction()

# The `outboard` command, from tools/outboard/*.cpp.
function(outboard_add_command)
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tools/outboard/*.cpp")
  file(GLOB tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tools/outboard/*_test.cpp")
  if(tests)
    list(REMOVE_ITEM sources ${tests})
  endif()
  if(NOT sources)
    return()
  endif()
  _outboard_embed_templates(templates)
  list(APPEND sources "${templates}")
  find_package(spdlog REQUIRED)
  find_package(CLI11 REQUIRED)
  add_executable(outboard_command ${sources})
  outboard_compile_settings(outboard_command)
  set(definitions OUTBOARD_VERSION="${PROJECT_VERSION}" OUTBOARD_LIBDIR="${CMAKE_INSTALL_LIBDIR}")
  target_compile_definitions(outboard_command PRIVATE ${definitions})
  target_include_directories(outboard_command PRIVATE "${PROJECT_SOURCE_DIR}")  # <tools/outboard/x.hpp>
  target_link_libraries(outboard_command PRIVATE
    outboard::outboard spdlog::spdlog CLI11::CLI11 nlohmann_json::nlohmann_json)
  set_target_properties(outboard_command PROPERTIES
    OUTPUT_NAME outboard RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
  install(TARGETS outboard_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  if(tests AND OUTBOARD_TESTS)
    set(parts ${sources})
    list(FILTER parts EXCLUDE REGEX "/main\\.cpp$")
    _outboard_add_test_program(command_test unit outboard::outboard "${tests};${parts}"
      outboard::testing spdlog::spdlog CLI11::CLI11 nlohmann_json::nlohmann_json)
    target_include_directories(command_test PRIVATE "${PROJECT_SOURCE_DIR}")
    target_compile_definitions(command_test PRIVATE ${definitions})
  endif()
endfunction()

# Targets that `./dev` builds in trees where not everything is wanted.
function(outboard_finish_tests)
  foreach(label IN ITEMS unit threads fuzz)
    get_property(programs GLOBAL PROPERTY OUTBOARD_TEST_PROGRAMS_${label})
    add_custom_target(outboard_${label}_programs)
    if(programs)
      add_dependencies(outboard_${label}_programs ${programs})
    endif()
  endforeach()
endfunction()
