// SPDX-License-Identifier: GPL-2.0-only
#include "cli/matrix.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <tuple>

#include "base/file_descriptor.h"
#include "cli/text_table.h"

namespace slotzap {
namespace {

std::string Where(const SuiteRun& run) { return run.kernel + "-" + run.machine + "-" + run.mode; }

// By what columns are sorted.
auto Rank(const SuiteRun& run) {
  // In the order in which people name them.
  const int mode = run.mode == "tdp" ? 0 : run.mode == "legacy" ? 1 : run.mode == "shadow" ? 2 : 3;
  return std::make_tuple(run.kernel, run.machine, mode, run.mode);
}

std::string Joined(const std::vector<std::string>& words, const char* between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

std::string FirstLines(const std::string& text, size_t lines) {
  size_t end = 0;
  for (size_t i = 0; i < lines && end != std::string::npos; i++)
    end = text.find('\n', end == 0 ? 0 : end + 1);
  return text.substr(0, end);
}

std::string Escaped(const std::string& text) {
  std::string html;
  for (const char c : text) {
    if (c == '<')
      html += "&lt;";
    else if (c == '>')
      html += "&gt;";
    else if (c == '&')
      html += "&amp;";
    else if (c == '"')
      html += "&quot;";
    else
      html += c;
  }
  return html;
}

const char* CssClass(const MatrixCell& cell) {
  if (cell.failed > 0) return "failed";
  if (cell.imprecise > 0) return "imprecise";
  if (cell.passed > 0) return cell.skipped > 0 ? "partly" : "passed";
  return "skipped";
}

std::string Tooltip(const MatrixCell& cell) {
  return std::to_string(cell.passed) + " passed, " + std::to_string(cell.failed) + " failed, " +
         std::to_string(cell.imprecise) + " imprecise, " + std::to_string(cell.skipped) +
         " skipped";
}

// "svm", "host (svm)": a machine of one's own can be of either vendor.  With `emulator`: "svm
// (tcg)".
std::string MachineText(const SuiteRun& run, bool emulator) {
  std::vector<std::string> facts;
  if (!run.vendor.empty() && run.vendor != run.machine) facts.push_back(run.vendor);
  if (emulator && !run.emulator.empty()) facts.push_back(run.emulator);
  return run.machine + (facts.empty() ? "" : " (" + Joined(facts, ", ") + ")");
}

// What a run doesn't say of itself, as others say it that ran on the same.
void FillIn(std::vector<SuiteRun>& runs) {
  for (SuiteRun& run : runs) {
    for (const SuiteRun& other : runs) {
      if (other.kernel != run.kernel) continue;
      if (run.release.empty()) run.release = other.release;
      if (other.machine != run.machine) continue;
      if (run.vendor.empty()) run.vendor = other.vendor;
      if (run.emulator.empty()) run.emulator = other.emulator;
    }
  }
}

// Each line but the first, by as much as lists are.
std::string Indented(const std::string& text) {
  std::string indented;
  for (const char c : text) {
    indented += c;
    if (c == '\n') indented += "    ";
  }
  return indented;
}

constexpr char kLegend[] =
    "N passed, NF failed, Ni imprecise on a kernel that does not promise precision, Ns skipped";

}  // namespace

SuiteRun SuiteRun::Load(const std::string& path) {
  SuiteRun run;
  const std::string stem = std::filesystem::path(path).stem();
  const size_t mode_at = stem.rfind('-');
  const size_t machine_at = mode_at == std::string::npos || mode_at == 0
                                ? std::string::npos
                                : stem.rfind('-', mode_at - 1);
  if (machine_at == std::string::npos)
    throw std::runtime_error(path + ": its name isn't KERNEL-MACHINE-MODE.json");
  run.kernel = stem.substr(0, machine_at);
  run.machine = stem.substr(machine_at + 1, mode_at - machine_at - 1);
  run.mode = stem.substr(mode_at + 1);
  try {
    const auto json = nlohmann::json::parse(ReadFile(path));
    json.at("kernel").get_to(run.release);
    json.at("vendor").get_to(run.vendor);
    json.at("emulator").get_to(run.emulator);
    for (const auto& test : json.at("tests"))
      run.tests.push_back(
          {test.at("name"), test.at("theme"), test.at("outcome"), test.at("message")});
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(path + ": not results of the suite: " + error.what());
  }
  return run;
}

std::string MatrixCell::Text() const {
  std::vector<std::string> parts;
  if (failed > 0) parts.push_back(std::to_string(failed) + "F");
  if (imprecise > 0) parts.push_back(std::to_string(imprecise) + "i");
  if (passed > 0) parts.push_back(std::to_string(passed));
  if (skipped > 0) parts.push_back(std::to_string(skipped) + "s");
  return parts.empty() ? "-" : Joined(parts, " ");
}

MatrixCell& MatrixCell::operator+=(const MatrixCell& other) {
  passed += other.passed;
  failed += other.failed;
  imprecise += other.imprecise;
  skipped += other.skipped;
  return *this;
}

Matrix::Matrix(std::vector<SuiteRun> runs) {
  FillIn(runs);
  std::stable_sort(runs.begin(), runs.end(),
                   [](const SuiteRun& a, const SuiteRun& b) { return Rank(a) < Rank(b); });
  for (SuiteRun& run : runs) {
    if (!runs_.empty() && Rank(runs_.back()) == Rank(run))
      runs_.back().tests.insert(runs_.back().tests.end(), run.tests.begin(), run.tests.end());
    else
      runs_.push_back(std::move(run));
  }
  for (size_t i = 0; i < runs_.size(); i++) Count(runs_[i], i);
}

void Matrix::Count(const SuiteRun& run, size_t column) {
  for (const SuiteRun::Test& test : run.tests) {
    std::vector<MatrixCell>& row = cells_[test.theme];
    row.resize(runs_.size());
    MatrixCell& cell = row[column];
    if (test.outcome == "passed") {
      cell.passed++;
    } else if (test.outcome == "skipped") {
      cell.skipped++;
      AddNote(skips_[test.theme], test.message, Where(run));
    } else if (test.outcome == "imprecise") {
      cell.imprecise++;
      AddNote(imprecise_, test.name, Where(run));
    } else {
      cell.failed++;
      AddNote(
          failures_,
          test.name + ": " + (test.message.empty() ? test.outcome : FirstLines(test.message, 8)),
          Where(run));
    }
  }
}

void Matrix::AddNote(std::vector<Note>& notes, const std::string& text, const std::string& where) {
  auto note = std::find_if(notes.begin(), notes.end(),
                           [&](const Note& candidate) { return candidate.text == text; });
  if (note == notes.end()) note = notes.insert(notes.end(), {text, {}, 0});
  note->tests++;
  if (note->where.empty() || note->where.back() != where) note->where.push_back(where);
}

std::vector<std::string> Matrix::Kernels() const {
  std::vector<std::string> kernels;
  for (const SuiteRun& run : runs_)
    if (std::find(kernels.begin(), kernels.end(), run.kernel) == kernels.end())
      kernels.push_back(run.kernel);
  return kernels;
}

std::vector<size_t> Matrix::ColumnsOf(const std::string& kernel) const {
  std::vector<size_t> columns;
  for (size_t i = 0; i < runs_.size(); i++)
    if (runs_[i].kernel == kernel) columns.push_back(i);
  return columns;
}

std::vector<std::pair<std::string, std::vector<MatrixCell>>> Matrix::RowsOf(
    const std::vector<size_t>& columns) const {
  std::vector<std::pair<std::string, std::vector<MatrixCell>>> rows;
  std::vector<MatrixCell> sum(columns.size());
  for (const auto& [theme, cells] : cells_) {
    std::vector<MatrixCell> row;
    for (const size_t i : columns) {
      sum[row.size()] += cells[i];
      row.push_back(cells[i]);
    }
    if (std::any_of(row.begin(), row.end(), [](const MatrixCell& cell) { return !cell.empty(); }))
      rows.emplace_back(theme, std::move(row));
  }
  rows.emplace_back("all", std::move(sum));
  return rows;
}

std::string Matrix::Text() const {
  std::ostringstream os;
  for (const std::string& kernel : Kernels()) {
    const std::vector<size_t> columns = ColumnsOf(kernel);
    std::vector<Row> rows = {{kernel}, {"theme"}};
    std::string machine;
    for (const size_t i : columns) {
      // A machine's name stands above its first mode only.
      rows[0].push_back(runs_[i].machine == machine ? "" : MachineText(runs_[i], false));
      machine = runs_[i].machine;
      rows[1].push_back(runs_[i].mode);
    }
    for (const auto& [theme, cells] : RowsOf(columns)) {
      Row row = {theme};
      for (const MatrixCell& cell : cells) row.push_back(cell.Text());
      rows.push_back(std::move(row));
    }
    os << Align(rows, 1) << "\n";
  }
  os << kLegend << "\n";
  const auto list = [&](const char* title, const std::vector<Note>& notes) {
    if (notes.empty()) return;
    os << "\n" << title << ":\n";
    for (const Note& note : notes)
      os << "  " << Indented(note.text) << "\n      " << Joined(note.where, ", ") << "\n";
  };
  list("Failed", failures_);
  list("Imprecise", imprecise_);
  if (!skips_.empty()) os << "\nSkipped:\n";
  for (const auto& [theme, notes] : skips_)
    for (const Note& note : notes)
      os << "  " << theme << ", " << note.tests << ": " << note.text << "\n      "
         << Joined(note.where, ", ") << "\n";
  return os.str();
}

std::string Matrix::Html() const {
  std::ostringstream os;
  os << "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<title>What KVM zaps with a memslot: test results</title>\n<style>\n"
        "body { font-family: sans-serif; margin: 2em; }\n"
        "table { border-collapse: collapse; margin-bottom: 2em; }\n"
        "th, td { border: 1px solid #bbb; padding: .25em .7em; }\n"
        "td { text-align: right; font-variant-numeric: tabular-nums; }\n"
        "th.theme { text-align: left; font-weight: normal; }\n"
        ".passed { background: #cfeccf; } .partly { background: #e6f4d7; }\n"
        ".failed { background: #f4b6b0; font-weight: bold; } .imprecise { background: #fbe3b0; }\n"
        ".skipped { background: #eee; color: #666; }\n"
        "pre { white-space: pre-wrap; margin: .2em 0; } .where { color: #555; font-size: 85%; }\n"
        "</style>\n</head>\n<body>\n<h1>What KVM zaps with a memslot: test results</h1>\n<p>"
     << Escaped(kLegend) << ".</p>\n";
  for (const std::string& kernel : Kernels()) {
    const std::vector<size_t> columns = ColumnsOf(kernel);
    const SuiteRun& first = runs_[columns.front()];
    os << "<h2>" << Escaped(kernel) << "</h2>\n<p class=\"where\">Linux " << Escaped(first.release)
       << "</p>\n<table>\n<tr><th rowspan=\"2\">theme</th>";
    for (size_t i = 0; i < columns.size();) {
      size_t end = i;
      while (end < columns.size() && runs_[columns[end]].machine == runs_[columns[i]].machine)
        end++;
      os << "<th colspan=\"" << end - i << "\">" << Escaped(MachineText(runs_[columns[i]], true))
         << "</th>";
      i = end;
    }
    os << "</tr>\n<tr>";
    for (const size_t i : columns) os << "<th>" << Escaped(runs_[i].mode) << "</th>";
    os << "</tr>\n";
    for (const auto& [theme, cells] : RowsOf(columns)) {
      os << "<tr><th class=\"theme\">" << Escaped(theme) << "</th>";
      for (const MatrixCell& cell : cells)
        os << "<td class=\"" << CssClass(cell) << "\" title=\"" << Tooltip(cell) << "\">"
           << cell.Text() << "</td>";
      os << "</tr>\n";
    }
    os << "</table>\n";
  }
  const auto list = [&](const std::string& title, const std::vector<Note>& notes) {
    if (notes.empty()) return;
    os << "<h3>" << Escaped(title) << "</h3>\n<ul>\n";
    for (const Note& note : notes)
      os << "<li><pre>" << Escaped(note.text) << "</pre><span class=\"where\">" << note.tests
         << " in " << Escaped(Joined(note.where, ", ")) << "</span></li>\n";
    os << "</ul>\n";
  };
  list("Failed", failures_);
  list("Imprecise", imprecise_);
  for (const auto& [theme, notes] : skips_) list("Skipped: " + theme, notes);
  os << "</body>\n</html>\n";
  return os.str();
}

}  // namespace slotzap
