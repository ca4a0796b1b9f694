// SPDX-License-Identifier: GPL-2.0-only
#include "guest/smm.h"

#include <gtest/gtest.h>

namespace slotzap {
namespace {

TEST(Smm, HalvesAreAddedWithoutACarry) {
  EXPECT_EQ(AddHalves(0, 0x0000000100000002), 0x0000000100000002u);
  EXPECT_EQ(AddHalves(0x00000001ffffffff, 0x0000000100000001), 0x0000000200000000u);
  EXPECT_EQ(AddHalves(0xffffffff00000000, 0x0000000100000005), 0x0000000000000005u);
}

}  // namespace
}  // namespace slotzap
