#include <outboard/memory/host_memory.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

// VU-n is a row of docs/spec-map.md: DMA_MAP with descriptors of all kinds.

namespace outboard::memory {
namespace {

constexpr std::uint64_t page = 4096;

/// Reads a byte whether or not the compiler sees a use for it.
std::byte touch(std::byte* at) { return std::byte{*reinterpret_cast<volatile unsigned char*>(at)}; }

int code_of(const auto& result) { return result ? 0 : result.error().code(); }

UniqueFd reopen(const testing::TempDir& dir, const char* name, int flags) {
  return UniqueFd(::open(dir.path(name).c_str(), flags | O_CLOEXEC));
}

TEST(HostMemory, MapsAFileThatCannotShrink) {
  const UniqueFd fd = testing::make_sealed_memfd(4 * page);
  const auto memory = HostMemory::map_file(fd, page, 2 * page, Access::read_write);
  ASSERT_TRUE(memory.has_value()) << memory.error().message();
  EXPECT_EQ((*memory)->size(), 2 * page);
  (*memory)->data()[5] = std::byte{0x5a};
  char seen = 0;
  ASSERT_EQ(::pread(fd.get(), &seen, 1, page + 5), 1);
  EXPECT_EQ(seen, 0x5a);
  EXPECT_FALSE((*memory)->poisoned());
}

TEST(HostMemory, IsMappedWhereFstatfsIsForbidden) {
  const UniqueFd file = testing::make_sealed_memfd(page);
  for (const int error : {EPERM, ENOSYS}) {
    testing::with_calls_denied({SYS_fstatfs}, error, [&file] {
      const auto memory = HostMemory::map_file(file, 0, page, Access::read_write);
      EXPECT_TRUE(memory) << memory.error().message();
    });
  }
}

TEST(HostMemory, MappingOutlivesTheDescriptor) {
  UniqueFd fd = testing::make_sealed_memfd(page);
  const auto memory = *HostMemory::map_file(fd, 0, page, Access::read_write);
  fd.reset();
  memory->data()[0] = std::byte{1};
  EXPECT_EQ(memory->data()[0], std::byte{1});
}

TEST(HostMemory, SizeNeedNotBeWholePages) {
  const UniqueFd fd = testing::make_sealed_memfd(page + 100);
  const auto memory = HostMemory::map_file(fd, 0, page + 100, Access::read_write);
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ((*memory)->size(), page + 100);
}

TEST(HostMemory, UnsealedFileIsRefusedWithoutAFaultGuard) {
  // In a process of its own: the guard cannot be taken out again.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const int without = code_of(HostMemory::map_file(testing::make_memfd(page), 0, page, Access::read_write));
        const bool installed = install_fault_guard().has_value();
        const int with = code_of(HostMemory::map_file(testing::make_memfd(page), 0, page, Access::read_write));
        std::exit(without == ENOTSUP && installed && with == 0 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(HostMemory, VU33_NeitherSocketNorPipeNorDirectoryNorDeviceIsMapped) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
  const UniqueFd left(ends[0]);
  const UniqueFd right(ends[1]);
  EXPECT_EQ(code_of(HostMemory::map_file(left, 0, page, Access::read_write)), EINVAL);
  ASSERT_EQ(::pipe(ends.data()), 0);
  const UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  EXPECT_EQ(code_of(HostMemory::map_file(out, 0, page, Access::read)), EINVAL);
  const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  EXPECT_EQ(code_of(HostMemory::map_file(directory, 0, page, Access::read)), EINVAL);
  const UniqueFd device(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(code_of(HostMemory::map_file(device, 0, page, Access::read_write)), EINVAL);
  EXPECT_EQ(code_of(HostMemory::map_file(*EventFd::create()->fd().duplicate(), 0, page, Access::read_write)), EINVAL);
  EXPECT_EQ(code_of(HostMemory::map_file(UniqueFd(), 0, page, Access::read)), EBADF);
}

TEST(HostMemory, VU33_ReadOnlyDescriptorIsForReadingOnly) {
  ASSERT_TRUE(install_fault_guard().has_value());
  const testing::TempDir dir;
  dir.make_file("memory", page);
  const UniqueFd read_only = reopen(dir, "memory", O_RDONLY);
  EXPECT_EQ(code_of(HostMemory::map_file(read_only, 0, page, Access::read_write)), EACCES);
  EXPECT_EQ(code_of(HostMemory::map_file(read_only, 0, page, Access::write)), EACCES);
  EXPECT_EQ(code_of(HostMemory::map_file(read_only, 0, page, Access::read)), 0);
  const UniqueFd write_only = reopen(dir, "memory", O_WRONLY);
  EXPECT_EQ(code_of(HostMemory::map_file(write_only, 0, page, Access::write)), EACCES);
  const UniqueFd path_only = reopen(dir, "memory", O_PATH);
  EXPECT_NE(code_of(HostMemory::map_file(path_only, 0, page, Access::read)), 0);
}

TEST(HostMemory, VU34_NothingBeyondTheEndOfTheFileIsMapped) {
  const UniqueFd fd = testing::make_sealed_memfd(4 * page);
  const auto map = [&](std::uint64_t offset, std::uint64_t size) {
    return code_of(HostMemory::map_file(fd, offset, size, Access::read_write));
  };
  EXPECT_EQ(map(0, 4 * page), 0);
  EXPECT_EQ(map(0, 4 * page + 1), EINVAL);
  EXPECT_EQ(map(3 * page, page + 1), EINVAL);
  EXPECT_EQ(map(4 * page, 1), EINVAL);
  EXPECT_EQ(map(5 * page, page), EINVAL);
}

TEST(HostMemory, VU34_OffsetThatWrapsIsRefused) {
  const UniqueFd fd = testing::make_sealed_memfd(4 * page);
  const auto map = [&](std::uint64_t offset, std::uint64_t size) {
    return code_of(HostMemory::map_file(fd, offset, size, Access::read_write));
  };
  EXPECT_EQ(map(UINT64_MAX - page + 1, 2 * page), EINVAL);
  EXPECT_EQ(map(page, UINT64_MAX - page + 1), EINVAL);
  EXPECT_EQ(map(0, UINT64_MAX), EINVAL);
  EXPECT_EQ(map(UINT64_C(1) << 63, page), EINVAL);
}

TEST(HostMemory, EmptyOrUnalignedPiecesAreRefused) {
  const UniqueFd fd = testing::make_sealed_memfd(4 * page);
  EXPECT_EQ(code_of(HostMemory::map_file(fd, 0, 0, Access::read_write)), EINVAL);
  EXPECT_EQ(code_of(HostMemory::map_file(fd, 1, page, Access::read_write)), EINVAL);
  EXPECT_EQ(code_of(HostMemory::map_file(fd, 512, page, Access::read_write)), EINVAL);
}

TEST(HostMemory, AnonymousMemoryIsZeroedAndRefusesNothingAndEverything) {
  const auto memory = *HostMemory::anonymous(3 * page);
  EXPECT_TRUE(std::all_of(memory->data(), memory->data() + 3 * page, [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_FALSE(memory->poisoned());
  EXPECT_EQ(code_of(HostMemory::anonymous(0)), EINVAL);
  EXPECT_EQ(code_of(HostMemory::anonymous(UINT64_MAX)), ENOMEM);
}

class FaultGuardTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(install_fault_guard().has_value()); }

  /// Maps two files, shrinks the first one under its mapping, and expects that only the first one suffers.
  static void shrink_under_the_mapping(const UniqueFd& fd, const UniqueFd& other) {
    const auto memory = *HostMemory::map_file(fd, 0, 4 * page, Access::read_write);
    const auto bystander = *HostMemory::map_file(other, 0, 4 * page, Access::read_write);
    std::fill_n(memory->data(), 4 * page, std::byte{0x11});
    std::fill_n(bystander->data(), 4 * page, std::byte{0x22});
    ASSERT_EQ(::ftruncate(fd.get(), page), 0);
    EXPECT_FALSE(memory->poisoned()) << "nobody has touched it yet";

    EXPECT_EQ(touch(memory->data() + 2 * page + 7), std::byte{0});
    EXPECT_TRUE(memory->poisoned());
    EXPECT_EQ(memory->data()[0], std::byte{0x11}) << "what the file still has stays";
    memory->data()[3 * page] = std::byte{1};  // behind it all is replaced at once
    EXPECT_EQ(memory->data()[3 * page], std::byte{1});

    EXPECT_FALSE(bystander->poisoned());
    EXPECT_EQ(bystander->data()[3 * page], std::byte{0x22});
  }
};

TEST_F(FaultGuardTest, VU35_TruncatedMemoryFileBreaksItsMappingOnly) {
  const UniqueFd fd = testing::make_memfd(4 * page);
  const UniqueFd other = testing::make_memfd(4 * page);
  shrink_under_the_mapping(fd, other);
}

TEST_F(FaultGuardTest, VU35_TruncatedRegularFileBreaksItsMappingOnly) {
  const testing::TempDir dir;
  const UniqueFd fd = dir.make_file("a", 4 * page);
  const UniqueFd other = dir.make_file("b", 4 * page);
  shrink_under_the_mapping(fd, other);
}

TEST_F(FaultGuardTest, VU35_WriteToATruncatedFileIsContainedToo) {
  const UniqueFd fd = testing::make_memfd(2 * page);
  const auto memory = *HostMemory::map_file(fd, 0, 2 * page, Access::read_write);
  ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
  *reinterpret_cast<volatile unsigned char*>(memory->data() + 10) = 9;
  EXPECT_TRUE(memory->poisoned());
}

TEST_F(FaultGuardTest, VU35_ReadOnlyMappingIsContainedToo) {
  const UniqueFd fd = testing::make_memfd(2 * page);
  const auto memory = *HostMemory::map_file(fd, page, page, Access::read);
  ASSERT_EQ(::ftruncate(fd.get(), page), 0);
  EXPECT_EQ(touch(memory->data() + page - 1), std::byte{0});
  EXPECT_TRUE(memory->poisoned());
}

TEST_F(FaultGuardTest, TwoMappingsOfOneTruncatedFileArePoisonedByTheirOwnTouches) {
  const UniqueFd fd = testing::make_memfd(2 * page);
  const auto first = *HostMemory::map_file(fd, 0, 2 * page, Access::read_write);
  const auto second = *HostMemory::map_file(fd, 0, 2 * page, Access::read_write);
  ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
  touch(first->data());
  EXPECT_TRUE(first->poisoned());
  EXPECT_FALSE(second->poisoned());
}

TEST_F(FaultGuardTest, NewMappingInTheSlotOfAPoisonedOneIsClean) {
  for (int round = 0; round < 600; ++round) {  // more than one block of the registry, were slots not used again
    const UniqueFd fd = testing::make_memfd(page);
    const auto memory = *HostMemory::map_file(fd, 0, page, Access::read_write);
    ASSERT_FALSE(memory->poisoned());
    ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
    touch(memory->data());
    ASSERT_TRUE(memory->poisoned());
  }
}

TEST_F(FaultGuardTest, FaultIsFoundAmongManyMappings) {
  const UniqueFd quiet = testing::make_sealed_memfd(page);
  std::vector<std::shared_ptr<HostMemory>> many;
  for (int i = 0; i < 1000; ++i) many.push_back(*HostMemory::map_file(quiet, 0, page, Access::read_write));
  const UniqueFd fd = testing::make_memfd(page);
  const auto memory = *HostMemory::map_file(fd, 0, page, Access::read_write);
  ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
  touch(memory->data());
  EXPECT_TRUE(memory->poisoned());
}

/// Children of the tests below die on purpose; nobody wants their core files.
void die_quietly() {
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
}

/// Takes every mapping that this process may still have.
void use_up_mappings() {
  for (bool odd = false;; odd = !odd) {  // neighbours with the same protection would be one mapping
    void* const one = ::mmap(nullptr, page, odd ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (one == MAP_FAILED) return;
  }
}

/// More files than the guard has mappings to give up lose their second page; 0 when each loses nothing else, or is poisoned
/// as a whole.
int truncate_many_with_no_mapping_left() {
  constexpr std::size_t many = 200;
  std::vector<UniqueFd> files;
  std::vector<std::shared_ptr<HostMemory>> mapped;
  for (std::size_t i = 0; i < many; ++i) {
    files.push_back(testing::make_memfd(2 * page));
    mapped.push_back(*HostMemory::map_file(files.back(), 0, 2 * page, Access::read_write));
    mapped.back()->data()[0] = std::byte{0x33};
  }
  use_up_mappings();
  for (std::size_t i = 0; i < many; ++i) {
    if (::ftruncate(files[i].get(), page) != 0) return 3;
    if (touch(mapped[i]->data() + page) != std::byte{0} || !mapped[i]->poisoned(mapped[i]->data() + page, 1)) return 4;
    const bool first_page_is_there = touch(mapped[i]->data()) == std::byte{0x33};
    if (first_page_is_there == mapped[i]->poisoned(mapped[i]->data(), 1)) return 5;
    if (i == 0 && !first_page_is_there) return 6;
  }
  return 0;
}

TEST(FaultGuardDeathTest, VU35_ATruncatedFileIsContainedWithNoMappingLeft) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        die_quietly();
        if (!install_fault_guard()) std::exit(2);
        ::_exit(truncate_many_with_no_mapping_left());
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(FaultGuardDeathTest, WhatTheGuardGaveUpIsTakenBackWhenMappingsGo) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        die_quietly();
        if (!install_fault_guard()) std::exit(2);
        for (int round = 0; round < 3; ++round) {
          if (const int failed = truncate_many_with_no_mapping_left(); failed != 0) ::_exit(10 * round + failed);
        }
        ::_exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

int map_one_more_after_the_guard_had_to_give_up() {
  const UniqueFd files[] = {testing::make_memfd(2 * page), testing::make_memfd(page)};
  auto truncated = *HostMemory::map_file(files[0], 0, 2 * page, Access::read_write);
  const auto gone = *HostMemory::map_file(files[1], 0, page, Access::read_write);
  use_up_mappings();
  if (!fault_guard_has_its_spares() || ::ftruncate(files[0].get(), page) != 0) return 3;
  touch(truncated->data() + page);
  if (fault_guard_has_its_spares()) return 4;
  const auto another = HostMemory::map_file(files[1], 0, page, Access::read_write);
  if (another || another.error().code() != ENOMEM) return 5;
  truncated.reset();
  return fault_guard_has_its_spares() ? 0 : 6;
}

TEST(FaultGuardDeathTest, NothingMoreIsMappedWhereTheGuardLacksItsSpares) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        die_quietly();
        if (!install_fault_guard()) std::exit(2);
        ::_exit(map_one_more_after_the_guard_had_to_give_up());
      },
      ::testing::ExitedWithCode(0), "");
}

/// Touches a file mapping that the library knows nothing of, after the file has gone.
void touch_foreign_memory() {
  const UniqueFd fd = testing::make_memfd(page);
  auto* memory = static_cast<volatile char*>(::mmap(nullptr, page, PROT_READ, MAP_SHARED, fd.get(), 0));
  if (::ftruncate(fd.get(), 0) != 0) std::exit(3);
  [[maybe_unused]] const char seen = *memory;
}

TEST(FaultGuardDeathTest, ForeignFaultStillEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        die_quietly();
        ::signal(SIGBUS, SIG_DFL);  // not the sanitizers' handler
        if (!install_fault_guard()) std::exit(2);
        touch_foreign_memory();
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

TEST(FaultGuardDeathTest, SignalThatSomeoneSentStillEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        die_quietly();
        ::signal(SIGBUS, SIG_DFL);
        if (!install_fault_guard()) std::exit(2);
        ::raise(SIGBUS);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

TEST(FaultGuardDeathTest, SignalThatSomeoneSentIsIgnoredWhereItWasBefore) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, SIG_IGN);
        if (!install_fault_guard()) std::exit(2);
        ::raise(SIGBUS);
        ::_exit(42);
      },
      ::testing::ExitedWithCode(42), "");
}

TEST(FaultGuardDeathTest, ForeignFaultGoesToTheHandlerThatWasThereBefore) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        struct sigaction before{};
        before.sa_flags = SA_SIGINFO;
        before.sa_sigaction = [](int, siginfo_t* info, void*) { ::_exit(info->si_addr != nullptr ? 42 : 1); };
        ::sigaction(SIGBUS, &before, nullptr);
        if (!install_fault_guard() || !install_fault_guard()) std::exit(2);
        touch_foreign_memory();
      },
      ::testing::ExitedWithCode(42), "");
}

}  // namespace
}  // namespace outboard::memory
