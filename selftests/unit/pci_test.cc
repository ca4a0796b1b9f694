// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/pci.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>

#include "unit/temp_dir.h"

namespace slotzap {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(PciAddress, IsParsedWithAndWithoutDomain) {
  EXPECT_EQ(ParsePciAddress("0000:01:00.0"), (PciAddress{0, 1, 0, 0}));
  EXPECT_EQ(ParsePciAddress("10ab:fe:1f.7"), (PciAddress{0x10ab, 0xfe, 0x1f, 7}));
  EXPECT_EQ(ParsePciAddress("3b:00.1"), (PciAddress{0, 0x3b, 0, 1}));
  EXPECT_EQ(ToString(ParsePciAddress("3b:00.1")), "0000:3b:00.1");
}

TEST(PciAddress, AnythingElseIsRefused) {
  for (const char* text : {"", "edu", "01:00", "01:00.8", "01:20.0", "0000:1:00.0", "0000:01:00.0 ",
                           "0000-01-00.0", "00000:01:00.0", "0000:0G:00.0", "../../x"})
    EXPECT_THROW(ParsePciAddress(text), std::invalid_argument) << text;
}

// A sysfs with an edu device and a disk.
class FakePci : public testing::Test {
 protected:
  static constexpr char kEdu[] = "0000:00:02.0";
  static constexpr char kDisk[] = "0000:01:00.0";

  void AddDevice(const std::string& address, const std::string& vendor, const std::string& device) {
    dir_.Write("bus/pci/devices/" + address + "/vendor", vendor + "\n");
    dir_.Write("bus/pci/devices/" + address + "/device", device + "\n");
  }
  void Bind(const std::string& address, const std::string& driver) {
    const std::filesystem::path root = dir_.path();
    const auto device = root / "bus/pci/devices" / address;
    const auto folder = root / "bus/pci/drivers" / driver;
    dir_.Write("bus/pci/drivers/" + driver + "/bind", "");
    std::filesystem::create_directory_symlink(folder, device / "driver");
    std::filesystem::create_directory_symlink(device, folder / address);
  }
  void PutIntoGroup(const std::string& address, const std::string& group) {
    std::filesystem::create_directory_symlink(
        "../../../../kernel/iommu_groups/" + group,
        std::filesystem::path(dir_.path()) / "bus/pci/devices" / address / "iommu_group");
  }
  void SetUp() override {
    AddDevice(kEdu, "0x1234", "0x11e8");
    AddDevice(kDisk, "0x1b36", "0x0010");
    Bind(kDisk, "nvme");
  }

  VfioChoice Choose(const std::string& wanted) { return ChooseVfioDevice(wanted, dir_.path()); }

  TempDir dir_;
};

TEST_F(FakePci, SysfsTellsIdsDriverAndGroup) {
  PciDevice disk = FindPciDevice(ParsePciAddress(kDisk), dir_.path());
  EXPECT_EQ(disk.Ids(), "1b36:0010");
  EXPECT_EQ(disk.driver, "nvme");
  EXPECT_FALSE(disk.iommu_group.has_value());
  PutIntoGroup(kDisk, "17");
  disk = FindPciDevice(ParsePciAddress(kDisk), dir_.path());
  EXPECT_EQ(disk.iommu_group, 17u);
  EXPECT_EQ(FindPciDevice(ParsePciAddress(kEdu), dir_.path()).driver, "");
  EXPECT_THROW(FindPciDevice(ParsePciAddress("02:00.0"), dir_.path()), std::runtime_error);
}

TEST_F(FakePci, ADriversDevicesAreInOrder) {
  EXPECT_THAT(PciDevicesOf("vfio-pci", dir_.path()), IsEmpty());
  AddDevice("0000:00:01.0", "0x8086", "0x100e");
  Bind(kEdu, "vfio-pci");
  Bind("0000:00:01.0", "vfio-pci");
  const std::vector<PciDevice> devices = PciDevicesOf("vfio-pci", dir_.path());
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0].Ids(), "8086:100e");
  EXPECT_EQ(devices[1].Ids(), "1234:11e8");
}

TEST_F(FakePci, WithoutAWishItIsTheEduDeviceOrNone) {
  EXPECT_FALSE(Choose("").device.has_value());
  EXPECT_THAT(Choose("").unavailable, HasSubstr("needs a device to assign"));
  EXPECT_EQ(Choose("").error, "");
  Bind(kEdu, "vfio-pci");
  EXPECT_FALSE(Choose("").device.has_value()) << "it is in no IOMMU group";
  PutIntoGroup(kEdu, "3");
  const VfioChoice choice = Choose("");
  ASSERT_TRUE(choice.device.has_value());
  EXPECT_EQ(ToString(choice.device->address), kEdu);
  EXPECT_EQ(choice.unavailable + choice.error, "");
}

TEST_F(FakePci, WithoutAWishNobodyElsesDeviceIsTaken) {
  AddDevice("0000:02:00.0", "0x10de", "0x2204");
  Bind("0000:02:00.0", "vfio-pci");
  PutIntoGroup("0000:02:00.0", "4");
  EXPECT_FALSE(Choose("").device.has_value());
  const VfioChoice choice = Choose("0000:02:00.0");
  ASSERT_TRUE(choice.device.has_value());
  EXPECT_EQ(choice.device->Ids(), "10de:2204");
}

TEST_F(FakePci, AWishThatCantBeGrantedIsAnErrorThatSaysWhy) {
  const auto error = [&](const std::string& wanted) {
    const VfioChoice choice = Choose(wanted);
    EXPECT_FALSE(choice.device.has_value()) << wanted;
    EXPECT_EQ(choice.unavailable, "") << wanted;
    return choice.error;
  };
  EXPECT_EQ(error("gpu"), "VFIO_DEVICE=gpu: 'gpu' is not a PCI address, as in 0000:01:00.0");
  EXPECT_EQ(error("09:00.0"), "VFIO_DEVICE=09:00.0: there is no PCI device 0000:09:00.0");
  EXPECT_EQ(error(kDisk),
            "VFIO_DEVICE=0000:01:00.0: 0000:01:00.0 (1b36:0010) is bound to nvme, not to vfio-pci");
  EXPECT_EQ(error(kEdu),
            "VFIO_DEVICE=0000:00:02.0: 0000:00:02.0 (1234:11e8) is bound to no driver, not to "
            "vfio-pci");
  Bind(kEdu, "vfio-pci");
  EXPECT_THAT(error(kEdu), HasSubstr("is in no IOMMU group"));
}

}  // namespace
}  // namespace slotzap
