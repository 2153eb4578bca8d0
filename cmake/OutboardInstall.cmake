# The umbrella target, and what an installed copy offers: find_package(outboard) and pkg-config.

include_guard(GLOBAL)
include(CMakePackageConfigHelpers)

get_property(_outboard_libraries GLOBAL PROPERTY OUTBOARD_LIBRARIES)
add_library(outboard_outboard INTERFACE)
add_library(outboard::outboard ALIAS outboard_outboard)
set_target_properties(outboard_outboard PROPERTIES EXPORT_NAME outboard)
foreach(_library IN LISTS _outboard_libraries)
  if(NOT _library STREQUAL "testing")
    target_link_libraries(outboard_outboard INTERFACE outboard::${_library})
  endif()
endforeach()
install(TARGETS outboard_outboard EXPORT outboard)
