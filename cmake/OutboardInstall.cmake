# The umbrella target, and what an installed copy offers: find_package(outboard) and pkg-config.

include_guard(GLOBAL)
include(CMakePackageConfigHelpers)

get_property(_outboard_libraries GLOBAL PROPERTY OUTBOARD_LIBRARIES)

# outboard::outboard: everything but the fakes.
add_library(outboard_outboard INTERFACE)
add_library(outboard::outboard ALIAS outboard_outboard)
set_target_properties(outboard_outboard PROPERTIES EXPORT_NAME outboard)
foreach(_library IN LISTS _outboard_libraries)
  if(NOT _library STREQUAL "testing")
    target_link_libraries(outboard_outboard INTERFACE outboard::${_library})
  endif()
endforeach()
install(TARGETS outboard_outboard EXPORT outboard)

# The CMake package.
set(_outboard_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/outboard")
install(EXPORT outboard NAMESPACE outboard:: FILE outboardTargets.cmake DESTINATION "${_outboard_cmake_dir}")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/outboardConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/outboardConfig.cmake" INSTALL_DESTINATION "${_outboard_cmake_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/outboardConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/outboardConfig.cmake" "${PROJECT_BINARY_DIR}/outboardConfigVersion.cmake"
  DESTINATION "${_outboard_cmake_dir}")

# pkg-config. The archives come in the reverse of the order in which the rooms were added, so each precedes what it
# uses. All of it is static, so what the archives need is in Requires and not only in Requires.private.
function(_outboard_install_pkgconfig)
  # From the file, since it is installed where `cmake --install --prefix` says.
  file(RELATIVE_PATH OUTBOARD_PC_TO_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  set(libs "")
  set(requires "")
  foreach(library IN LISTS _outboard_libraries)
    get_target_property(type outboard_${library} TYPE)
    if(type STREQUAL "STATIC_LIBRARY" AND NOT library STREQUAL "testing")
      string(PREPEND libs " -loutboard_${library}")
    endif()
    get_property(links GLOBAL PROPERTY OUTBOARD_PKGCONFIG_${library})
    foreach(link IN LISTS links)
      if(link MATCHES "^(PkgConfig|fmt)::(.+)$")
        list(APPEND requires "${CMAKE_MATCH_2}")
      endif()
    endforeach()
  endforeach()
  list(REMOVE_DUPLICATES requires)
  list(JOIN requires ", " OUTBOARD_PC_REQUIRES)
  set(OUTBOARD_PC_NAME outboard)
  set(OUTBOARD_PC_DESCRIPTION "${PROJECT_DESCRIPTION}")
  set(OUTBOARD_PC_LIBS "-L\${libdir}${libs} -pthread")
  configure_file("${PROJECT_SOURCE_DIR}/cmake/outboard.pc.in" "${PROJECT_BINARY_DIR}/outboard.pc" @ONLY)

  get_target_property(type outboard_testing TYPE)
  set(OUTBOARD_PC_NAME outboard-testing)
  set(OUTBOARD_PC_DESCRIPTION "Fakes and builders for tests of Outboard devices and drivers")
  set(OUTBOARD_PC_LIBS "-L\${libdir}")
  if(type STREQUAL "STATIC_LIBRARY")
    string(APPEND OUTBOARD_PC_LIBS " -loutboard_testing")
  endif()
  set(OUTBOARD_PC_REQUIRES "outboard = ${PROJECT_VERSION}")
  configure_file("${PROJECT_SOURCE_DIR}/cmake/outboard.pc.in" "${PROJECT_BINARY_DIR}/outboard-testing.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/outboard.pc" "${PROJECT_BINARY_DIR}/outboard-testing.pc"
    DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endfunction()
_outboard_install_pkgconfig()
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
