#include <outboard/storage/internal/lock_owner.hpp>

#include <fstream>
#include <iterator>
#include <string_view>

#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include <outboard/base/internal/process.hpp>

namespace outboard::storage {

namespace {

constexpr unsigned pid_bits = 22;
constexpr unsigned container_bits = 20;
constexpr unsigned host_bits = 19;
static_assert(first_owner == off_t{1} << (pid_bits + container_bits + host_bits));
/// From requests() to life().
constexpr off_t to_life = last_owner + 1 - first_owner;

constexpr std::uint32_t low(std::uint64_t value, unsigned bits) {
  return static_cast<std::uint32_t>(value & ((UINT64_C(1) << bits) - 1));
}

/// FNV-1a, folded.
std::uint32_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : text) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return low(hash ^ (hash >> host_bits) ^ (hash >> (2 * host_bits)), host_bits);
}

std::uint32_t own_host() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  const std::string id(std::istreambuf_iterator<char>(file), {});
  return hash_of(id);
}

std::uint32_t own_container() {
  struct stat info{};
  return ::stat("/proc/self/ns/pid", &info) == 0 ? low(info.st_ino, container_bits) : 0;
}

}  // namespace

LockOwner LockOwner::self() {
  static const std::uint32_t host = own_host();
  return {.host = host, .container = own_container(), .pid = low(static_cast<std::uint64_t>(::getpid()), pid_bits)};
}

LockOwner LockOwner::of(off_t byte) {
  const auto name = static_cast<std::uint64_t>(byte - first_owner);
  return {.host = low(name >> (pid_bits + container_bits), host_bits),
          .container = low(name >> pid_bits, container_bits),
          .pid = low(name, pid_bits)};
}

off_t LockOwner::requests() const {
  const std::uint64_t space = (std::uint64_t{host} << container_bits) | container;
  return first_owner + static_cast<off_t>((space << pid_bits) | pid);
}

off_t LockOwner::life() const { return requests() + to_life; }

bool LockOwner::is_of_this_container() const {
  const LockOwner here = self();
  return host == here.host && container == here.container;
}

std::optional<int> LockOwner::number_here() const {
  if (is_of_this_container()) return static_cast<int>(pid);
  if (host != self().host) return std::nullopt;
  return process_in_container(static_cast<int>(pid),
                              [this](std::uint64_t space) { return low(space, container_bits) == container; });
}

std::string described(const LockOwner& owner) {
  if (owner.is_of_this_container()) return fmt::format("process {}", owner.pid);
  const bool same_host = owner.host == LockOwner::self().host;
  return fmt::format("process {} of another {}", owner.pid, same_host ? "container" : "host");
}

}  // namespace outboard::storage
