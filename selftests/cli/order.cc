// SPDX-License-Identifier: GPL-2.0-only
#include "cli/order.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "base/file_descriptor.h"

namespace slotzap {
namespace {

constexpr char kExited0[] = "exited with status 0";

// Bytes: "4096", "0x1000", "4K".
std::optional<uint64_t> ParseBytes(std::string_view text) {
  constexpr std::string_view kUnits = "KMGT";
  unsigned shift = 0;
  if (!text.empty())
    if (const size_t unit = kUnits.find(text.back()); unit != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(unit) + 1);
      text.remove_suffix(1);
    }
  const bool hex = text.starts_with("0x");
  if (hex) text.remove_prefix(2);
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value, hex ? 16 : 10);
  if (parsed.ec != std::errc() || parsed.ptr != end || value > UINT64_MAX >> shift)
    return std::nullopt;
  return value << shift;
}

// What makes the trace incomplete, or an empty string.
std::string Losses(std::string_view text) {
  constexpr std::string_view kEntries = "entries-in-buffer/entries-written:";
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.starts_with("CPU:") && line.find("[LOST ") != std::string_view::npos)
      return "'" + std::string(line) + "'";
    const size_t at = line.find(kEntries);
    if (!line.starts_with('#') || at == std::string_view::npos) continue;
    line.remove_prefix(at + kEntries.size());
    const size_t first = line.find_first_not_of(' ');
    const size_t slash = line.find('/');
    if (first == std::string_view::npos || slash == std::string_view::npos) continue;
    const std::string_view in_buffer = line.substr(first, slash - first);
    std::string_view written = line.substr(slash + 1);
    written = written.substr(0, written.find(' '));
    if (in_buffer != written) return "'" + std::string(kEntries) + std::string(line) + "'";
  }
  return "";
}

void CheckChanged(const SptOrderReport& report) {
  if (report.changes == 0)
    throw std::runtime_error(
        "no SPTE changed: nothing was removed whose order could be checked (is a VM active, with "
        "the TDP MMU?)");
}

nlohmann::json Json(const Leaves& leaves) {
  return {{"4k", leaves.k4K}, {"2m", leaves.k2M}, {"1g", leaves.k1G}};
}

nlohmann::json Json(const RemovedTable& table) {
  nlohmann::json json = {{"sentence", table.ToString()},
                         {"as_id", table.change.as_id},
                         {"level", table.change.level},
                         {"gfn", Hex(table.change.gfn)},
                         {"old_spte", Hex(table.change.old_spte)},
                         {"new_spte", Hex(table.change.new_spte)}};
  if (table.child)
    json["child"] = {{"level", table.child->level},
                     {"gfn", Hex(table.child->gfn)},
                     {"spte", Hex(table.child->spte)}};
  return json;
}

nlohmann::json Json(const std::vector<RemovedTable>& tables) {
  nlohmann::json json = nlohmann::json::array();
  for (const RemovedTable& table : tables) json.push_back(Json(table));
  return json;
}

}  // namespace

GpaRange ParseGpaRange(std::string_view text) {
  const auto refuse = [text](const std::string& why) {
    throw std::invalid_argument("range '" + std::string(text) + "': " + why +
                                "; right would be START+SIZE, e.g. 0x40000000+0x200000 or 1G+2M");
  };
  const size_t plus = text.find('+');
  if (plus == std::string_view::npos) refuse("there is no '+'");
  const auto start = ParseBytes(text.substr(0, plus));
  const auto size = ParseBytes(text.substr(plus + 1));
  if (!start) refuse("its start is no number");
  if (!size) refuse("its size is no number");
  if (*start % kPageSize != 0 || *size % kPageSize != 0)
    refuse("start and size have to be multiples of " + std::to_string(kPageSize));
  if (*size == 0) refuse("it is empty");
  if (*size > UINT64_MAX - *start) refuse("it ends beyond the last address");
  return {*start, *size};
}

std::vector<TraceEvent> ReadOrderTrace(std::string_view text) {
  if (const std::string losses = Losses(text); !losses.empty())
    throw std::runtime_error("events are missing, which proves nothing: " + losses +
                             "; record with a larger buffer_size_kb");
  std::vector<TraceEvent> events = ParseTrace(text);
  if (std::none_of(events.begin(), events.end(), [](const TraceEvent& event) {
        return event.name == "kvm_tdp_mmu_spte_changed";
      }))
    throw std::runtime_error(
        "there is no event kvm_tdp_mmu_spte_changed in it; right would be the text of "
        "/sys/kernel/tracing/trace, with the events kvmmmu:kvm_tdp_mmu_spte_changed, "
        "kvmmmu:kvm_mmu_zap_all_fast and kvmmmu:kvm_mmu_get_page enabled");
  return events;
}

