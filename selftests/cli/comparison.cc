// SPDX-License-Identifier: GPL-2.0-only
#include "cli/comparison.h"

#include <algorithm>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "cli/text_table.h"

namespace slotzap {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(UpdateCost, present_sptes, victim_sptes, zapped_sptes,
                                   zapped_pages, pages_counted, refaults, host_ns, rounds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Comparison, update, on, off)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModeReport, mode, vendor, kernel, host, skipped, comparisons)

nlohmann::json ToJson(const ModeReport& report) { return report; }

ModeReport FromJson(const nlohmann::json& json) {
  try {
    return json.get<ModeReport>();
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(std::string("not a report of slotzap compare: ") + e.what());
  }
}

std::string Duration(uint64_t ns) {
  std::ostringstream os;
  const auto value = static_cast<double>(ns);
  os << std::fixed << std::setprecision(1);
  if (ns < 10'000)
    os << ns << " ns";
  else if (ns < 10'000'000)
    os << value / 1e3 << " us";
  else
    os << value / 1e6 << " ms";
  return os.str();
}

namespace {

void AddCost(Row& row, const UpdateCost& cost) {
  row.push_back("|");
  row.push_back(std::to_string(cost.zapped_sptes) + " of " + std::to_string(cost.present_sptes));
  row.push_back(cost.pages_counted ? std::to_string(cost.zapped_pages) : "?");
  row.push_back(std::to_string(cost.refaults));
  row.push_back(Duration(cost.host_ns));
}

std::string Problem(const ModeReport& report, const Comparison& c) {
  const std::string where = report.mode + " mode, " + c.update + ": ";
  if (c.off.zapped_sptes != c.off.victim_sptes)
    return where + "with the quirk off, " + std::to_string(c.off.zapped_sptes) +
           " SPTEs were zapped, the slot had " + std::to_string(c.off.victim_sptes);
  if (c.off.refaults != 0)
    return where + "with the quirk off, other slots cost " + std::to_string(c.off.refaults) +
           " page faults";
  if (c.on.zapped_sptes != c.on.present_sptes)
    return where + "with the quirk on, only " + std::to_string(c.on.zapped_sptes) + " of " +
           std::to_string(c.on.present_sptes) + " SPTEs were zapped";
  if (c.on.refaults == 0) return where + "with the quirk on, nothing had to be faulted in again";
  return "";
}

std::string Join(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); i++)
    text += (i == 0 ? "" : i + 1 == words.size() ? " and " : ", ") + words[i];
  return text;
}

}  // namespace

std::string Table(const std::vector<ModeReport>& reports) {
  std::vector<Row> rows = {
      {"", "", "|", "quirk on", "", "", "", "|", "quirk off", "", "", ""},
      {"mode", "update", "|", "SPTEs zapped", "shadow pages", "refaults", "host time", "|",
       "SPTEs zapped", "shadow pages", "refaults", "host time"},
  };
  std::string skipped;
  for (const ModeReport& report : reports) {
    if (!report.skipped.empty()) skipped += report.mode + ": skipped, " + report.skipped + "\n";
    for (const Comparison& c : report.comparisons) {
      Row row = {report.mode, c.update};
      AddCost(row, c.on);
      AddCost(row, c.off);
      rows.push_back(std::move(row));
    }
  }
  std::string heading;
  if (!reports.empty())
    heading = "Linux " + reports.front().kernel + ", " + reports.front().vendor + ", " +
              reports.front().host + "\n\n";
  return heading + Align(rows, 2) + skipped;
}

Verdict Judge(const std::vector<ModeReport>& reports) {
  std::vector<std::string> modes;
  uint64_t least_refaults = UINT64_MAX;
  uint64_t most_refaults = 0;
  for (const ModeReport& report : reports) {
    if (!report.skipped.empty()) continue;
    for (const Comparison& c : report.comparisons) {
      if (const std::string problem = Problem(report, c); !problem.empty())
        return {Verdict::kFail, "FAIL: " + problem + "."};
      least_refaults = std::min(least_refaults, c.on.refaults);
      most_refaults = std::max(most_refaults, c.on.refaults);
    }
    if (!report.comparisons.empty()) modes.push_back(report.mode);
  }
  if (modes.empty()) return {Verdict::kSkip, "SKIP: nothing was measured."};
  return {Verdict::kPass,
          "PASS: in " + Join(modes) +
              " mode, deleting or moving a slot with the quirk off zapped that slot's SPTEs and "
              "cost other slots no page fault; with the quirk on it zapped every SPTE of the VM "
              "and cost " +
              std::to_string(least_refaults) + " to " + std::to_string(most_refaults) +
              " page faults."};
}

}  // namespace slotzap
