// SPDX-License-Identifier: GPL-2.0-only
#include "guest/page_tables.h"

#include <gtest/gtest.h>

#include <optional>
#include <stdexcept>
#include <vector>

#include "kvm/memory_slot.h"

namespace slotzap {
namespace {

using namespace literals;

// Page tables in memory that no KVM is told of.
class PageTablesTest : public testing::Test {
 protected:
  // What a CPU would translate `virt` to (AMD APM volume 2, 5.3.3), or nothing.
  std::optional<Gpa> Walk(const PageTables& tables, uint64_t virt) const {
    Gpa table = tables.root();
    for (int level = 4;; level--) {
      const uint64_t shift = 12 + 9 * static_cast<uint64_t>(level - 1);
      const uint64_t entry = memory_.Load(table - kBase + (virt >> shift & 511) * 8);
      if ((entry & 3) != 3) return std::nullopt;
      const uint64_t address = entry & 0x000ffffffffff000;
      if (level == 1 || (entry & 1 << 7) != 0) return address + (virt & ((1ull << shift) - 1));
      table = address;
    }
  }

  static constexpr Gpa kBase = 1_MiB;
  static constexpr GpaRange kRange = {kBase, 64_KiB};
  const GuestMemory memory_{64_KiB};
};

TEST_F(PageTablesTest, TranslatesAllPageSizes) {
  PageTables tables(memory_, kRange, kRange);
  tables.Map(1_GiB, 5_GiB, 8_KiB, GuestPageSize::k4K);
  tables.Map(2_GiB, 4_MiB, 4_MiB, GuestPageSize::k2M);
  tables.Map(4_GiB, 8_GiB, 2_GiB, GuestPageSize::k1G);
  EXPECT_EQ(Walk(tables, 1_GiB + 4_KiB + 8), 5_GiB + 4_KiB + 8);
  EXPECT_EQ(Walk(tables, 1_GiB + 8_KiB), std::nullopt);
  EXPECT_EQ(Walk(tables, 2_GiB + 3_MiB), 7_MiB);
  EXPECT_EQ(Walk(tables, 5_GiB + 1), 9_GiB + 1);
  EXPECT_EQ(Walk(tables, 0), std::nullopt);
}

TEST_F(PageTablesTest, UsesTheTablesItNeeds) {
  PageTables tables(memory_, kRange, {kBase + 8_KiB, 32_KiB});
  EXPECT_EQ(tables.root(), kBase + 8_KiB);
  EXPECT_EQ(tables.used().pages(), 1u);
  tables.MapIdentity({0, 4_MiB}, GuestPageSize::k2M);  // a level 3 and a level 2 table
  EXPECT_EQ(tables.used().pages(), 3u);
  tables.MapIdentity({4_MiB, 2_MiB}, GuestPageSize::k4K);  // and a level 1 table
  EXPECT_EQ(tables.used().pages(), 4u);
}

// The entries that translate `virt`, root first.
std::vector<uint64_t> EntriesOf(const GuestMemory& memory, Gpa base, const PageTables& tables,
                                uint64_t virt) {
  std::vector<uint64_t> entries;
  Gpa table = tables.root();
  for (int level = 4; level > 0; level--) {
    const uint64_t index = virt >> (12 + 9 * static_cast<uint64_t>(level - 1)) & 511;
    entries.push_back(memory.Load(table - base + index * 8));
    if ((entries.back() & 1 << 7) != 0) break;
    table = entries.back() & 0x000ffffffffff000;
  }
  return entries;
}

// AMD APM volume 2, 5.4.1: present, writable, accessed, in a leaf dirty; no user bit.
TEST_F(PageTablesTest, GuestFormatIsForTheSupervisor) {
  PageTables tables(memory_, kRange, kRange);
  tables.Map(1_GiB, 5_GiB, 4_KiB, GuestPageSize::k4K);
  EXPECT_EQ(EntriesOf(memory_, kBase, tables, 1_GiB),
            (std::vector<uint64_t>{(kBase + 4_KiB) | 0x23, (kBase + 8_KiB) | 0x23,
                                   (kBase + 12_KiB) | 0x23, 5_GiB | 0x63}));
}

// As above, with the user bit in all.
TEST_F(PageTablesTest, NptFormatIsForUsers) {
  PageTables tables(memory_, kRange, kRange, TableFormat::kNpt);
  tables.Map(1_GiB, 5_GiB, 4_KiB, GuestPageSize::k4K);
  tables.Map(2_GiB, 4_MiB, 2_MiB, GuestPageSize::k2M);
  EXPECT_EQ(EntriesOf(memory_, kBase, tables, 1_GiB),
            (std::vector<uint64_t>{(kBase + 4_KiB) | 0x27, (kBase + 8_KiB) | 0x27,
                                   (kBase + 12_KiB) | 0x27, 5_GiB | 0x67}));
  EXPECT_EQ(EntriesOf(memory_, kBase, tables, 2_GiB),
            (std::vector<uint64_t>{(kBase + 4_KiB) | 0x27, (kBase + 16_KiB) | 0x27, 4_MiB | 0xe7}));
}

// Intel SDM volume 3, tables 29-1 to 29-7: read, write, execute, accessed; in a leaf memory type WB
// and dirty.  Tables have no memory type: the bits are reserved.
TEST_F(PageTablesTest, EptFormat) {
  PageTables tables(memory_, kRange, kRange, TableFormat::kEpt);
  tables.Map(1_GiB, 5_GiB, 4_KiB, GuestPageSize::k4K);
  tables.Map(2_GiB, 4_MiB, 2_MiB, GuestPageSize::k2M);
  EXPECT_EQ(tables.format(), TableFormat::kEpt);
  EXPECT_EQ(EntriesOf(memory_, kBase, tables, 1_GiB),
            (std::vector<uint64_t>{(kBase + 4_KiB) | 0x107, (kBase + 8_KiB) | 0x107,
                                   (kBase + 12_KiB) | 0x107, 5_GiB | 0x337}));
  EXPECT_EQ(
      EntriesOf(memory_, kBase, tables, 2_GiB),
      (std::vector<uint64_t>{(kBase + 4_KiB) | 0x107, (kBase + 16_KiB) | 0x107, 4_MiB | 0x3b7}));
}

// AMD APM volume 2, 5.2.1: entries of 4 bytes, two levels of 10 bits.
TEST_F(PageTablesTest, TablesOfA32BitGuest) {
  PageTables tables(memory_, kRange, kRange, TableFormat::kGuest32Bit);
  tables.Map(1_GiB, 3_GiB, 8_KiB, GuestPageSize::k4K);
  tables.Map(1_GiB + 4_MiB - 4_KiB, 2_GiB, 8_KiB, GuestPageSize::k4K);
  EXPECT_EQ(tables.used().pages(), 3u);
  const auto* directory = reinterpret_cast<const uint32_t*>(memory_.data());
  EXPECT_EQ(directory[256], (kBase + 4_KiB) | 0x23);
  EXPECT_EQ(directory[257], (kBase + 8_KiB) | 0x23);
  EXPECT_EQ(directory[255], 0u);
  EXPECT_EQ(directory[258], 0u);
  const uint32_t* first = directory + 1024;
  EXPECT_EQ(first[0], 3_GiB | 0x63);
  EXPECT_EQ(first[1], (3_GiB + 4_KiB) | 0x63);
  EXPECT_EQ(first[2], 0u);
  EXPECT_EQ(first[1023], 2_GiB | 0x63);
  EXPECT_EQ(directory[2048], (2_GiB + 4_KiB) | 0x63);
}

// AMD APM volume 2, 5.2.3: an entry of the root has but its present bit.
TEST_F(PageTablesTest, TablesOfAPaeGuest) {
  PageTables tables(memory_, kRange, kRange, TableFormat::kGuestPae);
  tables.Map(1_GiB + 4_KiB, 5_GiB, 4_KiB, GuestPageSize::k4K);
  EXPECT_EQ(tables.used().pages(), 3u);
  EXPECT_EQ(memory_.Load(8), (kBase + 4_KiB) | 1);
  EXPECT_EQ(memory_.Load(4_KiB), (kBase + 8_KiB) | 0x23);
  EXPECT_EQ(memory_.Load(8_KiB + 8), 5_GiB | 0x63);
}

TEST_F(PageTablesTest, TablesOfFiveLevels) {
  PageTables tables(memory_, kRange, kRange, TableFormat::kGuest5Level);
  tables.Map(3ull << 48, 5_GiB, 4_KiB, GuestPageSize::k4K);
  EXPECT_EQ(tables.used().pages(), 5u);
  EXPECT_EQ(memory_.Load(24), (kBase + 4_KiB) | 0x23);
  for (uint64_t table = 1; table <= 3; table++)
    EXPECT_EQ(memory_.Load(table * 4_KiB), (kBase + (table + 1) * 4_KiB) | 0x23);
  EXPECT_EQ(memory_.Load(16_KiB), 5_GiB | 0x63);
}

TEST_F(PageTablesTest, RefusesWhatA32BitGuestCannotMap) {
  for (const TableFormat format : {TableFormat::kGuest32Bit, TableFormat::kGuestPae}) {
    PageTables tables(memory_, kRange, kRange, format);
    EXPECT_THROW(tables.Map(4_GiB, 0, 4_KiB, GuestPageSize::k4K), std::invalid_argument);
    EXPECT_THROW(tables.MapIdentity({0, 2_MiB}, GuestPageSize::k2M), std::invalid_argument);
  }
  PageTables tables(memory_, kRange, kRange, TableFormat::kGuest32Bit);
  EXPECT_THROW(tables.Map(0, 4_GiB, 4_KiB, GuestPageSize::k4K), std::invalid_argument);
}

TEST_F(PageTablesTest, RefusesWhatCannotBe) {
  PageTables tables(memory_, kRange, kRange);
  EXPECT_THROW(tables.MapIdentity({4_KiB, 2_MiB}, GuestPageSize::k2M), std::invalid_argument);
  tables.MapIdentity({0, 2_MiB}, GuestPageSize::k2M);
  EXPECT_THROW(tables.MapIdentity({0, 4_KiB}, GuestPageSize::k4K), std::invalid_argument);
  EXPECT_THROW(PageTables(memory_, kRange, {kBase, 128_KiB}), std::invalid_argument);
  PageTables small(memory_, kRange, {kBase, 8_KiB});
  EXPECT_THROW(small.MapIdentity({0, 2_MiB}, GuestPageSize::k2M), std::length_error);
}

TEST(GuestPte, HasTheBitsThatTheProcessorWouldSet) {
  EXPECT_EQ(TableEntry(0x5000), 0x5023u);
  EXPECT_EQ(LeafEntry(0x5000), 0x5063u);
  EXPECT_EQ(LeafEntry(2_MiB, GuestPageSize::k2M), 0x2000e3u);
}

TEST(GuestPte, IsWhereTheAddressSays) {
  constexpr uint64_t kVirt = 1ull << 39 | 2ull << 30 | 3ull << 21 | 4ull << 12 | 5;
  for (const int level : {4, 3, 2, 1})
    EXPECT_EQ(TableIndex(kVirt, level), static_cast<uint64_t>(5 - level));
}

}  // namespace
}  // namespace slotzap
