// SPDX-License-Identifier: GPL-2.0-only
// What is measured, by name: agreed on by slotzap-bench, which measures, and "slotzap bench-table",
// which misses what wasn't.  A name is ROW/KEY:VALUE/KEY:VALUE...
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace slotzap {

// "4KiB"; "0"
std::string SizeName(uint64_t bytes);

// Deleting a slot that no guest has touched.
struct UntouchedCase {
  uint64_t size;       // bytes; the largest is cut where guest physical addresses end
  uint64_t elsewhere;  // bytes that the guest uses beside it
  bool nested;         // the guest has run a guest, which used the same
  std::string Name(bool slot_zap_all) const;
  std::string Text() const;  // as a person would say it
};
std::vector<UntouchedCase> UntouchedCases();

// The guest touches everything again after a slot went.
struct RefaultCase {
  uint64_t size;
  bool touched;  // all of the slot
  bool nested;
  std::string Name(bool slot_zap_all) const;
  std::string Text() const;
};
std::vector<RefaultCase> RefaultCases();

// Deleting a slot of 4 KiB beside 1 GiB that is in use; deleting a slot all of which is mapped.
std::string SmallName(bool slot_zap_all);
std::string LeafName(bool slot_zap_all);

}  // namespace slotzap
