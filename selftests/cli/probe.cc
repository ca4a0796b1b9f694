// SPDX-License-Identifier: GPL-2.0-only
#include "cli/probe.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/range.h"
#include "cli/text_table.h"
#include "kvm/kvm.h"
#include "kvm/quirks.h"

namespace slotzap {
namespace {

nlohmann::json ToJson(const ProbeRow& row) {
  nlohmann::json json = {
      {"type", row.type},
      {"memory", row.memory},
      {"setting", row.setting},
      {"says", nullptr},
      {"does", nullptr},
      {"agrees", row.agrees()},
      {"pages", row.pages},
      {"refaults", row.refaults},
      {"leaves",
       {{"before", row.leaves_before}, {"victim", row.leaves_victim}, {"after", row.leaves_after}}},
      {"leaves_agree", row.leaves_agree()},
      {"error", nullptr}};
  if (row.says) json["says"] = ToString(*row.says);
  if (row.error.empty())
    json["does"] = ToString(row.does());
  else
    json["error"] = row.error;
  return json;
}

std::string Where(const ProbeRow& row) {
  return row.type + " VM, " + row.memory + " memory, " + row.setting + ": ";
}

// What is wrong with a row, or nothing.
std::string Problem(const ProbeRow& row) {
  if (!row.error.empty()) return Where(row) + row.error;
  if (row.agrees() == "no")
    return Where(row) + "the kernel says " + ToString(*row.says) + " and does " +
           ToString(row.does());
  if (!row.leaves_agree())
    return Where(row) + "page faults say " + ToString(row.does()) + ", but of " +
           std::to_string(row.leaves_before) + " leaf SPTEs (" + std::to_string(row.leaves_victim) +
           " of the deleted slot) " + std::to_string(row.leaves_after) + " are left";
  return "";
}

std::string TypeName(unsigned type) {
  for (const VmType known : {VmType::kDefault, VmType::kSwProtected})
    if (type == static_cast<unsigned>(known)) return ToString(known);
  return "type " + std::to_string(type);
}

std::string TypeNames(const std::vector<unsigned>& types) {
  std::string text;
  for (const unsigned type : types) text += (text.empty() ? "" : ", ") + TypeName(type);
  return text;
}

Row Line(const ProbeRow& row) {
  if (!row.error.empty()) return {row.type, row.memory, row.setting, "", "error", "", row.agrees()};
  return {row.type,
          row.memory,
          row.setting,
          row.says ? ToString(*row.says) : "-",
          ToString(row.does()),
          std::to_string(row.refaults) + "/" + std::to_string(row.pages),
          row.agrees()};
}

}  // namespace

std::string ToString(Zapping zapping) {
  switch (zapping) {
    case Zapping::kZapAll:
      return "zap-all";
    case Zapping::kLeafOnly:
      return "leaf-only";
    case Zapping::kMixed:
      break;
  }
  return "mixed";
}

Zapping Classify(uint64_t refaults, uint64_t pages) {
  if (refaults == 0) return Zapping::kLeafOnly;
  return refaults >= pages ? Zapping::kZapAll : Zapping::kMixed;
}

std::string ProbeRow::agrees() const {
  if (!says || !error.empty()) return "not asked";
  return *says == does() ? "yes" : "no";
}

bool ProbeRow::leaves_agree() const {
  const bool only_victims = leaves_before - leaves_after == leaves_victim;
  switch (does()) {
    case Zapping::kZapAll:
      return leaves_after == 0;
    case Zapping::kLeafOnly:
      return only_victims;
    case Zapping::kMixed:
      break;
  }
  return leaves_after != 0 && !only_victims;
}

bool ProbeReport::slot_zap_all() const { return (quirks & kQuirkSlotZapAll) != 0; }

nlohmann::json ToJson(const ProbeReport& report) {
  nlohmann::json json = {{"kernel", report.machine.kernel},
                         {"vendor", report.machine.vendor},
                         {"mode", report.machine.mode},
                         {"host", report.machine.host},
                         {"quirks", report.quirks},
                         {"slot_zap_all", report.slot_zap_all()},
                         {"quirks_in_effect", nullptr},
                         {"memslot_flag", report.memslot_flag},
                         {"vm_types", report.vm_types},
                         {"rows", nlohmann::json::array()},
                         {"result", Judge(report).result == Verdict::kPass ? "ok" : "fail"}};
  if (report.quirks_in_effect) json["quirks_in_effect"] = *report.quirks_in_effect;
  for (const ProbeRow& row : report.rows) json["rows"].push_back(ToJson(row));
  return json;
}

std::string Table(const ProbeReport& report) {
  const Machine& machine = report.machine;
  std::string heading = "Linux " + machine.kernel + ", " + machine.vendor + ", " + machine.mode +
                        " mode, " + machine.host + "\n";
  heading += "quirks that can be disabled: " + Hex(report.quirks) +
             (report.slot_zap_all() ? ", with" : ", without") + " KVM_X86_QUIRK_SLOT_ZAP_ALL\n";
  heading += "quirks in effect: " +
             (report.quirks_in_effect ? Hex(*report.quirks_in_effect) + " at most"
                                      : std::string("the kernel doesn't say")) +
             "; memslot flag: " + (report.memslot_flag ? "yes" : "no") +
             "; VM types: " + TypeNames(report.vm_types) + "\n\n";
  std::vector<Row> rows = {
      {"type", "memory", "setting", "says", "does", "refaults/pages", "agrees"}};
  std::transform(report.rows.begin(), report.rows.end(), std::back_inserter(rows), Line);
  return heading + Align(rows, rows.front().size());
}

Verdict Judge(const ProbeReport& report) {
  bool asked = false;
  for (const ProbeRow& row : report.rows) {
    if (const std::string problem = Problem(row); !problem.empty())
      return {Verdict::kFail, "FAIL: " + problem + "."};
    asked = asked || row.says.has_value();
  }
  if (report.rows.empty()) return {Verdict::kFail, "FAIL: nothing was probed."};
  return {Verdict::kPass, asked ? "OK: the kernel does what it says."
                                : "OK: this is what the kernel does; it has no way to say it."};
}

}  // namespace slotzap
