// SPDX-License-Identifier: GPL-2.0-only
#include "cli/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

namespace slotzap {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

UpdateCost On() { return {4360, 256, 4360, 16, true, 4102, 11'800'000, 5}; }
UpdateCost Off() { return {4360, 256, 256, 0, true, 0, 596'200, 5}; }

ModeReport Report(const std::string& mode) {
  return {mode, "svm", "6.1.0-1-cloud-amd64", "emulated by tcg", "", {{"delete", On(), Off()}}};
}

TEST(Comparison, SurvivesJson) {
  const ModeReport report = FromJson(ToJson(Report("legacy")));
  EXPECT_EQ(report.mode, "legacy");
  ASSERT_EQ(report.comparisons.size(), 1u);
  EXPECT_EQ(report.comparisons[0].on.refaults, 4102u);
  EXPECT_EQ(report.comparisons[0].off.host_ns, 596'200u);
}

TEST(Comparison, RefusesOtherJson) {
  EXPECT_THROW(FromJson(nlohmann::json::parse(R"({"mode": "tdp"})")), std::runtime_error);
}

TEST(Comparison, DurationsHaveAUnit) {
  EXPECT_EQ(Duration(999), "999 ns");
  EXPECT_EQ(Duration(596'200), "596.2 us");
  EXPECT_EQ(Duration(11'800'000), "11.8 ms");
}

TEST(Comparison, TableIsSideBySide) {
  EXPECT_EQ(Table({Report("tdp")}),
            "Linux 6.1.0-1-cloud-amd64, svm, emulated by tcg\n"
            "\n"
            "              |      quirk on                                     |     quirk off\n"
            "mode  update  |  SPTEs zapped  shadow pages  refaults  host time  |  SPTEs zapped  "
            "shadow pages  refaults  host time\n"
            "tdp   delete  |  4360 of 4360            16      4102    11.8 ms  |   256 of 4360  "
            "           0         0   596.2 us\n");
}

TEST(Comparison, TableShowsASkip) {
  ModeReport report = {"shadow", "svm", "6.1", "not emulated", "no quirk", {}};
  EXPECT_THAT(Table({report}), HasSubstr("shadow: skipped, no quirk"));
}

TEST(Verdict, PassesWhatIsPrecise) {
  const Verdict verdict = Judge({Report("tdp"), Report("legacy"), Report("shadow")});
  EXPECT_EQ(verdict.result, Verdict::kPass);
  EXPECT_THAT(verdict.sentence, StartsWith("PASS: in tdp, legacy and shadow mode"));
}

TEST(Verdict, FailsWhatZapsTooMuchOrTooLittle) {
  ModeReport report = Report("tdp");
  report.comparisons[0].off.zapped_sptes = 257;
  EXPECT_EQ(Judge({report}).result, Verdict::kFail);
  EXPECT_EQ(Judge({report}).sentence,
            "FAIL: tdp mode, delete: with the quirk off, 257 SPTEs were zapped, the slot had 256.");
  report.comparisons[0].off.zapped_sptes = 255;
  EXPECT_EQ(Judge({report}).result, Verdict::kFail);
}

TEST(Verdict, FailsRefaultsElsewhere) {
  ModeReport report = Report("tdp");
  report.comparisons[0].off.refaults = 1;
  EXPECT_EQ(Judge({report}).result, Verdict::kFail);
}

TEST(Verdict, FailsAQuirkThatDoesNotZapAll) {
  ModeReport report = Report("tdp");
  report.comparisons[0].on = Off();
  EXPECT_EQ(Judge({report}).result, Verdict::kFail);
  report.comparisons[0].on = On();
  report.comparisons[0].on.refaults = 0;
  EXPECT_EQ(Judge({report}).result, Verdict::kFail);
}

TEST(Verdict, OneFailingModeIsEnough) {
  ModeReport broken = Report("shadow");
  broken.comparisons[0].off.refaults = 9;
  EXPECT_EQ(Judge({Report("tdp"), broken}).result, Verdict::kFail);
}

TEST(Verdict, NothingMeasuredIsASkip) {
  ModeReport report = Report("tdp");
  report.comparisons.clear();
  report.skipped = "no quirk";
  EXPECT_EQ(Judge({report}).result, Verdict::kSkip);
  EXPECT_EQ(Judge({}).result, Verdict::kSkip);
}

}  // namespace
}  // namespace slotzap
