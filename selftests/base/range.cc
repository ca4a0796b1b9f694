// SPDX-License-Identifier: GPL-2.0-only
#include "base/range.h"

#include <array>
#include <ostream>
#include <sstream>

namespace slotzap {

std::string Hex(uint64_t value) {
  std::ostringstream os;
  os << "0x" << std::hex << value;
  return os.str();
}

std::string SizeString(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    unit++;
  }
  return std::to_string(bytes) + " " + kUnits.at(unit);
}

std::string ToString(const GpaRange& range) {
  return "[" + Hex(range.start) + ", " + Hex(range.end()) + ")";
}

std::ostream& operator<<(std::ostream& os, const GpaRange& range) { return os << ToString(range); }

}  // namespace slotzap
