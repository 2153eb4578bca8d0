#pragma once

#include <cstddef>

#include <outboard/base/bytes.hpp>

namespace outboard::testing {

/// Notes which pages of its mappings this process writes itself, by the faults that they cause: a device in another thread or
/// process writes through a mapping of its own and causes none. One object at a time. The memory is writable again when the object
/// is gone.
class WrittenPages {
 public:
  WrittenPages();
  ~WrittenPages();
  WrittenPages(const WrittenPages&) = delete;
  WrittenPages& operator=(const WrittenPages&) = delete;

  /// Whole pages, of which none counts as written yet.
  static void watch(MutableBytes memory);
  /// It is not watched any more, and is writable.
  static void forget(const MutableBytes& memory);
  /// `page` is in watched memory.
  static bool written(const std::byte* page);
};

}  // namespace outboard::testing
