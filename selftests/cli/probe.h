// SPDX-License-Identifier: GPL-2.0-only
// What deleting a memslot zaps on a KVM, by what it says and by what it does: the facts, as a table
// and as JSON.  How they are found out: cli/run_probe.h.
//
// The JSON, with "?" for what can be null:
//   kernel, vendor, mode, host       strings, as in Machine
//   quirks                           what KVM_CAP_DISABLE_QUIRKS2 returned: a mask, 0 if missing
//   slot_zap_all                     whether KVM_X86_QUIRK_SLOT_ZAP_ALL can be disabled
//   quirks_in_effect?                what KVM_CAP_X86_QUIRKS_IN_EFFECT of /dev/kvm returned: a mask
//   memslot_flag                     whether there is KVM_CAP_X86_MEMSLOT_ZAP_LEAFS_ONLY
//   vm_types                         the numbers of the VM types that can be created
//   rows: for each type, memory and setting
//     type                           "default", "sw-protected"
//     memory                         "shared", "private": of the victim and the bystander
//     setting                        "default", "quirk disabled", "memslot flag"
//     says?, does?                   "zap-all", "leaf-only"; does: also "mixed"
//     agrees                         "yes", "no", "not asked"
//     pages, refaults                bystander pages touched, and how many of them faulted again
//     leaves: before, victim, after  leaf SPTEs before the deletion, the victim's among them, after
//     leaves_agree                   whether these counts say the same as the refaults
//     error?                         why there is nothing else
//   result                           "ok", "fail"
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/comparison.h"
#include "cli/machine.h"

namespace slotzap {

// What happens to other memslots' mappings when one is deleted.
enum class Zapping { kZapAll, kLeafOnly, kMixed };
std::string ToString(Zapping zapping);  // "zap-all", "leaf-only", "mixed"

// By how many of a bystander's touched pages faulted again: all, none, or some.
Zapping Classify(uint64_t refaults, uint64_t pages);

// One deletion.
struct ProbeRow {
  std::string type;
  std::string memory;
  std::string setting;
  std::optional<Zapping> says;  // nothing if the kernel has no way to say it
  uint64_t pages = 0;
  uint64_t refaults = 0;
  int64_t leaves_before = 0;
  int64_t leaves_victim = 0;
  int64_t leaves_after = 0;
  std::string error;  // if not empty: why the deletion could not be watched

  Zapping does() const { return Classify(refaults, pages); }
  std::string agrees() const;  // "yes", "no", "not asked"
  // Zap-all leaves no leaf, leaf-only takes the victim's, mixed is neither.
  bool leaves_agree() const;
};

struct ProbeReport {
  Machine machine;
  uint64_t quirks = 0;
  std::optional<uint64_t> quirks_in_effect;
  bool memslot_flag = false;
  std::vector<unsigned> vm_types;
  std::vector<ProbeRow> rows;

  bool slot_zap_all() const;
};

nlohmann::json ToJson(const ProbeReport& report);

// The machine, what the kernel offers, and a row per deletion.
std::string Table(const ProbeReport& report);

// Fails if anything that was found out contradicts another thing, or could not be found out.
Verdict Judge(const ProbeReport& report);

}  // namespace slotzap
