#include <outboard/base/internal/io_flusher.hpp>

#include <sys/prctl.h>
#include <unistd.h>

// Of the kernel's headers since 5.6.
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif

namespace outboard {

Result<IoFlusher> IoFlusher::begin() {
  // Set already, by whoever this thread works for: so it stays in the end.
  if (::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 1) return IoFlusher(::gettid(), false);
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) return Error(errno);
  return IoFlusher(::gettid(), true);
}

IoFlusher::~IoFlusher() {
  if (sets_ && is_of_this_thread()) ::prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
}

bool IoFlusher::is_of_this_thread() const { return thread_ == ::gettid(); }

}  // namespace outboard
