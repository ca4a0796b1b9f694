// SPDX-License-Identifier: GPL-2.0-only
#include "cli/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace slotzap {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

ProbeRow ZapAllRow() {
  return {.type = "default",
          .memory = "shared",
          .setting = "default",
          .says = Zapping::kZapAll,
          .pages = 64,
          .refaults = 64,
          .leaves_before = 140,
          .leaves_victim = 64,
          .leaves_after = 0,
          .error = ""};
}

ProbeRow LeafOnlyRow() {
  ProbeRow row = ZapAllRow();
  row.type = "sw-protected";
  row.memory = "private";
  row.setting = "quirk disabled";
  row.says = Zapping::kLeafOnly;
  row.refaults = 0;
  row.leaves_after = 76;
  return row;
}

ProbeReport Report(std::vector<ProbeRow> rows) {
  ProbeReport report;
  report.machine = {"6.12.1", "svm", "tdp", "emulated by QEMU's TCG"};
  report.quirks = 0xff;
  report.quirks_in_effect = 0xfe;
  report.memslot_flag = true;
  report.vm_types = {0, 1, 4};
  report.rows = std::move(rows);
  return report;
}

TEST(Probe, ClassifiesByRefaults) {
  EXPECT_EQ(Classify(64, 64), Zapping::kZapAll);
  EXPECT_EQ(Classify(65, 64), Zapping::kZapAll);
  EXPECT_EQ(Classify(0, 64), Zapping::kLeafOnly);
  EXPECT_EQ(Classify(1, 64), Zapping::kMixed);
  EXPECT_EQ(Classify(63, 64), Zapping::kMixed);
}

TEST(Probe, ComparesWhatItSaysWithWhatItDoes) {
  ProbeRow row = ZapAllRow();
  EXPECT_EQ(row.agrees(), "yes");
  row.says = Zapping::kLeafOnly;
  EXPECT_EQ(row.agrees(), "no");
  row.says.reset();
  EXPECT_EQ(row.agrees(), "not asked");
  row = ZapAllRow();
  row.error = "no memory";
  EXPECT_EQ(row.agrees(), "not asked");
}

TEST(Probe, LeafCountsHaveToAgreeWithRefaults) {
  ProbeRow row = ZapAllRow();
  EXPECT_TRUE(row.leaves_agree());
  row.leaves_after = 1;
  EXPECT_FALSE(row.leaves_agree()) << "something was left";

  row = LeafOnlyRow();
  EXPECT_TRUE(row.leaves_agree());
  row.leaves_after--;
  EXPECT_FALSE(row.leaves_agree()) << "one more than the victim's went";
  row.leaves_after += 2;
  EXPECT_FALSE(row.leaves_agree()) << "one of the victim's stayed";

  row.refaults = 10;
  row.leaves_after = 66;
  EXPECT_TRUE(row.leaves_agree()) << "mixed";
  row.leaves_after = 76;
  EXPECT_FALSE(row.leaves_agree());
}

TEST(Probe, TableHasARowPerDeletion) {
  ProbeRow unasked = ZapAllRow();
  unasked.says.reset();
  ProbeRow broken = LeafOnlyRow();
  broken.error = "no memory";
  EXPECT_EQ(
      Table(Report({ZapAllRow(), LeafOnlyRow(), unasked, broken})),
      "Linux 6.12.1, svm, tdp mode, emulated by QEMU's TCG\n"
      "quirks that can be disabled: 0xff, with KVM_X86_QUIRK_SLOT_ZAP_ALL\n"
      "quirks in effect: 0xfe at most; memslot flag: yes; VM types: default, sw-protected, type 4\n"
      "\n"
      "type          memory   setting         says       does       refaults/pages  agrees\n"
      "default       shared   default         zap-all    zap-all    64/64           yes\n"
      "sw-protected  private  quirk disabled  leaf-only  leaf-only  0/64            yes\n"
      "default       shared   default         -          zap-all    64/64           not asked\n"
      "sw-protected  private  quirk disabled             error                      not asked\n");
}

TEST(Probe, TableSaysWhatAnOldKernelLacks) {
  ProbeReport report = Report({ZapAllRow()});
  report.quirks = 0x7f;
  report.quirks_in_effect.reset();
  report.memslot_flag = false;
  report.vm_types = {0};
  EXPECT_THAT(Table(report),
              HasSubstr("quirks that can be disabled: 0x7f, without KVM_X86_QUIRK_SLOT_ZAP_ALL\n"
                        "quirks in effect: the kernel doesn't say; memslot flag: no; "
                        "VM types: default\n"));
}

TEST(Probe, JsonHasTheDocumentedKeys) {
  EXPECT_EQ(ToJson(Report({LeafOnlyRow()})), nlohmann::json::parse(R"({
    "kernel": "6.12.1", "vendor": "svm", "mode": "tdp", "host": "emulated by QEMU's TCG",
    "quirks": 255, "slot_zap_all": true, "quirks_in_effect": 254, "memslot_flag": true,
    "vm_types": [0, 1, 4],
    "rows": [{
      "type": "sw-protected", "memory": "private", "setting": "quirk disabled",
      "says": "leaf-only", "does": "leaf-only", "agrees": "yes", "pages": 64, "refaults": 0,
      "leaves": {"before": 140, "victim": 64, "after": 76}, "leaves_agree": true, "error": null
    }],
    "result": "ok"
  })"));
}

TEST(Probe, JsonHasNullForWhatIsUnknown) {
  ProbeRow unasked = ZapAllRow();
  unasked.says.reset();
  ProbeRow broken = ZapAllRow();
  broken.error = "no memory";
  ProbeReport report = Report({unasked, broken});
  report.quirks_in_effect.reset();
  const nlohmann::json json = ToJson(report);
  EXPECT_TRUE(json["quirks_in_effect"].is_null());
  EXPECT_TRUE(json["rows"][0]["says"].is_null());
  EXPECT_TRUE(json["rows"][1]["does"].is_null());
  EXPECT_EQ(json["rows"][1]["error"], "no memory");
  EXPECT_EQ(json["result"], "fail");
}

TEST(Probe, PassesWhatAgrees) {
  EXPECT_EQ(Judge(Report({ZapAllRow(), LeafOnlyRow()})).result, Verdict::kPass);
  ProbeRow unasked = ZapAllRow();
  unasked.says.reset();
  const Verdict verdict = Judge(Report({unasked}));
  EXPECT_EQ(verdict.result, Verdict::kPass);
  EXPECT_THAT(verdict.sentence, HasSubstr("no way to say it"));
}

TEST(Probe, FailsWhatDoesNot) {
  ProbeRow row = ZapAllRow();
  row.says = Zapping::kLeafOnly;
  EXPECT_EQ(Judge(Report({LeafOnlyRow(), row})).result, Verdict::kFail);
  EXPECT_EQ(
      Judge(Report({row})).sentence,
      "FAIL: default VM, shared memory, default: the kernel says leaf-only and does zap-all.");

  row = LeafOnlyRow();
  row.leaves_after = 70;
  EXPECT_EQ(Judge(Report({row})).result, Verdict::kFail);
  EXPECT_THAT(Judge(Report({row})).sentence, HasSubstr("70 are left"));

  row.error = "no memory";
  EXPECT_THAT(Judge(Report({row})).sentence, StartsWith("FAIL: sw-protected VM, private memory"));
  EXPECT_EQ(Judge(Report({})).result, Verdict::kFail);
}

}  // namespace
}  // namespace slotzap
