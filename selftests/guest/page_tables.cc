// SPDX-License-Identifier: GPL-2.0-only
#include "guest/page_tables.h"

#include <stdexcept>

namespace slotzap {
namespace {

constexpr uint64_t kPresent = 1ull << 0;
constexpr uint64_t kWritable = 1ull << 1;
constexpr uint64_t kUser = 1ull << 2;
constexpr uint64_t kAccessed = 1ull << 5;
constexpr uint64_t kDirty = 1ull << 6;
constexpr uint64_t kLarge = 1ull << 7;
// Of EPT entries: read, write, execute; bits 5:3 of a leaf are the memory type.
constexpr uint64_t kEptAccess = 7;
constexpr uint64_t kEptWriteBack = 6ull << 3;
constexpr uint64_t kEptAccessed = 1ull << 8;
constexpr uint64_t kEptDirty = 1ull << 9;

constexpr uint64_t kAddress = 0x000ffffffffff000;

struct Shape {
  int levels;
  uint64_t index_bits;  // of a virtual address, a level
  uint64_t entry_bytes;
};

constexpr Shape ShapeOf(TableFormat format) {
  switch (format) {
    case TableFormat::kGuest32Bit:
      return {2, 10, 4};
    case TableFormat::kGuestPae:
      return {3, 9, 8};
    case TableFormat::kGuest5Level:
      return {5, 9, 8};
    default:
      return {4, 9, 8};
  }
}

constexpr bool Is32Bit(TableFormat format) {
  return format == TableFormat::kGuest32Bit || format == TableFormat::kGuestPae;
}

constexpr int LeafLevel(GuestPageSize size) {
  return size == GuestPageSize::k1G ? 3 : size == GuestPageSize::k2M ? 2 : 1;
}

// Of the entries that aren't EPT's: for kernel memory, or, in nested page tables, for all.
constexpr uint64_t Access(TableFormat format) {
  return kPresent | kWritable | kAccessed | (format == TableFormat::kNpt ? kUser : 0);
}

}  // namespace

uint64_t TableEntry(Gpa table, TableFormat format) {
  return table | (format == TableFormat::kEpt ? kEptAccess | kEptAccessed : Access(format));
}

uint64_t LeafEntry(Gpa page, GuestPageSize size, TableFormat format) {
  const uint64_t size_bit = size == GuestPageSize::k4K ? 0 : kLarge;
  if (format == TableFormat::kEpt)
    return page | kEptAccess | kEptWriteBack | kEptAccessed | kEptDirty | size_bit;
  return page | Access(format) | kDirty | size_bit;
}

uint64_t TableIndex(uint64_t virt, int level) {
  return virt >> (kPageShift + 9 * static_cast<uint64_t>(level - 1)) & 511;
}

PageTables::PageTables(const GuestMemory& memory, GpaRange range, GpaRange window,
                       TableFormat format)
    : memory_(memory), base_(range.start), window_(window), next_(window.start), format_(format) {
  if (window.start < range.start || window.end() > range.end())
    throw std::invalid_argument("page tables at " + ToString(window) + " are not in the slot " +
                                ToString(range));
  NewTable();
}

Gpa PageTables::NewTable() {
  if (next_ + kPageSize > window_.end())
    throw std::length_error("no room for another page table in " + ToString(window_));
  for (uint64_t i = 0; i < kPageSize; i += 8) memory_.Store(next_ - base_ + i, 0);
  return std::exchange(next_, next_ + kPageSize);
}

bool PageTables::IsPresent(uint64_t entry) const {
  return (entry & (format_ == TableFormat::kEpt ? kEptAccess : kPresent)) != 0;
}

// Entries of 4 bytes are halves of what memory is accessed by.
uint64_t PageTables::LoadEntry(Gpa table, uint64_t index) const {
  const uint64_t offset = table - base_ + index * ShapeOf(format_).entry_bytes;
  const uint64_t word = memory_.Load(offset & ~7ull);
  if (ShapeOf(format_).entry_bytes == 8) return word;
  return word >> (offset & 4) * 8 & 0xffffffff;
}

void PageTables::StoreEntry(Gpa table, uint64_t index, uint64_t entry) const {
  const uint64_t offset = table - base_ + index * ShapeOf(format_).entry_bytes;
  if (ShapeOf(format_).entry_bytes == 8) return memory_.Store(offset, entry);
  const uint64_t shift = (offset & 4) * 8;
  const uint64_t other_half = memory_.Load(offset & ~7ull) & 0xffffffffull << (32 - shift);
  memory_.Store(offset & ~7ull, other_half | entry << shift);
}

void PageTables::MapOne(uint64_t virt, Gpa phys, GuestPageSize size) {
  const Shape shape = ShapeOf(format_);
  const auto index = [&](int level) {
    return virt >> (kPageShift + shape.index_bits * static_cast<uint64_t>(level - 1)) &
           ((1ull << shape.index_bits) - 1);
  };
  const int leaf_level = LeafLevel(size);
  Gpa table = root();
  for (int level = shape.levels; level > leaf_level; level--) {
    uint64_t entry = LoadEntry(table, index(level));
    if ((entry & kLarge) != 0)
      throw std::invalid_argument(Hex(virt) + " is mapped by a larger page already");
    if (!IsPresent(entry)) {
      const Gpa below = NewTable();
      const bool pdpte = format_ == TableFormat::kGuestPae && level == shape.levels;
      entry = pdpte ? below | kPresent : TableEntry(below, format_);
      StoreEntry(table, index(level), entry);
    }
    table = entry & kAddress;
  }
  StoreEntry(table, index(leaf_level), LeafEntry(phys, size, format_));
}

void PageTables::Map(uint64_t virt, Gpa phys, uint64_t size, GuestPageSize page_size) {
  const auto step = static_cast<uint64_t>(page_size);
  if (virt % step != 0 || phys % step != 0 || size % step != 0)
    throw std::invalid_argument("mapping " + Hex(virt) + " to " + Hex(phys) + ", " +
                                SizeString(size) + ": not aligned to pages of " + SizeString(step));
  if (Is32Bit(format_) && (page_size != GuestPageSize::k4K || virt + size > 4ull << 30 ||
                           (format_ == TableFormat::kGuest32Bit && phys + size > 4ull << 30)))
    throw std::invalid_argument("mapping " + Hex(virt) + " to " + Hex(phys) + ", " +
                                SizeString(size) +
                                ": page tables of 32-bit guests take pages of 4 KiB below 4 GiB");
  for (uint64_t offset = 0; offset < size; offset += step)
    MapOne(virt + offset, phys + offset, page_size);
}

}  // namespace slotzap
