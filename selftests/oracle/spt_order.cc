// SPDX-License-Identifier: GPL-2.0-only
#include "oracle/spt_order.h"

#include <algorithm>
#include <memory>
#include <ostream>
#include <sstream>
#include <stdexcept>

#include "base/file_descriptor.h"
#include "host/kvm_module.h"

namespace slotzap {
namespace {

constexpr unsigned kBufferKb = 32768;
constexpr char kBeginMark[] = "slotzap: begin";
constexpr int kMaxLevel = 5;
constexpr unsigned kEntriesPerTable = 512;

constexpr uint64_t kLargePage = 1ull << 7;                 // PT_PAGE_SIZE_MASK
constexpr uint64_t kPfn = ((1ull << 52) - 1) & ~0xfffull;  // SPTE_BASE_ADDR_MASK

constexpr uint64_t PagesOf(int level) { return 1ull << 9 * (level - 1); }

bool SamePfn(uint64_t a, uint64_t b) { return (a & kPfn) == (b & kPfn); }

std::string EntryText(int level, Gfn gfn) {
  return "the level " + std::to_string(level) + " entry of gfn " + Hex(gfn);
}

std::string LeafText(int as_id, int level, Gfn gfn) {
  return "gfn " + Hex(gfn) + " level " + std::to_string(level) + " of address space " +
         std::to_string(as_id);
}

Leaves& Add(Leaves& leaves, int level) {
  (level == 3 ? leaves.k1G : level == 2 ? leaves.k2M : leaves.k4K)++;
  return leaves;
}

// Sorted, with those that touch or overlap made one.
std::vector<GpaRange> Merge(std::vector<GpaRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const GpaRange& a, const GpaRange& b) { return a.start < b.start; });
  std::vector<GpaRange> merged;
  for (const GpaRange& range : ranges) {
    if (merged.empty() || range.start > merged.back().end())
      merged.push_back(range);
    else
      merged.back().size = std::max(merged.back().end(), range.end()) - merged.back().start;
  }
  return merged;
}

bool Overlaps(const std::vector<GpaRange>& ranges, const GpaRange& range) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const GpaRange& r) { return r.overlaps(range); });
}

bool Contains(const std::vector<GpaRange>& merged, const GpaRange& range) {
  return std::any_of(merged.begin(), merged.end(), [&](const GpaRange& r) {
    return r.start <= range.start && range.end() <= r.end();
  });
}

// Made once: making a tracefs instance takes much longer than a test.
TraceInstance& SharedTrace() {
  static const std::unique_ptr<TraceInstance> trace = [] {
    auto instance = std::make_unique<TraceInstance>("slotzap-order");
    instance->SetBufferKb(kBufferKb);
    for (const char* event : {"kvmmmu:kvm_tdp_mmu_spte_changed", "kvmmmu:kvm_mmu_zap_all_fast",
                              "kvmmmu:kvm_mmu_get_page", "kvm:kvm_unmap_hva_range"})
      instance->Enable(event);
    return instance;
  }();
  return *trace;
}

bool IsBegin(const TraceEvent& event) { return IsMark(event, kBeginMark); }

}  // namespace

GpaRange RangeOf(Gfn gfn, int level) { return {gfn << kPageShift, PagesOf(level) << kPageShift}; }

std::string RemovedTable::ToString() const {
  const char* what = !IsPresentSpte(change.new_spte)         ? "was cleared"
                     : IsLeaf(change.new_spte, change.level) ? "was replaced by a large page"
                                                             : "was replaced by another table";
  std::string text = "address space " + std::to_string(change.as_id) + ": " +
                     EntryText(change.level, change.gfn) + " " + what + " (SPTE " +
                     Hex(change.old_spte) + " -> " + Hex(change.new_spte) + ")";
  if (child)
    text += " while " + EntryText(child->level, child->gfn) + " below it was present (SPTE " +
            Hex(child->spte) + ")";
  return text;
}

Leaves SptOrderReport::removed() const {
  Leaves count;
  for (const SpteChanged& change : leaves) Add(count, change.level);
  return count;
}

