// SPDX-License-Identifier: GPL-2.0-only
#include "cli/bench_table.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "base/range.h"
#include "bench/cases.h"
#include "cli/text_table.h"

namespace slotzap {
namespace {

using namespace literals;

std::string Number(const char* format, double value) {
  char text[64];
  snprintf(text, sizeof(text), format, value);
  return text;
}

std::string Time(double ns) { return Duration(static_cast<uint64_t>(ns)); }
std::string Times(double ratio) { return Number(ratio < 10 ? "%.2f x" : "%.0f x", ratio); }
std::string Count(double n) { return Number("%.0f", n); }

// All runs of one mode, of the kernel with the series or of that without.
class Figures {
 public:
  Figures(const std::vector<BenchRun>& runs, const std::string& mode, bool series) {
    for (const BenchRun& run : runs)
      if (run.mode == mode && run.series == series) runs_.push_back(&run);
  }

  std::optional<double> Get(const std::string& name, const std::string& counter) const {
    for (const BenchRun* run : runs_) {
      const auto figures = run->figures.find(name);
      if (figures == run->figures.end()) continue;
      const auto value = figures->second.find(counter);
      if (value != figures->second.end()) return value->second;
    }
    return std::nullopt;
  }
  std::string Error(const std::string& name) const {
    for (const BenchRun* run : runs_)
      if (const auto error = run->errors.find(name); error != run->errors.end())
        return error->second;
    return "";
  }

 private:
  std::vector<const BenchRun*> runs_;
};

// Makes the lines of one mode.
class LineJudge {
 public:
  LineJudge(const BenchQuestion& question, const std::vector<BenchRun>& runs, std::string mode,
            std::vector<BenchRow>& rows)
      : mode_(std::move(mode)),
        has_unpatched_(question.unpatched),
        series_(runs, mode_, true),
        unpatched_(runs, mode_, false),
        rows_(rows) {}

  void Untouched();
  void Small();
  void Leaf();
  void Refaults();
  void Lock();
  void Fault();
  void Growth();

 private:
  struct Pair {
    std::optional<double> on, off;
    std::optional<double> ratio() const {
      if (!on || !off || *on <= 0) return std::nullopt;
      return *off / *on;
    }
  };

  BenchRow& NewRow(const std::string& row, const std::string& what, const std::string& target) {
    BenchRow& line = rows_.emplace_back();
    line.row = row;
    line.mode = mode_;
    line.what = what;
    line.target = target;
    return line;
  }
  static void Fail(BenchRow& row, const std::string& problem) {
    row.verdict = BenchRow::kFail;
    row.problem += (row.problem.empty() ? "" : "; ") + problem;
  }
  // A target: `value` exists and is at most, or at least, `limit`.
  static void Expect(BenchRow& row, std::optional<double> value, bool right,
                     const std::string& problem) {
    if (!value)
      Fail(row, "not measured");
    else if (!right)
      Fail(row, problem);
    else if (row.verdict != BenchRow::kFail)
      row.verdict = BenchRow::kPass;
  }
  static void AtMost(BenchRow& row, std::optional<double> value, double limit,
                     const std::string& problem) {
    Expect(row, value, value && *value <= limit, problem);
  }
  static void AtLeast(BenchRow& row, std::optional<double> value, double limit,
                      const std::string& problem) {
    Expect(row, value, value && *value >= limit, problem);
  }

  using Format = std::string (*)(double);
  static std::string Show(const Figures& figures, const std::string& name,
                          std::optional<double> value, Format format) {
    if (value) return format(*value);
    const std::string error = figures.Error(name);
    return error.empty() ? "-" : error;
  }
  // Fills in on and off of both sides.
  Pair ShowPair(const Figures& figures, BenchRow::Side& side, const std::string& on,
                const std::string& off, const std::string& counter, Format format,
                double divisor = 1) const {
    Pair pair = {figures.Get(on, counter), figures.Get(off, counter)};
    for (std::optional<double>* value : {&pair.on, &pair.off})
      if (*value) **value /= divisor;
    side.on = Show(figures, on, pair.on, format);
    side.off = Show(figures, off, pair.off, format);
    return pair;
  }

