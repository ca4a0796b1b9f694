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

TEST(GuestMemory, CollapsibleMemoryKeepsItsContentsWhereverItIs) {
  constexpr uint64_t kSize = 2ull << 20;
  const auto memory = GuestMemory::Collapsible(kSize);
  EXPECT_EQ(memory->address() % kSize, 0u);
  EXPECT_EQ(memory->bytes().size(), kSize);
  for (uint64_t page = 0; page < kSize; page += 4096) memory->Store(page, page + 1);
  // Whether the kernel can is another question.
  static_cast<void>(memory->TryCollapse());
  for (uint64_t page = 0; page < kSize; page += 4096) EXPECT_EQ(memory->Load(page), page + 1);
}

TEST(GuestMemory, ADevicesMemoryIsTheMappingItself) {
  Mapping mapping = Mapping::Anonymous(8192);
  *mapping.at<uint64_t>(4096) = 7;
  const uint64_t address = mapping.address();
  const auto memory = GuestMemory::OfDevice(std::move(mapping));
  EXPECT_EQ(memory->address(), address);
  EXPECT_EQ(memory->size(), 8192u);
  EXPECT_EQ(memory->Load(4096), 7u);
}

}  // namespace
}  // namespace slotzap
