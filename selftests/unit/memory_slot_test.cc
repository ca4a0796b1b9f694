// SPDX-License-Identifier: GPL-2.0-only
#include <gtest/gtest.h>

#include "kvm/memory_slot.h"

namespace slotzap {
namespace {

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
