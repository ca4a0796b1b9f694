// SPDX-License-Identifier: GPL-2.0-only
// Theme: probe.  What `slotzap probe` finds out is what the ABI promises.
#include "cli/run_probe.h"

#include "tests/slot_test.h"

namespace slotzap {
namespace {

class Probe : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = Kvm::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }

  // Probed by the first test that asks.
  static const ProbeReport& Report() {
    static const ProbeReport report = RunProbe();
    return report;
  }

  // Each row of this type and setting did what is expected; and there was one.
  static void ExpectRows(VmType type, const std::string& setting, Zapping expected) {
    unsigned rows = 0;
    for (const ProbeRow& row : Report().rows) {
      if (row.type != ToString(type) || row.setting != setting) continue;
      EXPECT_EQ(row.error, "");
      EXPECT_EQ(ToString(row.does()), ToString(expected)) << Table(Report());
      rows++;
    }
    EXPECT_EQ(rows, type == VmType::kDefault ? 1u : 2u) << Table(Report());
  }
};

TEST_F(Probe, NothingContradictsAnything) {
  const Verdict verdict = Judge(Report());
  EXPECT_EQ(verdict.result, Verdict::kPass) << verdict.sentence << "\n" << Table(Report());
}

TEST_F(Probe, AVmThatKnowsNothingOfTheQuirkZapsAll) {
  ExpectRows(VmType::kDefault, "default", Zapping::kZapAll);
}

TEST_F(Probe, QuirkDisabledIsLeafOnly) {
  if (const std::string reason = QuirkUnavailable(); !reason.empty()) GTEST_SKIP() << reason;
  ExpectRows(VmType::kDefault, "quirk disabled", Zapping::kLeafOnly);
}

TEST_F(Probe, AMemslotWithTheFlagIsLeafOnly) {
  if (!Report().memslot_flag) GTEST_SKIP() << "this kernel has no KVM_MEM_ZAP_LEAFS_ONLY";
  ExpectRows(VmType::kDefault, "memslot flag", Zapping::kLeafOnly);
}

TEST_F(Probe, ProtectedVmsAreLeafOnlyWhateverTheQuirk) {
  if (!Kvm().Supports(VmType::kSwProtected))
    GTEST_SKIP() << "this KVM has no software-protected VMs";
  ExpectRows(VmType::kSwProtected, "default", Zapping::kLeafOnly);
  if (Report().slot_zap_all())
    ExpectRows(VmType::kSwProtected, "quirk disabled", Zapping::kLeafOnly);
  if (Report().memslot_flag) ExpectRows(VmType::kSwProtected, "memslot flag", Zapping::kLeafOnly);
}

}  // namespace
}  // namespace slotzap