  std::string mode_;
  bool has_unpatched_;
  Figures series_;
  Figures unpatched_;
  std::vector<BenchRow>& rows_;
};

std::optional<double> Ratio(std::optional<double> a, std::optional<double> b) {
  if (!a || !b || *b <= 0) return std::nullopt;
  return *a / *b;
}

std::string Text(std::optional<double> value, std::string (*format)(double)) {
  return value ? format(*value) : "-";
}

void LineJudge::Untouched() {
  for (const UntouchedCase& c : UntouchedCases()) {
    // A kernel without the series looks each gfn of the slot up, as soon as shadow pages exist.
    const bool compared = c.size == 64_GiB && mode_ != "tdp" && has_unpatched_;
    BenchRow& row = NewRow(
        "untouched", c.Text(),
        std::string("<= 1.10 x quirk on") + (compared ? ", >= 8 x faster than without" : ""));
    const Pair now = ShowPair(series_, row.series, c.Name(true), c.Name(false), "delete_ns", Time);
    const Pair before =
        ShowPair(unpatched_, row.unpatched, c.Name(true), c.Name(false), "delete_ns", Time);
    row.series.measured = Text(now.ratio(), Times);
    row.unpatched.measured = Text(before.ratio(), Times);
    AtMost(row, now.ratio(), 1.1, "slower than with the quirk on");
    if (!compared) continue;
    const std::optional<double> faster = Ratio(before.off, now.off);
    if (faster) row.series.measured += ", " + Number("%.1f", *faster) + " x faster";
    AtLeast(row, faster, 8, "not 8 x faster than without the series");
  }
}

void LineJudge::Small() {
  BenchRow& row = NewRow("small", "4 KiB, 1 GiB elsewhere", "<= 1.10 x adding it");
  const auto fill = [&](const Figures& figures, BenchRow::Side& side) {
    ShowPair(figures, side, SmallName(true), SmallName(false), "delete_ns", Time);
    const std::optional<double> ratio =
        Ratio(figures.Get(SmallName(false), "delete_ns"), figures.Get(SmallName(false), "add_ns"));
    side.measured = Text(ratio, Times);
    return ratio;
  };
  fill(unpatched_, row.unpatched);
  AtMost(row, fill(series_, row.series), 1.1, "slower than adding it");
}

void LineJudge::Leaf() {
  BenchRow& row = NewRow("leaf", "64 MiB touched, per leaf",
                         has_unpatched_ ? "no slower than without the series" : "(shown)");
  const auto fill = [&](const Figures& figures, BenchRow::Side& side) {
    const std::optional<double> leaves = figures.Get(LeafName(false), "leaves");
    const Pair pair = ShowPair(figures, side, LeafName(true), LeafName(false), "delete_ns", Time,
                               leaves.value_or(1));
    if (const auto unmap = Ratio(figures.Get(LeafName(false), "unmap_ns"), leaves))
      side.measured = "unmap: " + Time(*unmap);
    return pair.off;
  };
  const std::optional<double> now = fill(series_, row.series);
  const std::optional<double> before = fill(unpatched_, row.unpatched);
  if (has_unpatched_) {
    // What two builds of the same code differ by.
    constexpr double kNoise = 1.01;
    AtMost(row, Ratio(now, before), kNoise, "slower than without the series");
  } else if (!now) {
    Fail(row, "not measured");
  }
}

void LineJudge::Refaults() {
  for (const RefaultCase& c : RefaultCases()) {
    BenchRow& row = NewRow("refaults", c.Text(), "0");
    const Pair now = ShowPair(series_, row.series, c.Name(true), c.Name(false), "refaults", Count);
    ShowPair(unpatched_, row.unpatched, c.Name(true), c.Name(false), "refaults", Count);
    row.series.measured = row.series.off;
    row.unpatched.measured = row.unpatched.off;
    AtMost(row, now.off, 0, "other slots were faulted in again");
  }
}

void LineJudge::Lock() {
  for (const uint64_t touched : LockTouched()) {
    std::optional<double> small_off;
    for (const uint64_t size : {kLockSmallSize, kLockLargeSize}) {
      const LockCase c = {size, touched};
      const bool large = size == kLockLargeSize;
      BenchRow& row = NewRow(
          "lock",
          SizeString(size) + ", " + (touched == 0 ? "untouched" : SizeString(touched) + " touched"),
          large ? "<= 1.10 x that of " + SizeString(kLockSmallSize) : "(shown)");
      const auto fill = [&](const Figures& figures, BenchRow::Side& side) {
        const Pair pair = ShowPair(figures, side, c.Name(true), c.Name(false), "longest_ns", Time);
        if (const auto stretches = figures.Get(c.Name(false), "stretches"))
          side.measured = "longest of " + Count(*stretches);
        return pair.off;
      };
      const std::optional<double> off = fill(series_, row.series);
      fill(unpatched_, row.unpatched);
      if (large)
        AtMost(row, Ratio(off, small_off), 1.1, "held longer the larger the slot");
      else if (!off)
        Fail(row, "not measured");
      small_off = off;
    }
  }
}

void LineJudge::Fault() {
  for (const FaultCase& c : FaultCases()) {
    const bool compared = mode_ != "tdp";
    BenchRow& row = NewRow("fault", c.Text(),
                           !compared        ? "<= 2 x quirk on"
                           : has_unpatched_ ? "<= 1/5 of without the series"
                                            : "(shown)");
    const auto fill = [&](const Figures& figures, BenchRow::Side& side) {
      const Pair pair = ShowPair(figures, side, c.Name(true), c.Name(false), "worst_ns", Time);
      if (const auto faults = figures.Get(c.Name(false), "faults"))
        side.measured = "worst of " + Count(*faults);
      return pair;
    };
    const Pair now = fill(series_, row.series);
    const Pair before = fill(unpatched_, row.unpatched);
    if (!compared)
      AtMost(row, now.ratio(), 2, "waits longer than with the quirk on");
    else if (has_unpatched_)
      AtMost(row, Ratio(now.off, before.off), 0.2,
             "waits longer than a fifth of without the series");
    else if (!now.off)
      Fail(row, "not measured");
  }
}

void LineJudge::Growth() {
  BenchRow& row = NewRow("growth", "page tables, 100 and 100,000 rounds", "no more than after 100");
  const auto fill = [&](const Figures& figures, BenchRow::Side& side) {
    const Pair pair = {figures.Get(GrowthName(false), "pages_few"),
                       figures.Get(GrowthName(false), "pages_many")};
    side.off = Show(figures, GrowthName(false), pair.on, Count) + " pages";
    side.measured = Text(pair.off, Count) + " pages";
    return pair;
  };
  fill(unpatched_, row.unpatched);
  AtMost(row, fill(series_, row.series).ratio(), 1, "page tables of slots that are gone stay");
}

struct Theme {
  const char* row;
  void (LineJudge::*judge)();
};
constexpr Theme kThemes[] = {
    {"untouched", &LineJudge::Untouched}, {"small", &LineJudge::Small},
    {"leaf", &LineJudge::Leaf},           {"refaults", &LineJudge::Refaults},
    {"lock", &LineJudge::Lock},           {"fault", &LineJudge::Fault},
    {"growth", &LineJudge::Growth},
};

const char* Word(BenchRow::Verdict verdict) {
  switch (verdict) {
    case BenchRow::kPass:
      return "pass";
    case BenchRow::kFail:
      return "FAIL";
    case BenchRow::kNotJudged:
      break;
  }
  return "-";
}

// Google Benchmark adds how it ran.
std::string CaseName(const std::string& name) { return name.substr(0, name.find("/iterations:")); }

}  // namespace

BenchRun BenchRun::FromJson(const nlohmann::json& json) {
  BenchRun run;
  try {
    const nlohmann::json& context = json.at("context");
    run.kernel = context.at("kernel");
    run.mode = context.at("mode");
    run.vendor = context.at("vendor");
    run.host = context.at("host");
    run.series = context.at("series") == "yes";
    for (const nlohmann::json& bench : json.at("benchmarks")) {
      const std::string name = CaseName(bench.at("name"));
      if (bench.value("error_occurred", false)) {
        run.errors[name] = bench.value("error_message", "failed");
        continue;
      }
      for (const auto& [key, value] : bench.items())
        if (value.is_number()) run.figures[name][key] = value;
    }
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(std::string("not what slotzap-bench writes: ") + e.what());
  }
  return run;
}

std::vector<std::string> BenchRowNames() {
  std::vector<std::string> names;
  for (const Theme& theme : kThemes) names.emplace_back(theme.row);
  return names;
}

std::vector<BenchRow> JudgeBench(const BenchQuestion& question, const std::vector<BenchRun>& runs) {
  std::vector<BenchRow> rows;
  for (const Theme& theme : kThemes) {
    const std::vector<std::string>& asked = question.rows;
    if (!asked.empty() && std::find(asked.begin(), asked.end(), theme.row) == asked.end()) continue;
    for (const std::string& mode : question.modes) {
      LineJudge judge(question, runs, mode, rows);
      (judge.*theme.judge)();
    }
  }
  return rows;
}

std::string BenchTable(const std::vector<BenchRow>& rows, const std::vector<BenchRun>& runs) {
  std::string heading;
  for (const bool series : {true, false})
    for (const BenchRun& run : runs)
      if (run.series == series) {
        heading += std::string(series ? "with the series: " : "without:         ") + "Linux " +
                   run.kernel + ", " + run.vendor + ", " + run.host + "\n";
        break;
      }
  std::vector<Row> lines = {
      {"", "", "", "", "|", "with the series", "", "", "|", "without it", "", "", "|", ""},
      {"row", "mode", "what is deleted", "target", "|", "quirk on", "quirk off", "measured", "|",
       "quirk on", "quirk off", "measured", "|", ""}};
  std::string problems;
  for (const BenchRow& row : rows) {
    Row line = {row.row, row.mode, row.what, row.target};
    for (const BenchRow::Side* side : {&row.series, &row.unpatched})
      for (const std::string& cell : {std::string("|"), side->on, side->off, side->measured})
        line.push_back(cell);
    line.emplace_back("|");
    line.emplace_back(Word(row.verdict));
    lines.push_back(std::move(line));
    if (row.verdict == BenchRow::kFail)
      problems += "  " + row.row + ", " + row.mode + ", " + row.what + ": " + row.problem + "\n";
  }
  return heading + "\n" + Align(lines, 4) + (problems.empty() ? "" : "\nFailed:\n" + problems);
}

nlohmann::json ToJson(const std::vector<BenchRow>& rows) {
  nlohmann::json json = nlohmann::json::array();
  const auto side = [](const BenchRow::Side& s) {
    return nlohmann::json{{"on", s.on}, {"off", s.off}, {"measured", s.measured}};
  };
  for (const BenchRow& row : rows)
    json.push_back({{"row", row.row},
                    {"mode", row.mode},
                    {"what", row.what},
                    {"target", row.target},
                    {"series", side(row.series)},
                    {"unpatched", side(row.unpatched)},
                    {"verdict", Word(row.verdict)},
                    {"problem", row.problem}});
  return json;
}

Verdict Summarize(const std::vector<BenchRow>& rows) {
  const auto count = [&](BenchRow::Verdict verdict) {
    return std::count_if(rows.begin(), rows.end(),
                         [=](const BenchRow& row) { return row.verdict == verdict; });
  };
  const auto failed = count(BenchRow::kFail);
  const std::string counts = std::to_string(count(BenchRow::kPass)) + " met their target, " +
                             std::to_string(failed) + " missed it, " +
                             std::to_string(count(BenchRow::kNotJudged)) + " have none";
  if (rows.empty()) return {Verdict::kFail, "FAIL: nothing was asked for."};
  if (failed != 0) return {Verdict::kFail, "FAIL: of the lines above, " + counts + "."};
  return {Verdict::kPass, "PASS: of the lines above, " + counts + "."};
}

}  // namespace slotzap
