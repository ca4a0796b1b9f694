// SPDX-License-Identifier: GPL-2.0-only
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvm/memory_slot.h"

namespace slotzap {
namespace {

using testing::ElementsAre;

TEST(DirtyPages, AreTheBitsThatAreSet) {
  const uint64_t bitmap[] = {1ull << 0 | 1ull << 63, 0, 1ull << 2};
  EXPECT_THAT(DirtyPages(bitmap, 0x10000),
              ElementsAre(0x10000, 0x10000 + 63 * kPageSize, 0x10000 + 130 * kPageSize));
  EXPECT_THAT(DirtyPages({}, 0x10000), ElementsAre());
}

TEST(GuestMemory, UnmappedPagesKeepTheirContents) {
  const auto memory = GuestMemory::Unpopulated(2 * kPageSize);
  memory->Store(kPageSize, 5);
  memory->Unmap(0, 2 * kPageSize);
  EXPECT_EQ(memory->Load(kPageSize), 5u);
  EXPECT_EQ(memory->Load(0), 0u);
  EXPECT_THROW(memory->Unmap(kPageSize, 2 * kPageSize), std::out_of_range);
}

TEST(GuestMemory, FreedPagesAreZero) {
  const GuestMemory memory(2 * kPageSize);
  memory.Store(0, 4);
  memory.Store(kPageSize, 5);
  memory.Free(kPageSize, kPageSize);
  EXPECT_EQ(memory.Load(0), 4u);
  EXPECT_EQ(memory.Load(kPageSize), 0u);
  EXPECT_THROW(memory.Free(2 * kPageSize, kPageSize), std::out_of_range);
}

}  // namespace
}  // namespace slotzap
