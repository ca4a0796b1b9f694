// SPDX-License-Identifier: GPL-2.0-only
#include "vfio/edu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace slotzap {
namespace {

using testing::ElementsAre;
using Direction = EduTransfer::Direction;

TEST(EduProgram, SaysFromWhereToWhereAndThenBegins) {
  EXPECT_THAT(Edu::Program({Direction::kToDevice, 0x4000123, 77, 5}),
              ElementsAre(RegisterWrite{0x80, 0x4000123, 8}, RegisterWrite{0x88, 0x40005, 8},
                          RegisterWrite{0x90, 77, 8}, RegisterWrite{0x98, 1, 8}));
  EXPECT_THAT(Edu::Program({Direction::kFromDevice, 0x4000123, 77, 5}),
              ElementsAre(RegisterWrite{0x80, 0x40005, 8}, RegisterWrite{0x88, 0x4000123, 8},
                          RegisterWrite{0x90, 77, 8}, RegisterWrite{0x98, 3, 8}));
}

TEST(EduProgram, StaysWithinBufferAndAddresses) {
  EXPECT_NO_THROW(Edu::Program({Direction::kToDevice, 0, Edu::kMaxTransfer, 0}));
  EXPECT_NO_THROW(Edu::Program({Direction::kToDevice, Edu::kIovaEnd - 8, 8, 0}));
  EXPECT_THROW(Edu::Program({Direction::kToDevice, 0, 0, 0}), std::out_of_range);
  EXPECT_THROW(Edu::Program({Direction::kToDevice, 0, Edu::kMaxTransfer + 1, 0}),
               std::out_of_range);
  EXPECT_THROW(Edu::Program({Direction::kToDevice, 0, Edu::kMaxTransfer, 1}), std::out_of_range);
  EXPECT_THROW(Edu::Program({Direction::kToDevice, 0, 1, Edu::kMaxTransfer}), std::out_of_range);
  EXPECT_THROW(Edu::Program({Direction::kFromDevice, Edu::kIovaEnd - 7, 8, 0}), std::out_of_range);
}

// Memory in place of the BAR: what is written stays, and nothing else happens.
TEST(EduRegisters, AreWhereTheDeviceHasThem) {
  const Mapping bar = Mapping::Anonymous(4096);
  EXPECT_THROW(Edu{bar}, std::runtime_error) << "that is no edu device";
  *bar.at<uint32_t>(0) = 0x010000ed;
  Edu edu(bar);
  edu.SetLiveness(0x12345678);
  EXPECT_EQ(*bar.at<uint32_t>(4), 0x12345678u);
  EXPECT_EQ(edu.liveness(), 0x12345678u);
  EXPECT_FALSE(edu.busy());
  edu.WaitUntilIdle();
  edu.Start({Direction::kFromDevice, 0x1000, 16, 0});
  EXPECT_TRUE(edu.busy());
  EXPECT_EQ(*bar.at<uint64_t>(0x80), 0x40000u);
  EXPECT_EQ(*bar.at<uint64_t>(0x88), 0x1000u);
  EXPECT_EQ(*bar.at<uint64_t>(0x90), 16u);
  EXPECT_EQ(*bar.at<uint64_t>(0x98), 3u);
}

TEST(EduDriver, KnowsItsDeviceByTheIds) {
  PciDevice device = {};
  device.vendor = 0x1234;
  device.device = 0x11e8;
  EXPECT_TRUE(Edu::Drives(device));
  device.device = 0x1111;
  EXPECT_FALSE(Edu::Drives(device));
  device = {};
  device.vendor = 0x8086;
  device.device = 0x11e8;
  EXPECT_FALSE(Edu::Drives(device));
}

}  // namespace
}  // namespace slotzap
