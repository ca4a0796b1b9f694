// SPDX-License-Identifier: GPL-2.0-only
// The quirk on beside the quirk off: what was measured in one MMU mode, as JSON, as a table over
// all modes, and as a verdict.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace slotzap {

// One memslot update: the victim is deleted or moved while residents are mapped as well.
struct UpdateCost {
  uint64_t present_sptes = 0;  // leaf SPTEs the VM had before
  uint64_t victim_sptes = 0;   // of those, the victim's
  uint64_t zapped_sptes = 0;   // leaf SPTEs that the update zapped
  uint64_t zapped_pages = 0;   // shadow pages (page tables of KVM) that it zapped
  bool pages_counted = false;  // false: no tracepoints, zapped_pages is unknown
  uint64_t refaults = 0;       // page faults to touch the residents once more
  uint64_t host_ns = 0;        // time the ioctl took, median of `rounds`
  unsigned rounds = 0;
};

// The same update with the quirk on and off.
struct Comparison {
  std::string update;  // "delete", "move"
  UpdateCost on, off;
};

struct ModeReport {
  std::string mode;     // "tdp", "legacy", "shadow"
  std::string vendor;   // "svm", "vmx"
  std::string kernel;   // uname -r
  std::string host;     // "emulated by QEMU's TCG", or whatever the host is
  std::string skipped;  // if not empty: why nothing was measured
  std::vector<Comparison> comparisons;
};

nlohmann::json ToJson(const ModeReport& report);
// Throws std::runtime_error if `json` isn't what ToJson() writes.
ModeReport FromJson(const nlohmann::json& json);

// The side-by-side table, a row per mode and update.
std::string Table(const std::vector<ModeReport>& reports);

struct Verdict {
  enum Result { kPass = 0, kFail = 1, kSkip = 4 };  // also the exit status
  Result result = kSkip;
  std::string sentence;
};

// Passes if, in every mode, the quirk off zapped the victim's SPTEs, no more and no less, and the
// residents did not fault again, and the quirk on zapped everything.
Verdict Judge(const std::vector<ModeReport>& reports);

// "1234 ns", "12.3 us", "1.23 ms".
std::string Duration(uint64_t ns);

}  // namespace slotzap
