#include <tools/outboard/lspci/text.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>

namespace outboard::command {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

// What is expected here was compared with the output of lspci 3.9.0; tests/cli does so for whole devices.
class LspciText : public testing::Test {
 protected:
  LspciText() {
    put(0x00, {0xF4, 0x1A, 0x42, 0x10, 0x06, 0x00, 0x10, 0x00, 0x01, 0x00, 0x80, 0x01});
    put(0x2C, {0xF4, 0x1A, 0x42, 0x00});
  }

  void put(std::size_t offset, std::initializer_list<unsigned> values) {
    for (const unsigned value : values) bytes_.at(offset++) = static_cast<std::byte>(value);
  }
  void resize(std::size_t size) { bytes_.resize(size); }
  ConfigImage image() const { return ConfigImage(bytes_); }
  std::string text() const { return lspci_text(image(), PciNames::load({})); }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(256);
};

TEST_F(LspciText, NamesVirtioDevicesWithoutADatabase) {
  EXPECT_EQ(lspci_headline(image(), PciNames::load({})),
            "00:00.0 Mass storage controller: Red Hat, Inc. Virtio 1.0 block device (rev 01)");
}

TEST_F(LspciText, UnknownNumbersAreShownAsNumbers) {
  put(0x00, {0x34, 0x12, 0x78, 0x56});
  put(0x2C, {0x34, 0x12, 0x01, 0x00});
  EXPECT_THAT(text(), HasSubstr("Device 1234:5678"));
  EXPECT_THAT(text(), HasSubstr("\tSubsystem: Device 1234:0001\n"));
}

TEST_F(LspciText, ControlAndStatusShowEveryFlag) {
  EXPECT_THAT(text(), HasSubstr("\tControl: I/O- Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR- "
                                "FastB2B- DisINTx-\n"));
  EXPECT_THAT(text(),
              HasSubstr("\tStatus: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- "
                        "<PERR- INTx-\n"));
}

TEST_F(LspciText, A64BitBarTakesTwoRegistersAndShowsItsSize) {
  put(0x10, {0x0C, 0, 0, 0xFE, 0x12, 0, 0, 0});
  ConfigImage with_size = image();
  with_size.set_region_size(0, 16384);
  const std::string shown = lspci_text(with_size, PciNames::load({}));
  EXPECT_THAT(shown, HasSubstr("\tRegion 0: Memory at 12fe000000 (64-bit, prefetchable) [size=16K]\n"));
  EXPECT_THAT(shown, Not(HasSubstr("Region 1")));
}

TEST_F(LspciText, ABarWithoutAnAddressIsUnassigned) {
  put(0x10, {0x04, 0, 0, 0});
  EXPECT_THAT(text(), HasSubstr("\tRegion 0: Memory at <unassigned> (64-bit, non-prefetchable)\n"));
}

TEST_F(LspciText, MemoryThatIsNotDecodedIsDisabled) {
  put(0x04, {0x00});
  put(0x10, {0x00, 0, 0, 0xFE});
  EXPECT_THAT(text(), HasSubstr("\tRegion 0: Memory at fe000000 (32-bit, non-prefetchable) [disabled]\n"));
}

TEST_F(LspciText, MsixShowsItsTableAndPendingBits) {
  put(0x34, {0x40});
  put(0x40, {0x11, 0, 0x04, 0x80, 0x01, 0, 0, 0, 0x01, 0x08, 0, 0});
  EXPECT_THAT(text(), EndsWith("\tCapabilities: [40] MSI-X: Enable+ Count=5 Masked-\n"
                               "\t\tVector table: BAR=1 offset=00000000\n"
                               "\t\tPBA: BAR=1 offset=00000800\n"));
}

TEST_F(LspciText, VirtioCapabilitiesAreNamed) {
  put(0x34, {0x40});
  put(0x40, {0x09, 0, 20, 2, 1, 0, 0, 0, 0, 0x30, 0, 0, 0, 0x10, 0, 0, 4, 0, 0, 0});
  EXPECT_THAT(text(), EndsWith("\tCapabilities: [40] Vendor Specific Information: VirtIO: Notify\n"
                               "\t\tBAR=1 offset=00003000 size=00001000 multiplier=00000004\n"));
}

TEST_F(LspciText, AVendorCapabilityOfAnotherVendorIsNotVirtio) {
  put(0x00, {0x34, 0x12});
  put(0x34, {0x40});
  put(0x40, {0x09, 0, 20, 2});
  EXPECT_THAT(text(), EndsWith("[40] Vendor Specific Information: Len=14 <?>\n"));
}

TEST_F(LspciText, AListThatLoopsEnds) {
  put(0x34, {0x40});
  put(0x40, {0x77, 0x48});
  put(0x48, {0x77, 0x40});
  EXPECT_THAT(text(), EndsWith("\tCapabilities: [40] <chain looped>\n"));
}

TEST_F(LspciText, AListThatLeavesItsSpaceEnds) {
  put(0x34, {0x10});
  EXPECT_THAT(text(), EndsWith("\tCapabilities: [10] <chain broken>\n"));
}

TEST_F(LspciText, ACapabilityAtTheVeryEndIsNotReadBeyondIt) {
  put(0x34, {0xFC});
  put(0xFC, {0x11, 0, 0x04, 0x80});
  EXPECT_THAT(text(), HasSubstr("\tCapabilities: [fc] MSI-X: Enable+ Count=5 Masked-\n"));
}

TEST_F(LspciText, ExtendedCapabilitiesFollow) {
  resize(4096);
  put(0x100, {0x03, 0, 0x01, 0, 1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_THAT(text(), EndsWith("\tCapabilities: [100 v1] Device Serial Number 08-07-06-05-04-03-02-01\n"));
}

TEST_F(LspciText, AnExtendedListThatLoopsEnds) {
  resize(4096);
  put(0x100, {0x77, 0, 0x01, 0x10});
  EXPECT_THAT(text(), EndsWith("\tCapabilities: [100] <chain looped>\n"));
}

TEST_F(LspciText, AnIntegratedEndpointHasNoLink) {
  put(0x34, {0x40});
  put(0x40, {0x10, 0, 0x92, 0x00, 0x01, 0x80, 0, 0x10});
  EXPECT_THAT(text(),
              HasSubstr("[40] Express (v2) Root Complex Integrated Endpoint, MSI 00\n\t\tDevCap:\tMaxPayload 256 "
                        "bytes, PhantFunc 0\n\t\t\tExtTag- RBE+ FLReset+\n"));
  EXPECT_THAT(text(), Not(HasSubstr("LnkCap")));
}

TEST_F(LspciText, HexIsRowsOf16) {
  EXPECT_EQ(lspci_hex(image(), 32).substr(0, 52), "00: f4 1a 42 10 06 00 10 00 01 00 80 01 00 00 00 00\n");
  EXPECT_EQ(lspci_hex(image(), 4096).size(), 16u * 52u);
}

}  // namespace
}  // namespace outboard::command
