// SPDX-License-Identifier: GPL-2.0-only
// Measures, on this machine's KVM, what a memslot update costs with the quirk on and off.
#pragma once

#include "cli/comparison.h"

namespace slotzap {

struct MeasureConfig {
  uint64_t resident_bytes = 16ull << 20;  // touched memory in other slots
  uint64_t victim_bytes = 1ull << 20;     // of the slot that is deleted or moved
  unsigned rounds = 5;
};

// Deletes and moves a slot in a VM of its own each.  If the quirk isn't there, the report says so
// in `skipped`.
ModeReport Measure(const MeasureConfig& config);

}  // namespace slotzap
