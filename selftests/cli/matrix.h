// SPDX-License-Identifier: GPL-2.0-only
// What the suite found, theme by theme, on every machine and in every MMU mode that it ran in.
#pragma once

#include <cstddef>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace slotzap {

// One run of the suite: what harness/session.h writes as results.json.
struct SuiteRun {
  struct Test {
    std::string name, theme, outcome, message;
  };

  // What it ran on, "6.12" or "6.12.unpatched", then vendor or machine, and mode: of the file's
  // name, BASE[.KIND]-ON-MODE.json.
  std::string kernel, machine, mode;
  // What it says of itself, which a host that died can't: uname -r, the vendor, what emulates it.
  std::string release, vendor, emulator;
  std::vector<Test> tests;

  // Throws std::runtime_error if the file has another name, or isn't such a file.
  static SuiteRun Load(const std::string& path);
};

// One theme in one run.
struct MatrixCell {
  size_t passed = 0, failed = 0, imprecise = 0, skipped = 0;
  bool empty() const { return passed + failed + imprecise + skipped == 0; }
  // "30", "2F 28", "1i 29", "28 2s": failed, imprecise, passed, skipped; "-" where there is none.
  std::string Text() const;
  MatrixCell& operator+=(const MatrixCell& other);
};

class Matrix {
 public:
  // Several runs of one kernel, machine and mode are its shards.
  explicit Matrix(std::vector<SuiteRun> runs);

  // A table per kernel: a row per theme of which it has tests, a row with their sum, a column per
  // machine and mode.  Then each failure, and each reason to skip, with where.
  std::string Text() const;
  // The same as a page of its own.
  std::string Html() const;

 private:
  // A message and the places where it was seen, e.g. "nested" in "6.1-svm-shadow".
  struct Note {
    std::string text;
    std::vector<std::string> where;
    size_t tests = 0;
  };

  void Count(const SuiteRun& run, size_t column);
  void AddNote(std::vector<Note>& notes, const std::string& text, const std::string& where);
  std::vector<std::string> Kernels() const;
  std::vector<size_t> ColumnsOf(const std::string& kernel) const;
  // The rows of a kernel's table: what they are called, and a cell for each of the columns.
  std::vector<std::pair<std::string, std::vector<MatrixCell>>> RowsOf(
      const std::vector<size_t>& columns) const;

  std::vector<SuiteRun> runs_;
  // By theme, then by run.
  std::map<std::string, std::vector<MatrixCell>> cells_;
  std::map<std::string, std::vector<Note>> skips_;  // by theme
  std::vector<Note> failures_, imprecise_;
};

}  // namespace slotzap
