// SPDX-License-Identifier: GPL-2.0-only
// Which of KVM's x86 quirks a VM has (KVM_CAP_DISABLE_QUIRKS2).
#pragma once

#include <cstdint>
#include <optional>

#include "kvm/status.h"

namespace slotzap {

class Vm;

// KVM_X86_QUIRK_SLOT_ZAP_ALL.  Spelled out here because the suite is also built with headers that
// don't know it yet.
inline constexpr uint64_t kQuirkSlotZapAll = 1ull << 7;

// KVM_MEM_ZAP_LEAFS_ONLY: the memslot with this flag is zapped leaf-only when it goes, although the
// VM has the quirk enabled.  There if the module has KVM_CAP_X86_MEMSLOT_ZAP_LEAFS_ONLY.
inline constexpr uint32_t kMemZapLeafsOnly = 1u << 15;

// KVM_X86_QUIRK_CD_NW_CLEARED.
inline constexpr uint64_t kQuirkCdNwCleared = 1ull << 1;

class Quirks {
 public:
  explicit Quirks(Vm& vm) : vm_(vm) {}

  // The quirks that can be disabled, as KVM_CHECK_EXTENSION advertises them.
  uint64_t Supported() const;

  // KVM_CAP_X86_QUIRKS_IN_EFFECT: the quirks that this VM has, which depends on what was disabled
  // and on the VM's type.  Nothing if the module doesn't know the capability.
  std::optional<uint64_t> InEffect() const;

  // Disables exactly the quirks in `mask`.  Linux 6.1 re-enables those that aren't in it, later
  // kernels leave them disabled.
  void Disable(uint64_t mask) { TryDisable(mask).OrThrow(); }
  KvmStatus TryDisable(uint64_t mask);

 private:
  Vm& vm_;
};

}  // namespace slotzap
