#include <tools/outboard/lspci/sysfs_snapshot.hpp>

#include <algorithm>

#include <gtest/gtest.h>

#include <outboard/pci/registers.hpp>

namespace outboard::command {
namespace {

class SysfsSnapshot : public ::testing::Test {
 protected:
  SysfsSnapshot() : bytes(256) {
    put(0x00, 0x1af4), put(0x02, 0x1042), put(0x2c, 0x1af4), put(0x2e, 0x1100);
    put(0x08, 0x0001), put(0x0a, 0x0100);  // revision 1, class 010000h
  }
  void put(std::size_t at, std::uint16_t value) {
    bytes[at] = std::byte(value & 0xff);
    bytes[at + 1] = std::byte(value >> 8);
  }
  void put_bar(unsigned index, std::uint32_t value, std::uint64_t size) {
    put(0x10 + 4 * index, static_cast<std::uint16_t>(value));
    put(0x12 + 4 * index, static_cast<std::uint16_t>(value >> 16));
    sizes.emplace_back(index, size);
  }
  std::string file(const std::string& name) const {
    ConfigImage image(bytes);
    image.set_address({0, 0, 4, 0});
    for (const auto& [index, size] : sizes) image.set_region_size(index, size);
    const FileSet set = sysfs_snapshot(image, "/snapshot");
    EXPECT_EQ(set.units, std::vector<std::string>{"devices/0000:00:04.0"});
    const auto found = std::ranges::find(set.files, "devices/0000:00:04.0/" + name, &NewFile::path);
    return found == set.files.end() ? "none" : found->text;
  }
  std::string line(unsigned number) const {
    std::string text = file("resource");
    for (unsigned i = 0; i < number; ++i) text.erase(0, text.find('\n') + 1);
    return text.substr(0, text.find('\n'));
  }

  std::vector<std::byte> bytes;
  std::vector<std::pair<unsigned, std::uint64_t>> sizes;
};

const std::string nothing = "0x0000000000000000 0x0000000000000000 0x0000000000000000";

TEST_F(SysfsSnapshot, HasTheNumbersAsTheKernelWritesThem) {
  EXPECT_EQ(file("vendor"), "0x1af4\n");
  EXPECT_EQ(file("device"), "0x1042\n");
  EXPECT_EQ(file("subsystem_device"), "0x1100\n");
  EXPECT_EQ(file("class"), "0x010000\n");
  EXPECT_EQ(file("revision"), "0x01\n");
  EXPECT_EQ(file("config").size(), 256U);
}

TEST_F(SysfsSnapshot, HasSevenResources) {
  const std::string text = file("resource");
  EXPECT_EQ(std::ranges::count(text, '\n'), 7);
}

TEST_F(SysfsSnapshot, AResourceHasItsEndAndTheKernelsFlags) {
  put_bar(1, 0xfebd4000, 0x1000);
  put_bar(2, 0x0000c041, 0x20);
  EXPECT_EQ(line(0), nothing);
  EXPECT_EQ(line(1), "0x00000000febd4000 0x00000000febd4fff 0x0000000000040200");
  EXPECT_EQ(line(2), "0x000000000000c040 0x000000000000c05f 0x0000000000040101");
}

TEST_F(SysfsSnapshot, AWideBarIsOneResource) {
  put_bar(4, 0xfe00000c, 0x4000);
  put_bar(5, 0x00000038, 0);
  EXPECT_EQ(line(4), "0x00000038fe000000 0x00000038fe003fff 0x000000000014220c");
  EXPECT_EQ(line(5), nothing);
}

TEST_F(SysfsSnapshot, AnInterruptLineCountsOnlyWithAPin) {
  bytes[0x3c] = std::byte(11);
  EXPECT_EQ(file("irq"), "0\n");
  bytes[0x3d] = std::byte(1);
  EXPECT_EQ(file("irq"), "11\n");
  bytes[0x3c] = std::byte(0xff);
  EXPECT_EQ(file("irq"), "0\n");
}

}  // namespace
}  // namespace outboard::command
