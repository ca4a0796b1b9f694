// SPDX-License-Identifier: GPL-2.0-only
// What the themes share: a VM that can report when it hangs, and a fixture that runs each test with
// KVM_X86_QUIRK_SLOT_ZAP_ALL enabled (".../ZapAll") and disabled (".../LeafOnly").
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>

#include "base/range.h"
#include "guest/guest_vm.h"
#include "harness/precision.h"
#include "host/kvm_module.h"
#include "oracle/zap_watch.h"
#include "tests/matchers.h"

namespace slotzap {

using namespace literals;  // NOLINT(google-build-using-namespace): 4_KiB, as intended

// A GuestVm whose vCPUs are described if the test exceeds its time.
class TestVm : public GuestVm {
 public:
  explicit TestVm(const GuestVmConfig& config = {});
  ~TestVm();

  // Lets the guest touch all of the agent and its page tables, so that KVM has SPTEs for them: what
  // is mapped later is the test's.
  void MapOwnMemory();

  // Memory at `gpa`, filled by the host with the pattern of `seed`.
  MemorySlot AddFilledSlot(Gpa gpa, uint64_t size, uint64_t seed, Backing backing = Backing::k4K);
};

// The pattern over a whole slot, or over a part of one, as AddFilledSlot() wrote it.
Pattern PatternOf(const MemorySlot& slot, uint64_t seed);
// Writes the pattern into memory from the host's side.
void FillMemory(const GuestMemory& memory, const guest::Range& range, uint64_t offset = 0);

// How KVM on this machine maps guests.
MmuMode CurrentMmuMode();

// Whether this is Linux `version`, as in "6.12", or later: for what KVM does differently since.
bool KernelIsAtLeast(const char* version);

// Why the quirk can't be disabled here, or an empty string.
std::string QuirkUnavailable();
// Why a test can't run here with the quirk enabled, or disabled, or an empty string.
std::string SlotTestUnavailable(bool slot_zap_all);
// Why hugetlb pages of `backing` can't be had here, or an empty string.
std::string BackingUnavailable(Backing backing, uint64_t pages);

// Whether the kernel has this project's series, which say so by a capability of theirs.
bool HasSeries();
// Why a test of what the series fix is not run on a kernel without them, or an empty string, also
// if SLOTZAP_KNOWN_BUGS=1 in the environment says that it is to run all the same.
std::string KnownBug(const std::string& what);

// How many TLB flushes `zap` asks for, each time after `map`, at the least: a walk that the host's
// timer makes yield asks for one more, never for one less.
uint64_t FewestFlushes(TestVm& vm, const std::function<void()>& map,
                       const std::function<void()>& zap);

class SlotTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override;

  bool slot_zap_all() const { return GetParam(); }
  GuestVmConfig Config(unsigned vcpus = 1) const {
    return {.slot_zap_all = slot_zap_all(), .vcpus = vcpus};
  }
};

std::string QuirkName(const testing::TestParamInfo<bool>& info);

#define SLOTZAP_INSTANTIATE(suite) \
  INSTANTIATE_TEST_SUITE_P(Quirk, suite, testing::Values(true, false), QuirkName)

}  // namespace slotzap
