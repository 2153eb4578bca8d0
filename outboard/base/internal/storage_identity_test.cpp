#include <outboard/base/internal/storage_identity.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outboard {
namespace {

using Contents = StorageIdentity::Contents;
using ::testing::HasSubstr;

const StorageIdentity image{
    .contents = Contents::kept, .size = 4096, .id = "file 12 of 8:1, born 1.5", .name = "/srv/disk.raw", .device = 7};

TEST(StorageIdentity, ComesBackFromItsBytesWithoutWhatIsKnownOnlyHere) {
  const auto back = StorageIdentity::decode(image.encode());
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(back->contents, image.contents);
  EXPECT_EQ(back->size, image.size);
  EXPECT_EQ(back->id, image.id);
  EXPECT_EQ(back->name, image.name);
  EXPECT_EQ(back->device, 0U);
}

TEST(StorageIdentity, ALongNameLosesItsBeginning) {
  StorageIdentity long_one = image;
  long_one.name = std::string(5000, 'a') + "/disk.raw";
  const auto bytes = long_one.encode();
  EXPECT_LE(bytes.size(), StorageIdentity::max_encoded);
  EXPECT_TRUE(StorageIdentity::decode(bytes)->name.ends_with("a/disk.raw"));
}

/// The layout of version 1: bytes that a server of an earlier version wrote.
TEST(StorageIdentity, TheBytesOfVersion1AreRead) {
  constexpr unsigned char kept[] = {1, 0, 0, 0, 3, 0, 0, 0, 0, 16,  0,   0,   0,   0,   0,
                                    0, 2, 0, 0, 0, 4, 0, 0, 0, 'i', 'd', 'n', 'a', 'm', 'e'};
  const auto read = StorageIdentity::decode(std::as_bytes(std::span(kept)));
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->contents, Contents::kept);
  EXPECT_EQ(read->size, 4096U);
  EXPECT_EQ(read->id, "id");
  EXPECT_EQ(read->name, "name");
}

TEST(StorageIdentity, BytesThatNobodyWroteAreRefused) {
  const auto good = image.encode();
  for (std::size_t length = 0; length < good.size(); ++length)
    EXPECT_EQ(StorageIdentity::decode(Bytes(good).first(length)).error().code(), EBADMSG) << length;
  auto longer = good;
  longer.push_back(std::byte{0});
  EXPECT_EQ(StorageIdentity::decode(longer).error().code(), EBADMSG);
  for (const std::size_t at : {4, 16, 20}) {  // contents, and the two lengths
    auto bad = good;
    bad[at + 1] = std::byte{0xff};
    EXPECT_EQ(StorageIdentity::decode(bad).error().code(), EBADMSG) << at;
  }
  auto later = good;
  later[0] = std::byte{2};
  EXPECT_EQ(StorageIdentity::decode(later).error().code(), ENOTSUP);
}

TEST(SameStorage, IsTheSameFileOfTheSameSizeOrALargerOne) {
  EXPECT_TRUE(check_same_storage(image, image));
  StorageIdentity grown = image;
  grown.size = 8192;
  EXPECT_TRUE(check_same_storage(image, grown));
  StorageIdentity renamed = image;
  renamed.name = "/srv/other-name.raw";
  EXPECT_TRUE(check_same_storage(image, renamed));
}

TEST(SameStorage, AnotherFileIsNotNorASmallerOne) {
  StorageIdentity other = image;
  other.id = "file 13 of 8:1, born 1.5";
  EXPECT_EQ(check_same_storage(image, other).error().code(), ESTALE);
  EXPECT_THAT(check_same_storage(image, other).error().message(), HasSubstr("another file of that name and size"));
  StorageIdentity smaller = image;
  smaller.size = 2048;
  const auto shrunk = check_same_storage(image, smaller);
  EXPECT_EQ(shrunk.error().code(), ESTALE);
  EXPECT_THAT(shrunk.error().message(), HasSubstr("smaller"));
  EXPECT_THAT(shrunk.error().message(), HasSubstr("4096"));
}

TEST(SameStorage, MemoryOfADeadServerIsNotAndANullDiskIs) {
  const StorageIdentity memory{.contents = Contents::memory, .size = 4096};
  EXPECT_THAT(check_same_storage(memory, memory).error().message(), HasSubstr("ended with that process"));
  const StorageIdentity null{.contents = Contents::zeros, .size = 4096};
  EXPECT_TRUE(check_same_storage(null, null));
  EXPECT_FALSE(check_same_storage(image, null));
  EXPECT_FALSE(check_same_storage(image, memory));
  EXPECT_FALSE(check_same_storage(null, image));
  EXPECT_TRUE(check_same_storage({}, {}));
}

}  // namespace
}  // namespace outboard
