// SPDX-License-Identifier: GPL-2.0-only
// Guest physical addresses, sizes and ranges, in bytes.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>

namespace slotzap {

using Gpa = uint64_t;  // guest physical address, bytes
using Gfn = uint64_t;  // guest frame number: Gpa / kPageSize

inline constexpr uint64_t kPageShift = 12;
inline constexpr uint64_t kPageSize = 1ull << kPageShift;

namespace literals {
consteval uint64_t operator""_KiB(unsigned long long n) { return n << 10; }
consteval uint64_t operator""_MiB(unsigned long long n) { return n << 20; }
consteval uint64_t operator""_GiB(unsigned long long n) { return n << 30; }
}  // namespace literals

// [start, start + size).
struct GpaRange {
  Gpa start = 0;
  uint64_t size = 0;

  constexpr Gpa end() const { return start + size; }
  constexpr uint64_t pages() const { return size >> kPageShift; }
  constexpr Gfn first_gfn() const { return start >> kPageShift; }
  constexpr Gfn end_gfn() const { return end() >> kPageShift; }
  constexpr bool contains(Gpa gpa) const { return gpa >= start && gpa < end(); }
  constexpr bool overlaps(const GpaRange& o) const { return start < o.end() && o.start < end(); }
  constexpr bool operator==(const GpaRange&) const = default;
};

std::string ToString(const GpaRange& range);
std::ostream& operator<<(std::ostream& os, const GpaRange& range);

// "0x1000", as addresses are written in messages.
std::string Hex(uint64_t value);

// "4 KiB", "3 MiB", "5 bytes": the largest unit that divides the size.
std::string SizeString(uint64_t bytes);

}  // namespace slotzap
