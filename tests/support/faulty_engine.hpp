#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <outboard/storage/internal/file_engine.hpp>

namespace outboard::testing {

/// What becomes of one operation of an engine.
struct Fault {
  enum class Kind : std::uint8_t {
    none,   ///< it is done
    part,   ///< a transfer ends short, after `bytes`
    torn,   ///< a transfer does `bytes` and ends with `error`
    error,  ///< nothing is done; it ends with `error`
    hang,   ///< it neither runs nor ends before release()
  };
  Kind kind = Kind::none;
  std::uint64_t bytes = 0;
  int error = 0;     ///< a positive errno
  unsigned late = 0;  ///< ends only after this many more turns of the loop

  static Fault part(std::uint64_t bytes) { return {.kind = Kind::part, .bytes = bytes}; }
  static Fault torn(std::uint64_t bytes, int error) { return {.kind = Kind::torn, .bytes = bytes, .error = error}; }
  static Fault fails(int error) { return {.kind = Kind::error, .error = error}; }
  static Fault hang() { return {.kind = Kind::hang}; }
};

/// Storage that misbehaves as a test wants it: makes engines for storage::RawFile (Options::make_engine) that do their
/// operations on the real file, with faults, and end them on the loop, the newest first or in the order of starting. For
/// engines of one thread. Must outlive them.
class FaultyStorage {
 public:
  struct Seen {
    storage::FileOp::Kind kind{};
    bool direct = false;
    int mode = 0;  ///< of fallocate
    std::uint64_t offset = 0;
    std::uint64_t length = 0;  ///< bytes of a transfer too
    bool in_pages = true;  ///< each piece of a transfer begins with a page
  };

  /// What becomes of an operation, in the order of starting; by default it is done.
  std::function<Fault(const Seen&)> plan = [](const Seen&) { return Fault(); };
  bool newest_first = false;
  std::vector<Seen> seen;
  unsigned submits = 0;  ///< that found something to start

  /// A plan in which operations are interrupted, end short, late and out of order, and the direct ones in memory
  /// that is not of whole pages are refused, but none fails for good: whoever does it right notices nothing.
  void be_difficult(unsigned seed);

  storage::EngineFactory factory();
  std::size_t hanging() const;
  /// Lets what hangs run, and end on the loop.
  void release();

 private:
  class Engine;
  std::vector<Engine*> engines_;
};

}  // namespace outboard::testing