std::string SptOrderReport::ToString() const {
  std::ostringstream os;
  os << changes << " changes: " << installs << " installs, " << splits << " splits, removed leaves "
     << removed() << ", tables " << tables.size() << " in order, " << violations.size()
     << " out of order; root " << (root_replaced.empty() ? "kept" : "replaced: " + root_replaced)
     << "; leaves left: " << present.size();
  for (const InRange& r : ranges)
    os << "; in " << r.range << " removed " << r.removed << ", left " << r.left;
  if (unknown_before != 0) os << "; mapped before recording began: at least " << unknown_before;
  if (host_unmaps != 0) os << "; host unmaps: " << host_unmaps;
  constexpr size_t kShown = 4;
  for (size_t i = 0; i < violations.size() && i < kShown; i++)
    os << "; " << violations[i].ToString();
  return os.str();
}

std::ostream& operator<<(std::ostream& os, const SptOrderReport& report) {
  return os << report.ToString();
}

std::string OrderProblem(const SptOrderReport& report) {
  if (!report.root_replaced.empty()) return "the root was replaced: " + report.root_replaced;
  if (report.violations.empty()) return "";
  const size_t count = report.violations.size();
  return std::to_string(count) + (count == 1 ? " table was" : " tables were") +
         " removed out of order, first " + report.violations.front().ToString();
}

std::string RemovalProblem(const SptOrderReport& report, const std::vector<GpaRange>& ranges,
                           int address_space) {
  const std::vector<GpaRange> merged = Merge(ranges);
  for (const SpteChanged& leaf : report.leaves) {
    const GpaRange range = RangeOf(leaf.gfn, leaf.level);
    if (leaf.as_id == address_space && Contains(merged, range)) continue;
    const bool reaches_in = leaf.as_id == address_space && Overlaps(merged, range);
    return std::string("a leaf ") + (reaches_in ? "that reaches beyond" : "outside of") +
           " the ranges was removed: " + LeafText(leaf.as_id, leaf.level, leaf.gfn);
  }
  for (const auto* tables : {&report.tables, &report.violations})
    for (const RemovedTable& table : *tables)
      if (table.change.as_id != address_space ||
          !Overlaps(merged, RangeOf(table.change.gfn, table.change.level)))
        return "a table outside of the ranges was removed: " + table.ToString();
  for (const SptEntry& leaf : report.present)
    if (leaf.as_id == address_space && Overlaps(merged, RangeOf(leaf.gfn, leaf.level)))
      return "a leaf is left: " + LeafText(leaf.as_id, leaf.level, leaf.gfn);
  for (const GpaRange& range : ranges)
    if (std::none_of(report.leaves.begin(), report.leaves.end(), [&](const SpteChanged& leaf) {
          return range.overlaps(RangeOf(leaf.gfn, leaf.level));
        }))
      return "no leaf was removed in " + ToString(range) + ": none was known there";
  return "";
}

void SptOrderChecker::Begin() {
  begun_ = true;
  const uint64_t unknown_before = report_.unknown_before;
  report_ = {};
  report_.unknown_before = unknown_before;  // that recording began late stays true
  removed_tables_.clear();
  zap_all_ = 0;
  unclaimed_roots_ = 0;
}

void SptOrderChecker::Add(const TraceEvent& event) {
  if (const auto change = DecodeSpteChanged(event))
    Add(*change);
  else if (const auto page = DecodeCreatedPage(event))
    Add(*page);
  else if (IsZapAllFast(event))
    AddZapAllFast();
  else if (DecodeUnmapHvaRange(event))
    report_.host_unmaps++;
}