Verdict JudgeOrder(const SptOrderReport& report, const SptScope& scope) {
  std::string problem = OrderProblem(report);
  if (problem.empty() && !scope.ranges.empty())
    problem = RemovalProblem(report, scope.ranges, scope.address_space);
  if (!problem.empty()) return {Verdict::kFail, "FAIL: " + problem + "."};
  std::ostringstream os;
  os << "PASS: the root was kept and no table was removed before what is below it; leaves removed: "
     << report.removed();
  if (!scope.ranges.empty()) os << ", all of them in the ranges, where none is left";
  os << ".";
  return {Verdict::kPass, os.str()};
}

std::string RunCommand(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t pid = 0;
  errno = posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ);
  if (errno != 0) ThrowErrno("can't run " + command.front());
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) ThrowErrno("wait for " + command.front());
  if (WIFSIGNALED(status)) return "was ended by signal " + std::to_string(WTERMSIG(status));
  return "exited with status " + std::to_string(WEXITSTATUS(status));
}

OrderResult CheckOrder(const OrderOptions& options) {
  SptScope scope = {.ranges = {}, .address_space = options.address_space};
  for (const std::string& range : options.ranges) scope.ranges.push_back(ParseGpaRange(range));
  if (options.trace_path.empty() == options.command.empty())
    throw std::invalid_argument(
        std::string(options.command.empty() ? "nothing to check" : "both a trace and a command") +
        "; give either a trace, slotzap order --trace FILE, or a command that makes KVM remove "
        "something, slotzap order -- COMMAND ARGS");

  OrderResult result;
  if (!options.trace_path.empty()) {
    try {
      result.report = CheckTrace(ReadOrderTrace(ReadFile(options.trace_path)), scope);
    } catch (const std::runtime_error& e) {
      throw std::runtime_error(options.trace_path + ": " + e.what());
    }
    result.verdict = JudgeOrder(result.report, scope);
    return result;
  }

  if (const std::string reason = SptOrderWatch::Unavailable(); !reason.empty()) {
    result.verdict = {Verdict::kSkip, "SKIP: " + reason + "."};
    return result;
  }
  SptOrderWatch watch;
  watch.Begin(scope.ranges, scope.address_space);
  result.command_status = RunCommand(options.command);
  result.report = watch.End();
  CheckChanged(result.report);
  result.verdict = JudgeOrder(result.report, scope);
  if (result.verdict.result == Verdict::kPass && result.command_status != kExited0)
    result.verdict = {Verdict::kFail,
                      "FAIL: the order was kept, but the command " + result.command_status + "."};
  return result;
}

std::string Summary(const OrderResult& result) {
  if (result.verdict.result == Verdict::kSkip) return "";
  const SptOrderReport& report = result.report;
  std::ostringstream os;
  if (!result.command_status.empty()) os << "command         " << result.command_status << "\n";
  os << "root            " << (report.root_replaced.empty() ? "kept" : "replaced") << "\n"
     << "leaves removed  " << report.removed() << "\n";
  for (const SptOrderReport::InRange& in : report.ranges)
    os << "  in " << in.range << ": " << in.removed << "; left: " << in.left << "\n";
  os << "tables removed  " << report.tables.size() << " in order, " << report.violations.size()
     << " out of order\n"
     << "installed       " << report.installs << " entries; split: " << report.splits << "\n";
  constexpr size_t kShown = 10;
  for (size_t i = 0; i < report.violations.size() && i < kShown; i++)
    os << "  " << report.violations[i].ToString() << "\n";
  if (report.violations.size() > kShown)
    os << "  and " << report.violations.size() - kShown << " more\n";
  if (report.unknown_before != 0)
    os << "Note: " << report.unknown_before << " of the entries that changed were mapped before "
       << "recording began.  Others may have been, too: what is left is known of none of them.\n";
  if (report.host_unmaps != 0)
    os << "Note: the host unmapped memory " << report.host_unmaps
       << " times meanwhile; leaves may have gone for that.\n";
  os << "\n";
  return os.str();
}

nlohmann::json ToJson(const OrderResult& result) {
  constexpr auto kWord = [](Verdict::Result r) {
    return r == Verdict::kPass ? "pass" : r == Verdict::kFail ? "fail" : "skip";
  };
  const SptOrderReport& report = result.report;
  nlohmann::json ranges = nlohmann::json::array();
  for (const SptOrderReport::InRange& in : report.ranges)
    ranges.push_back({{"start", Hex(in.range.start)},
                      {"size", Hex(in.range.size)},
                      {"removed", Json(in.removed)},
                      {"left", Json(in.left)}});
  return {{"verdict", kWord(result.verdict.result)},
          {"sentence", result.verdict.sentence},
          {"command_status", result.command_status},
          {"root_replaced", report.root_replaced},
          {"leaves_removed", Json(report.removed())},
          {"tables_removed_in_order", Json(report.tables)},
          {"violations", Json(report.violations)},
          {"ranges", ranges},
          {"changes", report.changes},
          {"installs", report.installs},
          {"splits", report.splits},
          {"leaves_left", report.present.size()},
          {"unknown_before", report.unknown_before},
          {"host_unmaps", report.host_unmaps}};
}

}  // namespace slotzap
