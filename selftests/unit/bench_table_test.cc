// SPDX-License-Identifier: GPL-2.0-only
#include "cli/bench_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "bench/cases.h"

namespace slotzap {
namespace {

using testing::HasSubstr;

BenchRun RunOf(bool series, const std::string& mode = "legacy") {
  BenchRun run;
  run.kernel = "6.12.1";
  run.mode = mode;
  run.vendor = "svm";
  run.host = "emulated by QEMU's TCG";
  run.series = series;
  return run;
}

// The line of one case.
BenchRow Line(const std::vector<BenchRow>& rows, const std::string& what) {
  for (const BenchRow& row : rows)
    if (row.what == what) return row;
  throw std::out_of_range("no line " + what);
}

std::vector<BenchRow> JudgeRow(const std::string& row, const std::vector<BenchRun>& runs,
                               bool unpatched = false, const std::string& mode = "legacy") {
  return JudgeBench({.modes = {mode}, .rows = {row}, .unpatched = unpatched}, runs);
}

TEST(BenchCases, NamesAreUnique) {
  std::set<std::string> names;
  size_t count = 0;
  const auto add = [&](const auto& c) {
    for (const bool quirk : {true, false}) {
      names.insert(c.Name(quirk));
      count++;
    }
  };
  for (const UntouchedCase& c : UntouchedCases()) add(c);
  for (const RefaultCase& c : RefaultCases()) add(c);
  for (const LockCase& c : LockCases()) add(c);
  for (const FaultCase& c : FaultCases()) add(c);
  EXPECT_EQ(names.size(), count);
  EXPECT_EQ((UntouchedCase{64ull << 30, 0, true}).Name(false),
            "untouched/size:64GiB/elsewhere:0/nested:yes/quirk:off");
}

TEST(BenchRun, ReadsGoogleBenchmarksJson) {
  const BenchRun run = BenchRun::FromJson(nlohmann::json::parse(R"({
    "context": {"kernel": "6.12.1", "mode": "tdp", "vendor": "svm", "host": "h", "series": "yes"},
    "benchmarks": [
      {"name": "small/quirk:on/iterations:5/manual_time", "delete_ns": 12.5, "time_unit": "ns"},
      {"name": "leaf/quirk:on/iterations:5/manual_time", "error_occurred": true,
       "error_message": "no memory"}]})"));
  EXPECT_TRUE(run.series);
  EXPECT_EQ(run.mode, "tdp");
  EXPECT_EQ(run.figures.at("small/quirk:on").at("delete_ns"), 12.5);
  EXPECT_EQ(run.errors.at("leaf/quirk:on"), "no memory");
  EXPECT_FALSE(run.figures.contains("leaf/quirk:on"));
  EXPECT_THROW(BenchRun::FromJson(nlohmann::json::parse("{}")), std::runtime_error);
}

TEST(BenchTable, WhatIsMissingFails) {
  for (const std::string& row : BenchRowNames()) {
    const std::vector<BenchRow> rows = JudgeRow(row, {RunOf(true), RunOf(false)}, true);
    ASSERT_FALSE(rows.empty()) << row;
    for (const BenchRow& line : rows)
      EXPECT_EQ(line.verdict, BenchRow::kFail) << line.row << ", " << line.what;
    EXPECT_EQ(Summarize(rows).result, Verdict::kFail);
  }
  EXPECT_EQ(Summarize({}).result, Verdict::kFail);
}

TEST(BenchTable, UntouchedIsComparedWithTheQuirkOn) {
  const UntouchedCase c = UntouchedCases().front();
  BenchRun run = RunOf(true);
  run.figures[c.Name(true)]["delete_ns"] = 1000;
  run.figures[c.Name(false)]["delete_ns"] = 1100;
  EXPECT_EQ(Line(JudgeRow("untouched", {run}), c.Text()).verdict, BenchRow::kPass);
  run.figures[c.Name(false)]["delete_ns"] = 1101;
  const BenchRow row = Line(JudgeRow("untouched", {run}), c.Text());
  EXPECT_EQ(row.verdict, BenchRow::kFail);
  EXPECT_EQ(row.series.on, "1000 ns");
  EXPECT_EQ(row.series.off, "1101 ns");
  EXPECT_EQ(row.series.measured, "1.10 x");
  EXPECT_EQ(row.unpatched.off, "-");
}

// 64 GiB in legacy and shadow mode: also with the kernel without the series.
TEST(BenchTable, UntouchedIsComparedWithoutTheSeries) {
  const UntouchedCase c = {64ull << 30, 0, false};
  BenchRun run = RunOf(true);
  run.figures[c.Name(true)]["delete_ns"] = 1000;
  run.figures[c.Name(false)]["delete_ns"] = 1000;
  BenchRun unpatched = RunOf(false);
  unpatched.figures[c.Name(false)]["delete_ns"] = 8000;
  EXPECT_EQ(Line(JudgeRow("untouched", {run, unpatched}, true), c.Text()).verdict, BenchRow::kPass);
  unpatched.figures[c.Name(false)]["delete_ns"] = 7999;
  EXPECT_EQ(Line(JudgeRow("untouched", {run, unpatched}, true), c.Text()).verdict, BenchRow::kFail);
  // There, but not measured; and a base that has none to compare with.
  EXPECT_EQ(Line(JudgeRow("untouched", {run}, true), c.Text()).verdict, BenchRow::kFail);
  EXPECT_EQ(Line(JudgeRow("untouched", {run}, false), c.Text()).verdict, BenchRow::kPass);
}

TEST(BenchTable, AnErrorIsShownInItsPlace) {
  const UntouchedCase c = UntouchedCases().front();
  BenchRun run = RunOf(true);
  run.errors[c.Name(false)] = "no memory";
  const BenchRow row = Line(JudgeRow("untouched", {run}), c.Text());
  EXPECT_EQ(row.verdict, BenchRow::kFail);
  EXPECT_EQ(row.series.off, "no memory");
}

TEST(BenchTable, Small) {
  BenchRun run = RunOf(true);
  run.figures[SmallName(false)] = {{"delete_ns", 110}, {"add_ns", 100}};
  EXPECT_EQ(JudgeRow("small", {run}).at(0).verdict, BenchRow::kPass);
  run.figures[SmallName(false)]["delete_ns"] = 111;
  EXPECT_EQ(JudgeRow("small", {run}).at(0).verdict, BenchRow::kFail);
}

TEST(BenchTable, LeavesAreComparedWithoutTheSeries) {
  BenchRun run = RunOf(true);
  run.figures[LeafName(false)] = {{"delete_ns", 1000}, {"unmap_ns", 3000}, {"leaves", 10}};
  BenchRun unpatched = RunOf(false);
  unpatched.figures[LeafName(false)] = {{"delete_ns", 1000}, {"unmap_ns", 3000}, {"leaves", 10}};
  const BenchRow row = JudgeRow("leaf", {run, unpatched}, true).at(0);
  EXPECT_EQ(row.verdict, BenchRow::kPass);
  EXPECT_EQ(row.series.off, "100 ns");
  EXPECT_EQ(row.series.measured, "unmap: 300 ns");
  run.figures[LeafName(false)]["delete_ns"] = 1011;
  EXPECT_EQ(JudgeRow("leaf", {run, unpatched}, true).at(0).verdict, BenchRow::kFail);
  EXPECT_EQ(JudgeRow("leaf", {run}, false).at(0).verdict, BenchRow::kNotJudged);
}

TEST(BenchTable, NotASingleRefault) {
  BenchRun run = RunOf(true);
  const RefaultCase c = RefaultCases().front();
  run.figures[c.Name(true)]["refaults"] = 500;
  run.figures[c.Name(false)]["refaults"] = 0;
  EXPECT_EQ(Line(JudgeRow("refaults", {run}), c.Text()).verdict, BenchRow::kPass);
  run.figures[c.Name(false)]["refaults"] = 1;
  EXPECT_EQ(Line(JudgeRow("refaults", {run}), c.Text()).verdict, BenchRow::kFail);
}

TEST(BenchTable, TheLockIsHeldNoLongerForALargerSlot) {
  BenchRun run = RunOf(true);
  run.figures[LockCase{kLockSmallSize, 0}.Name(false)] = {{"longest_ns", 1000}, {"stretches", 3}};
  run.figures[LockCase{kLockLargeSize, 0}.Name(false)] = {{"longest_ns", 1100}, {"stretches", 9}};
  std::vector<BenchRow> rows = JudgeRow("lock", {run});
  EXPECT_EQ(rows.at(0).verdict, BenchRow::kNotJudged);
  EXPECT_EQ(rows.at(1).verdict, BenchRow::kPass);
  EXPECT_EQ(rows.at(1).series.measured, "longest of 9");
  run.figures[LockCase{kLockLargeSize, 0}.Name(false)]["longest_ns"] = 1101;
  EXPECT_EQ(JudgeRow("lock", {run}).at(1).verdict, BenchRow::kFail);
}

TEST(BenchTable, FaultsInTheTdpMmuAndOthers) {
  const FaultCase c = FaultCases().front();
  BenchRun tdp = RunOf(true, "tdp");
  tdp.figures[c.Name(true)] = {{"worst_ns", 100}, {"faults", 7}};
  tdp.figures[c.Name(false)] = {{"worst_ns", 200}, {"faults", 7}};
  EXPECT_EQ(JudgeRow("fault", {tdp}, true, "tdp").at(0).verdict, BenchRow::kPass);
  tdp.figures[c.Name(false)]["worst_ns"] = 201;
  EXPECT_EQ(JudgeRow("fault", {tdp}, true, "tdp").at(0).verdict, BenchRow::kFail);

  BenchRun legacy = RunOf(true);
  BenchRun unpatched = RunOf(false);
  legacy.figures[c.Name(false)]["worst_ns"] = 20;
  unpatched.figures[c.Name(false)]["worst_ns"] = 100;
  EXPECT_EQ(JudgeRow("fault", {legacy, unpatched}, true).at(0).verdict, BenchRow::kPass);
  legacy.figures[c.Name(false)]["worst_ns"] = 21;
  EXPECT_EQ(JudgeRow("fault", {legacy, unpatched}, true).at(0).verdict, BenchRow::kFail);
  EXPECT_EQ(JudgeRow("fault", {legacy}, false).at(0).verdict, BenchRow::kNotJudged);
}

TEST(BenchTable, PageTablesMayNotGrow) {
  BenchRun run = RunOf(true);
  run.figures[GrowthName(false)] = {{"pages_few", 20}, {"pages_many", 20}};
  EXPECT_EQ(JudgeRow("growth", {run}).at(0).verdict, BenchRow::kPass);
  run.figures[GrowthName(false)]["pages_many"] = 21;
  EXPECT_EQ(JudgeRow("growth", {run}).at(0).verdict, BenchRow::kFail);
}

TEST(BenchTable, PrintsAndWritesEachLine) {
  BenchRun run = RunOf(true);
  run.figures[SmallName(false)] = {{"delete_ns", 111}, {"add_ns", 100}};
  const std::vector<BenchRow> rows = JudgeRow("small", {run});
  const std::string table = BenchTable(rows, {run});
  EXPECT_THAT(table, HasSubstr("with the series: Linux 6.12.1, svm, emulated by QEMU's TCG"));
  EXPECT_THAT(table, HasSubstr("FAIL"));
  EXPECT_THAT(table, HasSubstr("Failed:\n  small, legacy, 4 KiB, 1 GiB elsewhere: slower"));
  const nlohmann::json json = ToJson(rows);
  EXPECT_EQ(json.at(0).at("verdict"), "FAIL");
  EXPECT_EQ(json.at(0).at("series").at("off"), "111 ns");
  EXPECT_THAT(Summarize(rows).sentence, HasSubstr("0 met their target, 1 missed it"));
}

// Of the rows and modes that are asked for, no others.
TEST(BenchTable, OneLinePerMode) {
  const std::vector<BenchRow> rows =
      JudgeBench({.modes = {"tdp", "shadow"}, .rows = {"small"}}, {});
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].mode, "tdp");
  EXPECT_EQ(rows[1].mode, "shadow");
  EXPECT_GT(JudgeBench({.modes = {"tdp"}}, {}).size(), BenchRowNames().size());
}

}  // namespace
}  // namespace slotzap
