// SPDX-License-Identifier: GPL-2.0-only
// The table of "make bench": what deleting a memslot costs, against what it may cost.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/comparison.h"

namespace slotzap {

// What slotzap-bench measured in one host: Google Benchmark's JSON, with the machine in its
// context.
struct BenchRun {
  std::string kernel;   // uname -r
  std::string mode;     // "tdp", "legacy", "shadow"
  std::string vendor;   // "svm", "vmx"
  std::string host;     // "emulated by QEMU's TCG", or whatever the host is
  bool series = false;  // the kernel has the series
  // By the names of bench/cases.h: counters by their names, or why there are none.
  std::map<std::string, std::map<std::string, double>> figures;
  std::map<std::string, std::string> errors;

  // Throws std::runtime_error if it isn't such JSON.
  static BenchRun FromJson(const nlohmann::json& json);
};

// One line of the table.
struct BenchRow {
  enum Verdict { kPass, kFail, kNotJudged };
  std::string row;     // "untouched"
  std::string mode;    // "tdp"
  std::string what;    // "4 KiB, 64 MiB elsewhere"
  std::string target;  // "<= 1.10 x quirk on"
  // Each side: quirk on, quirk off, and the two or what the target is about compared.  "-": not
  // measured there; or why not.
  struct Side {
    std::string on = "-";
    std::string off = "-";
    std::string measured = "-";
  };
  Side series;
  Side unpatched;
  Verdict verdict = kNotJudged;
  std::string problem;  // if it failed
};

struct BenchQuestion {
  std::vector<std::string> modes;
  std::vector<std::string> rows = {};  // names of rows; empty: all
  // There is a kernel of the same base without the series that has the quirk: targets that compare
  // with it are judged.
  bool unpatched = false;
};

// The names of all rows.
std::vector<std::string> BenchRowNames();

// All lines that the question asks for, whether measured or not: a figure that a target needs and
// that is missing makes its line fail.
std::vector<BenchRow> JudgeBench(const BenchQuestion& question, const std::vector<BenchRun>& runs);

std::string BenchTable(const std::vector<BenchRow>& rows, const std::vector<BenchRun>& runs);
nlohmann::json ToJson(const std::vector<BenchRow>& rows);
// kFail if a line failed, or there is none.
Verdict Summarize(const std::vector<BenchRow>& rows);

}  // namespace slotzap