void SptOrderChecker::Add(const SpteChanged& change) {
  const bool was = IsPresentSpte(change.old_spte);
  const bool is = IsPresentSpte(change.new_spte);
  report_.changes++;
  if (change.level > root_level_) {
    // What looked like roots of level 4 were tables below one of level 5.
    root_level_ = change.level;
    unclaimed_roots_ = 0;
  }
  if (was && !present_.contains({change.as_id, change.level, change.gfn})) Learn(change);
  if (!was && is) {
    NoteNewRoot(change);
    Install(change);
  } else if (was) {
    const bool was_leaf = IsLeaf(change.old_spte, change.level);
    const bool is_leaf = is && IsLeaf(change.new_spte, change.level);
    if (is && was_leaf == is_leaf && SamePfn(change.old_spte, change.new_spte)) {
      // Permissions, or the accessed or the dirty bit.
      present_.at({change.as_id, change.level, change.gfn}).spte = change.new_spte;
    } else if (is && was_leaf && !is_leaf) {
      Split(change);
    } else {
      Remove(change);
      if (is) Install(change);
    }
  }
  if (is) address_spaces_.insert(change.as_id);
}

void SptOrderChecker::Install(const SpteChanged& change) {
  const Key key = {change.as_id, change.level, change.gfn};
  report_.installs++;
  removed_tables_.erase(key);
  const auto [it, added] = present_.try_emplace(key, State{.spte = change.new_spte});
  if (added) return;
  // The table of a split did not have this one after all, or there are two roots for a while.
  if (!it->second.split) it->second.copies++;
  it->second.spte = change.new_spte;
  it->second.split = false;
}

void SptOrderChecker::Remove(const SpteChanged& change) {
  const Key key = {change.as_id, change.level, change.gfn};
  if (IsLeaf(change.old_spte, change.level)) {
    report_.leaves.push_back(change);
  } else {
    removed_tables_[key] = report_.tables.size();
    report_.tables.push_back({change, PresentBelow(change)});
  }
  State& state = present_.at(key);
  if (--state.copies == 0) present_.erase(key);
}

void SptOrderChecker::Split(const SpteChanged& change) {
  report_.splits++;
  present_.at({change.as_id, change.level, change.gfn}).spte = change.new_spte;
  // As make_huge_page_split_spte() fills the table.
  const int level = change.level - 1;
  for (uint64_t i = 0; i < kEntriesPerTable; i++) {
    const uint64_t pages = i * PagesOf(level);
    const uint64_t spte = change.old_spte + (pages << kPageShift);
    present_.try_emplace({change.as_id, level, change.gfn + pages},
                         State{.spte = level == 1 ? spte & ~kLargePage : spte, .split = true});
  }
}

// An entry that was present all the time, though no event had shown it.
void SptOrderChecker::Learn(const SpteChanged& change) {
  report_.unknown_before++;
  present_[{change.as_id, change.level, change.gfn}] = {.spte = change.old_spte};
  // If the table that it is in was removed before, then too early.
  for (int level = change.level + 1; level <= kMaxLevel; level++) {
    const Gfn gfn = change.gfn & ~(PagesOf(level) - 1);
    const auto removed = removed_tables_.find({change.as_id, level, gfn});
    if (removed == removed_tables_.end()) continue;
    RemovedTable& table = report_.tables.at(removed->second);
    if (!table.child)
      table.child = SptEntry{change.as_id, change.level, change.gfn, change.old_spte};
    return;
  }
}

void SptOrderChecker::Add(const CreatedPage& page) {
  if (!page.direct || page.gfn != 0 || page.level < root_level_) return;
  root_level_ = page.level;
  unclaimed_roots_++;
}

void SptOrderChecker::AddZapAllFast() { zap_all_++; }

// Nothing says for which address space a root was made; its first entry does.
void SptOrderChecker::NoteNewRoot(const SpteChanged& change) {
  if (unclaimed_roots_ == 0 || change.level != root_level_) return;
  const auto known = present_.find({change.as_id, change.level, change.gfn});
  if (known != present_.end()) {
    report_.root_replaced = "address space " + std::to_string(change.as_id) +
                            " got a new one, in which " + EntryText(change.level, change.gfn) +
                            " was installed again (SPTE " + Hex(known->second.spte) + " -> " +
                            Hex(change.new_spte) + ")";
    unclaimed_roots_--;
  } else if (!address_spaces_.contains(change.as_id)) {
    unclaimed_roots_--;
  }
}

