# cmake -DFOLDER=templates/device -DOUTPUT=FILE.cpp -P embed_templates.cmake: the files of a folder as C++, so that an
# installed command brings them along. Read by tools/outboard/new/templates.hpp.

file(GLOB_RECURSE names LIST_DIRECTORIES false RELATIVE "${FOLDER}" "${FOLDER}/*.in")
list(SORT names)
set(entries "")
foreach(name IN LISTS names)
  file(READ "${FOLDER}/${name}" text)
  if(text MATCHES "\\)template\"")
    message(FATAL_ERROR "${name} contains what ends a raw string here")
  endif()
  string(REGEX REPLACE "\\.in$" "" path "${name}")
  string(APPEND entries "    {\"${path}\", R\"template(${text})template\"},\n")
endforeach()
file(WRITE "${OUTPUT}" "// Generated from ${FOLDER} by cmake/embed_templates.cmake.

#include <tools/outboard/new/templates.hpp>

namespace outboard::command {

namespace {

constexpr Template all[] = {
${entries}};

}  // namespace

std::span<const Template> device_templates() { return all; }

}  // namespace outboard::command
")
