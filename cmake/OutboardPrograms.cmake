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

# The command under the name by which management software starts a device (tools/outboard/serve/backend_program.hpp),
# and the description by which it finds it: back-end program conventions of the vfio-user specification. TYPE as in QEMU's
# docs/interop/vhost-user.json. The path in the description is known when it is installed.
function(_outboard_add_backend_program device type description)
  set(name "outboard-vfio-user-${device}")
  add_custom_command(TARGET outboard_command POST_BUILD
    COMMAND "${CMAKE_COMMAND}" -E create_symlink "$<TARGET_FILE_NAME:outboard_command>" "${name}"
    WORKING_DIRECTORY "${PROJECT_BINARY_DIR}/bin" VERBATIM)
  install(FILES "${PROJECT_BINARY_DIR}/bin/${name}" DESTINATION "${CMAKE_INSTALL_BINDIR}")
  install(CODE "
    set(OUTBOARD_BACKEND_DESCRIPTION [[${description}]])
    set(OUTBOARD_BACKEND_TYPE [[${type}]])
    get_filename_component(folder [[${CMAKE_INSTALL_BINDIR}]] ABSOLUTE BASE_DIR \"\${CMAKE_INSTALL_PREFIX}\")
    set(OUTBOARD_BACKEND_BINARY \"\${folder}/${name}\")
    set(file [[${PROJECT_BINARY_DIR}/50-${name}.json]])
    configure_file([[${PROJECT_SOURCE_DIR}/cmake/backend_program.json.in]] \"\${file}\" @ONLY)
    get_filename_component(data [[${CMAKE_INSTALL_DATADIR}]] ABSOLUTE BASE_DIR \"\${CMAKE_INSTALL_PREFIX}\")
    file(INSTALL \"\${file}\" DESTINATION \"\${data}/vfio-user\")")
endfunction()

# The `outboard` command, from tools/outboard/*.cpp and the folders of its verbs.
function(outboard_add_command)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tools/outboard/*.cpp")
  file(GLOB_RECURSE tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tools/outboard/*_test.cpp")
  if(tests)
    list(REMOVE_ITEM sources ${tests})
  endif()
  if(NOT sources)
    return()
  endif()
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  _outboard_embed_templates(templates)
  find_package(spdlog REQUIRED)
  find_package(CLI11 REQUIRED)
  # Compiled once, for the command and for its tests.
  add_library(outboard_command_parts OBJECT ${sources} "${templates}")
  outboard_compile_settings(outboard_command_parts)
  set_target_properties(outboard_command_parts PROPERTIES POSITION_INDEPENDENT_CODE ON)  # as what was precompiled
  outboard_precompile(outboard_command_parts library)
  configure_file("${PROJECT_SOURCE_DIR}/cmake/build_facts.hpp.in" "${PROJECT_BINARY_DIR}/generated/tools/outboard/build_facts.hpp" @ONLY)
  target_include_directories(outboard_command_parts PUBLIC  # <tools/outboard/x.hpp>
    "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}/generated")
  # One file each includes CLI11 (verb.cpp), spdlog (stderr_log.cpp) and nlohmann's JSON (json.cpp): they are slow to compile.
  target_link_libraries(outboard_command_parts
    PUBLIC outboard::outboard
    PRIVATE spdlog::spdlog CLI11::CLI11 nlohmann_json::nlohmann_json)

  add_executable(outboard_command "${PROJECT_SOURCE_DIR}/tools/outboard/main.cpp")
  outboard_compile_settings(outboard_command)
  target_link_libraries(outboard_command PRIVATE outboard_command_parts)
  set_target_properties(outboard_command PROPERTIES
    OUTPUT_NAME outboard RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
  _outboard_installs(outboard_command)
  install(TARGETS outboard_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  _outboard_add_backend_program(blk block "Outboard disk: image file, block device or memory")
  if(tests AND OUTBOARD_TESTS)
    _outboard_add_test_program(command_test unit outboard_command_parts "${tests}" outboard::test_support)
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