std::optional<SptEntry> SptOrderChecker::PresentBelow(const SpteChanged& change) const {
  const Gfn end = change.gfn + PagesOf(change.level);
  for (int level = change.level - 1; level >= 1; level--) {
    const auto it = present_.lower_bound({change.as_id, level, change.gfn});
    if (it == present_.end()) continue;
    const Key& key = it->first;
    if (key.as_id == change.as_id && key.level == level && key.gfn < end)
      return SptEntry{key.as_id, key.level, key.gfn, it->second.spte};
  }
  return std::nullopt;
}

SptOrderReport SptOrderChecker::Report() const {
  if (!begun_) throw std::logic_error("SptOrderChecker: Report() without Begin()");
  SptOrderReport report = report_;
  report.root_level = root_level_;
  report.tables.clear();
  for (const RemovedTable& table : report_.tables)
    (table.child ? report.violations : report.tables).push_back(table);
  if (zap_all_ != 0)
    report.root_replaced = "all roots were made obsolete (kvm_mmu_zap_all_fast)";
  else if (report.root_replaced.empty() && unclaimed_roots_ != 0)
    report.root_replaced = "a root of level " + std::to_string(root_level_) +
                           " was made, and nothing showed that it is an address space's first";
  for (const auto& [key, state] : present_)
    if (IsLeaf(state.spte, key.level))
      report.present.push_back({key.as_id, key.level, key.gfn, state.spte});

  for (const GpaRange& range : scope_.ranges) {
    SptOrderReport::InRange& in = report.ranges.emplace_back();
    in.range = range;
    for (const SpteChanged& leaf : report.leaves)
      if (leaf.as_id == scope_.address_space && range.overlaps(RangeOf(leaf.gfn, leaf.level)))
        slotzap::Add(in.removed, leaf.level);
    for (const SptEntry& leaf : report.present)
      if (leaf.as_id == scope_.address_space && range.overlaps(RangeOf(leaf.gfn, leaf.level)))
        slotzap::Add(in.left, leaf.level);
  }
  return report;
}

SptOrderReport CheckTrace(const std::vector<TraceEvent>& events, const SptScope& scope) {
  SptOrderChecker checker(scope);
  if (std::none_of(events.begin(), events.end(), IsBegin)) checker.Begin();
  for (const TraceEvent& event : events) {
    if (IsBegin(event))
      checker.Begin();
    else
      checker.Add(event);
  }
  return checker.Report();
}

std::string SptOrderWatch::Unavailable() {
  if (std::string reason = TraceInstance::Available(); !reason.empty()) return reason;
  if (!FileExists(std::string(kTracefsRoot) + "/events/kvmmmu/kvm_tdp_mmu_spte_changed"))
    return "this kernel has no trace event kvmmmu:kvm_tdp_mmu_spte_changed";
  if (const MmuMode mode = DetectKvmModule().mode; mode != MmuMode::kTdp)
    return "KVM is in " + ToString(mode) + " mode, only the TDP MMU traces its entries";
  return "";
}

SptOrderWatch::SptOrderWatch() {
  if (const std::string reason = Unavailable(); !reason.empty()) throw std::runtime_error(reason);
  SharedTrace().Clear();
  SharedTrace().Start();
  recording_ = true;
}

SptOrderWatch::~SptOrderWatch() {
  if (recording_) SharedTrace().Stop();
}

void SptOrderWatch::Begin(std::vector<GpaRange> ranges, int address_space) {
  scope_ = {std::move(ranges), address_space};
  SharedTrace().Mark(kBeginMark);
}

SptOrderReport SptOrderWatch::End() {
  TraceInstance& trace = SharedTrace();
  trace.Stop();
  recording_ = false;
  if (const uint64_t lost = trace.lost(); lost != 0)
    throw std::runtime_error(std::to_string(lost) + " trace events were lost, the buffer of " +
                             std::to_string(kBufferKb) + " KiB per CPU is too small");
  const std::vector<TraceEvent> events = trace.Read();
  if (std::none_of(events.begin(), events.end(), IsBegin))
    throw std::runtime_error("the trace has no mark of SptOrderWatch::Begin()");
  return CheckTrace(events, scope_);
}

}  // namespace slotzap
