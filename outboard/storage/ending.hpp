#pragma once

#include <atomic>
#include <cstdint>

namespace outboard::storage {

/// What the destructors of this process's back ends are waiting for, for a program that ends after a timeout. Any thread.
enum class Ending : std::uint8_t {
  none,
  requests,  ///< they wait for requests that the kernel still carries out
  closing,  ///< every request has ended, and an image is being closed: the kernel may write back what it has cached of it
};
Ending ending();

/// Marks a part of a destructor, as long as this object exists.
class EndingScope {
 public:
  explicit EndingScope(Ending what);
  ~EndingScope();
  EndingScope(const EndingScope&) = delete;
  EndingScope& operator=(const EndingScope&) = delete;

 private:
  std::atomic<unsigned>& count_;
};

}  // namespace outboard::storage
