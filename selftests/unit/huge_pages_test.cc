// SPDX-License-Identifier: GPL-2.0-only
#include "host/huge_pages.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "base/file_descriptor.h"
#include "base/range.h"
#include "unit/temp_dir.h"

namespace slotzap {
namespace {

using namespace literals;

class FakeHugePages : public testing::Test {
 protected:
  FakeHugePages() {
    dir_.Write("hugepages-2048kB/nr_hugepages", "10\n");
    dir_.Write("hugepages-2048kB/free_hugepages", "7\n");
    dir_.Write("hugepages-2048kB/resv_hugepages", "3\n");
  }
  std::string PoolSize() const { return ReadLine(dir_.path() + "/hugepages-2048kB/nr_hugepages"); }

  TempDir dir_;
};

TEST_F(FakeHugePages, PromisedPagesAreNotFree) {
  EXPECT_EQ(FreeHugePages(2_MiB, dir_.path()), 4u);
  EXPECT_EQ(FreeHugePages(1_GiB, dir_.path()), 0u);
}

TEST_F(FakeHugePages, OfANode) {
  dir_.Write("node1/hugepages/hugepages-2048kB/free_hugepages", "5\n");
  EXPECT_EQ(FreeHugePagesOn(1, 2_MiB, dir_.path()), 5u);
  EXPECT_EQ(FreeHugePagesOn(0, 2_MiB, dir_.path()), 0u);
  EXPECT_EQ(FreeHugePagesOn(1, 1_GiB, dir_.path()), 0u);
}

TEST_F(FakeHugePages, TheLackingPagesAreAddedAndTakenBack) {
  {
    const HugePageReservation reservation(2_MiB, 16, dir_.path());
    EXPECT_EQ(PoolSize(), "22");
    EXPECT_EQ(reservation.free(), 4u);  // the stand-in doesn't add any
  }
  EXPECT_EQ(PoolSize(), "10");
}

TEST_F(FakeHugePages, NothingChangesIfThereAreEnough) {
  const HugePageReservation reservation(2_MiB, 4, dir_.path());
  EXPECT_EQ(PoolSize(), "10");
  EXPECT_EQ(reservation.free(), 4u);
}

TEST_F(FakeHugePages, ASizeTheMachineLacksIsAnError) {
  EXPECT_THROW(HugePageReservation(1_GiB, 1, dir_.path()), std::runtime_error);
}

TEST(TransparentHugeBytes, CountsTheVmasInTheRange) {
  const TempDir dir;
  const std::string smaps = dir.Write("smaps",
                                      "7f0000000000-7f0000200000 rw-p 00000000 00:00 0\n"
                                      "Size:               2048 kB\n"
                                      "AnonHugePages:      2048 kB\n"
                                      "7f0000200000-7f0000800000 rw-p 00000000 00:00 0 [heap]\n"
                                      "AnonHugePages:      4096 kB\n"
                                      "THPeligible:    1\n");
  EXPECT_EQ(TransparentHugeBytes(0x7f0000000000, 4_KiB, smaps), 2_MiB);
  EXPECT_EQ(TransparentHugeBytes(0x7f0000200000, 6_MiB, smaps), 4_MiB);
  EXPECT_EQ(TransparentHugeBytes(0x7f00001ff000, 8_KiB, smaps), 6_MiB);
  EXPECT_EQ(TransparentHugeBytes(0x7f0000800000, 4_KiB, smaps), 0u);
}

}  // namespace
}  // namespace slotzap
