// SPDX-License-Identifier: GPL-2.0-only
// Tests that need a VM with private memory: software-protected VMs, which need no special hardware.
#pragma once

#include <string>

#include "host/sw_rmp.h"
#include "tests/slot_test.h"

namespace slotzap {

// Why there are no software-protected VMs here, or an empty string.
inline std::string ProtectedVmsUnavailable() {
  if (Kvm().Supports(VmType::kSwProtected)) return "";
  if (CurrentMmuMode() != MmuMode::kTdp) return "software-protected VMs need the TDP MMU";
  return "this kernel has no software-protected VMs";
}

class ProtectedTest : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string reason = ProtectedVmsUnavailable(); !reason.empty())
      GTEST_SKIP() << reason;
  }

  GuestVmConfig Config(unsigned vcpus = 1) const {
    GuestVmConfig config = SlotTest::Config(vcpus);
    config.type = VmType::kSwProtected;
    return config;
  }

  // A memslot of `size` that can be private and whose shared memory holds the pattern of `seed`.
  static MemorySlot AddFilledPrivateSlot(TestVm& vm, Gpa gpa, uint64_t size, uint64_t seed) {
    MemorySlot slot = vm.AddPrivateSlot(gpa, size);
    FillMemory(slot.memory(), {.start = gpa, .pages = size / kPageSize, .seed = seed});
    return slot;
  }
};

// Of a guest that accesses private memory where the VM has none.
MATCHER_P(IsPrivateFaultAt, gpa,
          "is KVM_EXIT_MEMORY_FAULT, a private access of 4 KiB at " + Hex(gpa)) {
  if (arg.done || !arg.memory_fault) {
    *result_listener << (arg.done ? "the guest got through" : arg.exit_text);
    return false;
  }
  *result_listener << arg.exit_text;
  return *arg.memory_fault ==
         MemoryFault{.flags = KVM_MEMORY_EXIT_FLAG_PRIVATE, .gpa = gpa, .size = kPageSize};
}

// A part of a pattern that covers more.
inline Pattern PartOf(const Pattern& whole, const GpaRange& part) {
  Pattern pattern = whole;
  pattern.range = part;
  pattern.first_word = whole.first_word + (part.start - whole.range.start) / 8;
  return pattern;
}

}  // namespace slotzap
