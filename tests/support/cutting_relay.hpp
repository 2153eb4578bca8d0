#pragma once

#include <cstddef>
#include <thread>
#include <utility>

#include <outboard/base/fd.hpp>

namespace outboard::testing {

/// Stands between the two ends of a connection over UNIX sockets, and cuts it after a number of bytes. Descriptors go with the bytes
/// that they were sent with.
class CuttingRelay {
 public:
  /// `server`: connected. Cuts when `bytes` have been passed on, both ways together.
  CuttingRelay(UniqueFd server, std::size_t bytes);
  ~CuttingRelay();
  CuttingRelay(const CuttingRelay&) = delete;
  CuttingRelay& operator=(const CuttingRelay&) = delete;

  /// For the client.
  UniqueFd take_client() { return std::move(client_); }
  /// Waits until the server has closed its end, which follows the client's end or the cut. Returns the bytes that have been passed
  /// on.
  std::size_t wait();

 private:
  void run(UniqueFd client);
  bool pass(const UniqueFd& from, const UniqueFd& to);

  UniqueFd server_, client_;
  std::size_t left_, passed_ = 0;
  std::thread thread_;
};

}  // namespace outboard::testing
