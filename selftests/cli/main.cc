// SPDX-License-Identifier: GPL-2.0-only
// slotzap: what this machine's KVM does when a memslot goes away.
#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "base/file_descriptor.h"
#include "cli/bench_table.h"
#include "cli/comparison.h"
#include "cli/matrix.h"
#include "cli/measure.h"
#include "cli/order.h"
#include "cli/probe.h"
#include "cli/run_probe.h"
#include "kvm/kvm.h"

namespace {

void WriteJson(const std::string& path, const nlohmann::json& json) {
  std::ofstream file(path);
  file << json.dump(2) << "\n";
  if (!file.flush()) throw std::runtime_error("can't write " + path);
}

int Compare(const slotzap::MeasureConfig& config, const std::string& mode,
            const std::string& json_path) {
  const slotzap::ModeReport report = slotzap::Measure(config);
  if (!mode.empty() && mode != report.mode)
    throw std::runtime_error("KVM is in " + report.mode + " mode, not in " + mode +
                             " mode: load it with other parameters");
  if (!json_path.empty()) WriteJson(json_path, slotzap::ToJson(report));
  std::cout << slotzap::Table(std::vector{report});
  const slotzap::Verdict verdict = slotzap::Judge(std::vector{report});
  std::cout << "\n" << verdict.sentence << "\n";
  return verdict.result;
}

// `json_path` "-": JSON on standard output, and nothing else.
int Probe(const std::string& json_path) {
  if (const std::string reason = slotzap::Kvm::Unavailable(); !reason.empty()) {
    std::cerr << "slotzap: no KVM: " << reason << "\n";
    return slotzap::Verdict::kSkip;
  }
  const slotzap::ProbeReport report = slotzap::RunProbe();
  const slotzap::Verdict verdict = slotzap::Judge(report);
  if (json_path == "-") {
    std::cout << slotzap::ToJson(report).dump(2) << "\n";
    return verdict.result;
  }
  if (!json_path.empty()) WriteJson(json_path, slotzap::ToJson(report));
  std::cout << slotzap::Table(report) << "\n" << verdict.sentence << "\n";
  return verdict.result;
}

int ShowTable(const std::vector<std::string>& paths) {
  std::vector<slotzap::ModeReport> reports;
  for (const std::string& path : paths) {
    try {
      reports.push_back(slotzap::FromJson(nlohmann::json::parse(slotzap::ReadFile(path))));
    } catch (const nlohmann::json::exception& e) {
      throw std::runtime_error(path + ": " + e.what());
    }
  }
  const slotzap::Verdict verdict = slotzap::Judge(reports);
  std::cout << slotzap::Table(reports) << "\n" << verdict.sentence << "\n";
  return verdict.result;
}

nlohmann::json ReadJson(const std::string& path) {
  try {
    return nlohmann::json::parse(slotzap::ReadFile(path));
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(path + ": " + e.what());
  }
}

int ShowBench(const slotzap::BenchQuestion& question, const std::vector<std::string>& paths,
              const std::string& json_path) {
  std::vector<slotzap::BenchRun> runs;
  runs.reserve(paths.size());
  for (const std::string& path : paths) runs.push_back(slotzap::BenchRun::FromJson(ReadJson(path)));
  const std::vector<slotzap::BenchRow> rows = slotzap::JudgeBench(question, runs);
  if (!json_path.empty()) WriteJson(json_path, slotzap::ToJson(rows));
  const slotzap::Verdict verdict = slotzap::Summarize(rows);
  std::cout << slotzap::BenchTable(rows, runs) << "\n" << verdict.sentence << "\n";
  return verdict.result;
}

// As text on standard output, and as a page.
int ShowMatrix(const std::vector<std::string>& paths, const std::string& html_path) {
  std::vector<slotzap::SuiteRun> runs;
  runs.reserve(paths.size());
  for (const std::string& path : paths) runs.push_back(slotzap::SuiteRun::Load(path));
  const slotzap::Matrix matrix(std::move(runs));
  if (!html_path.empty()) {
    std::ofstream file(html_path);
    file << matrix.Html();
    if (!file.flush()) throw std::runtime_error("can't write " + html_path);
  }
  std::cout << matrix.Text();
  return 0;
}

int CheckOrder(const slotzap::OrderOptions& options, const std::string& json_path) {
  const slotzap::OrderResult result = slotzap::CheckOrder(options);
  if (!json_path.empty()) WriteJson(json_path, slotzap::ToJson(result));
  std::cout << slotzap::Summary(result) << result.verdict.sentence << "\n";
  return result.verdict.result;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What KVM throws away when a memslot is deleted or moved");
  app.require_subcommand(1);

  slotzap::MeasureConfig config;
  std::string mode;
  std::string json_path;
  CLI::App* compare = app.add_subcommand(
      "compare", "delete and move a slot with the quirk on and off, on this machine's KVM");
  compare->add_option("--mode", mode, "fail unless KVM is in this MMU mode")
      ->check(CLI::IsMember({"tdp", "legacy", "shadow"}));
  compare->add_option("--json", json_path, "write the figures to this file");
  compare->add_option("--rounds", config.rounds, "how often each update is measured")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();

  std::vector<std::string> paths;
  CLI::App* table = app.add_subcommand("table", "show figures that compare wrote");
  table->add_option("file", paths, "JSON files of slotzap compare")
      ->required()
      ->check(CLI::ExistingFile);

  std::string html_path;
  CLI::App* matrix = app.add_subcommand(
      "matrix", "show what the suite found, by kernel, machine, MMU mode and theme");
  matrix->add_option("file", paths, "results of the suite, named KERNEL-MACHINE-MODE.json")
      ->required()
      ->check(CLI::ExistingFile);
  matrix->add_option("--html", html_path, "also write it as a page to this file");

  slotzap::BenchQuestion question;
  CLI::App* bench_table =
      app.add_subcommand("bench-table", "show what slotzap-bench measured, against what it may be");
  bench_table->add_option("file", paths, "JSON files of slotzap-bench")->check(CLI::ExistingFile);
  bench_table->add_option("--mode", question.modes, "an MMU mode that was measured; repeated")
      ->required()
      ->take_all()
      ->expected(1)
      ->check(CLI::IsMember({"tdp", "legacy", "shadow"}));
  bench_table->add_option("--row", question.rows, "judge this row only; may be repeated")
      ->take_all()
      ->expected(1)
      ->check(CLI::IsMember(slotzap::BenchRowNames()));
  bench_table->add_flag("--unpatched", question.unpatched,
                        "compare with the kernel without the series, which has the quirk, too");
  bench_table->add_option("--json", json_path, "write the lines to this file");

  std::string probe_json;
  CLI::App* probe = app.add_subcommand(
      "probe", "say what deleting a slot zaps on this machine's KVM, patched or not");
  probe->add_option("--json", probe_json,
                    "write the facts to this file, or to standard output (-)");

  slotzap::OrderOptions order_options;
  CLI::App* order = app.add_subcommand(
      "order",
      "check that the TDP MMU took mappings down in the order that TDX's Secure-EPT imposes:\n"
      "the root is kept, leaves go before the tables above them.  Either of a trace\n"
      "(--trace FILE), or of what KVM does while COMMAND runs.  KVM's trace events don't name\n"
      "the VM: only one may be active, and COMMAND must not end it.\n"
      "Exit status: 0 the order was kept, 1 it was not, or an error, 4 not possible here");
  // As text, so that a wrong one is explained by ParseGpaRange().
  order
      ->add_option("--gpa", order_options.ranges,
                   "also check that the leaves of this range went, and no others; may be repeated")
      ->type_name("START+SIZE")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  order->add_option("--as-id", order_options.address_space, "address space of --gpa; 1 is SMM's")
      ->check(CLI::Range(0, 255))
      ->capture_default_str();
  order
      ->add_option(
          "--trace", order_options.trace_path,
          "text of /sys/kernel/tracing/trace, with the events of kvmmmu in it, and mono as "
          "trace_clock")
      ->type_name("FILE");
  order->add_option("--json", json_path, "write the result to this file");
  order->add_option("command", order_options.command, "what to run, after --")
      ->type_name("COMMAND ARGS");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 1;  // 0: help was asked for
  }
  try {
    if (compare->parsed()) return Compare(config, mode, json_path);
    if (probe->parsed()) return Probe(probe_json);
    if (order->parsed()) return CheckOrder(order_options, json_path);
    if (bench_table->parsed()) return ShowBench(question, paths, json_path);
    if (matrix->parsed()) return ShowMatrix(paths, html_path);
    return ShowTable(paths);
  } catch (const std::exception& e) {
    std::cerr << "slotzap: " << e.what() << "\n";
    return 1;
  }
}
