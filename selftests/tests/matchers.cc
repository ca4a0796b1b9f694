// SPDX-License-Identifier: GPL-2.0-only
#include "tests/matchers.h"

#include <algorithm>
#include <ostream>
#include <set>
#include <tuple>

#include "harness/precision.h"

namespace slotzap {
namespace {

using testing::Matcher;
using testing::MatchResultListener;

// A matcher from a description and a function that returns what is wrong, or nothing.
template <typename T, typename Explain>
class ExplainingMatcher : public testing::MatcherInterface<const T&> {
 public:
  ExplainingMatcher(std::string description, Explain explain)
      : description_(std::move(description)), explain_(std::move(explain)) {}

  bool MatchAndExplain(const T& value, MatchResultListener* listener) const override {
    const std::string problem = explain_(value);
    if (!problem.empty()) *listener << problem;
    return problem.empty();
  }
  void DescribeTo(std::ostream* os) const override { *os << description_; }
  void DescribeNegationTo(std::ostream* os) const override { *os << "not: " << description_; }

 private:
  std::string description_;
  Explain explain_;
};

template <typename T, typename Explain>
Matcher<const T&> Explaining(std::string description, Explain explain) {
  return testing::MakeMatcher(
      new ExplainingMatcher<T, Explain>(std::move(description), std::move(explain)));
}

std::string Words(const guest::Verdict& v) {
  std::string text = "saw " + std::to_string(v.words) + " words: " + std::to_string(v.matches) +
                     " right, " + std::to_string(v.absent) + " absent, " + std::to_string(v.wrong) +
                     " wrong";
  if (v.wrong != 0)
    text += " (the first at " + Hex(v.wrong_gpa) + ": " + Hex(v.wrong_seen) + ", expected " +
            Hex(v.wrong_expected) + ")";
  return text;
}

std::string NotDone(const Outcome& o) {
  return o.done ? "" : "which did not finish: " + o.exit_text;
}

std::string ReturnedText(const Outcome& o) {
  std::string text = "which returned " + Hex(o.value) + ", with " + std::to_string(o.mmio_count) +
                     " MMIO accesses";
  if (!o.mmio.empty()) text += ", the first a " + testing::PrintToString(o.mmio.front());
  return text;
}

std::string ExplainMmio(const Outcome& o, const MmioAccess& expected) {
  if (!o.done) return NotDone(o);
  if (o.mmio_count == 1 && o.mmio.front() == expected) return "";
  return ReturnedText(o);
}

using LeafKey = std::tuple<int, Gfn>;  // level, gfn

int LevelOf(Backing size) { return size == Backing::k1G ? 3 : size == Backing::k2M ? 2 : 1; }

std::set<LeafKey> Keys(const std::vector<LeafRange>& ranges) {
  std::set<LeafKey> keys;
  for (const LeafRange& r : ranges)
    for (Gpa gpa = r.range.start; gpa < r.range.end(); gpa += BackingPageSize(r.size))
      keys.insert({LevelOf(r.size), gpa >> kPageShift});
  return keys;
}

Leaves Count(const std::vector<LeafRange>& ranges) {
  Leaves leaves;
  for (const auto& [level, gfn] : Keys(ranges))
    (level == 3 ? leaves.k1G : level == 2 ? leaves.k2M : leaves.k4K)++;
  return leaves;
}

std::string KeyText(const LeafKey& key) {
  return "gfn " + Hex(std::get<1>(key)) + " level " + std::to_string(std::get<0>(key));
}

std::string ExplainTracedLeaves(const ZapReport& report, const std::set<LeafKey>& expected,
                                int address_space) {
  std::set<LeafKey> seen;
  for (const SpteChanged& change : report.leaves) {
    const LeafKey key = {change.level, change.gfn};
    if (change.as_id != address_space)
      return "where a leaf of address space " + std::to_string(change.as_id) +
             " was zapped: " + KeyText(key);
    if (!expected.contains(key))
      return "where a leaf was zapped that should have stayed: " + KeyText(key);
    if (!seen.insert(key).second) return "where a leaf was zapped twice: " + KeyText(key);
  }
  for (const LeafKey& key : expected)
    if (!seen.contains(key)) return "where a leaf was not zapped: " + KeyText(key);
  return "";
}

std::string ExplainZappedOnly(const ZapReport& report, const std::vector<LeafRange>& expected,
                              MmuMode mode, int address_space) {
  std::ostringstream os;
  const Leaves leaves = Count(expected);
  if (report.dropped() != leaves) {
    os << "where " << report.dropped() << " were zapped, not " << leaves;
  } else if (leaves.total() > 0 && report.flush_requests == 0) {
    os << "where SPTEs were zapped, but no TLB flush was requested";
  } else if (leaves.total() == 0 && report.emptied.empty() && report.flush_requests != 0) {
    os << "where nothing had to be zapped, but " << report.flush_requests
       << " TLB flushes were requested";
  } else if (report.shadow_zapped != 0) {
    os << "where " << report.shadow_zapped << " shadow pages were zapped (mmu_shadow_zapped)";
  } else if (!report.untraced.empty()) {
    return "";
  } else if (report.zap_all != 0) {
    os << "where all roots were invalidated";
  } else if (!report.tables.empty()) {
    os << "where " << report.tables.size() << " tables were zapped, the first at gfn "
       << Hex(report.tables.front().gfn) << " level " << report.tables.front().level;
  } else if (!report.shadow_pages.empty()) {
    os << "where " << report.shadow_pages.size() << " shadow pages were zapped";
  } else if (mode == MmuMode::kTdp) {
    return ExplainTracedLeaves(report, Keys(expected), address_space);
  }
  return os.str();
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const MmioAccess& access) {
  return os << (access.write ? "write" : "read") << " of " << access.size << " bytes at "
            << Hex(access.gpa) << ": " << Hex(access.value);
}

std::ostream& operator<<(std::ostream& os, const Outcome& outcome) {
  if (!outcome.done) return os << "not done: " << outcome.exit_text;
  return os << "done, value " << Hex(outcome.value) << ", " << Words(outcome.verdict) << ", "
            << outcome.mmio_count << " MMIO accesses";
}

void PrintTo(const KvmStatus& status, std::ostream* os) { *os << status.ToString(); }

Matcher<const KvmStatus&> IsOk() {
  return Explaining<KvmStatus>("succeeds", [](const KvmStatus& status) {
    return status.ok() ? std::string() : "which is " + status.ToString();
  });
}

Matcher<const KvmStatus&> FailsWith(int error) {
  return Explaining<KvmStatus>(
      "fails with errno " + std::to_string(error), [error](const KvmStatus& status) {
        return status.error() == error ? std::string() : "which is " + status.ToString();
      });
}

Matcher<const Outcome&> Succeeds() {
  return Explaining<Outcome>("succeeds without MMIO", [](const Outcome& o) {
    if (!o.done) return NotDone(o);
    return o.mmio_count == 0 ? std::string() : ReturnedText(o);
  });
}

Matcher<const Outcome&> Returns(uint64_t value) {
  return Explaining<Outcome>("returns " + Hex(value) + " without MMIO", [value](const Outcome& o) {
    if (!o.done) return NotDone(o);
    return o.mmio_count == 0 && o.value == value ? std::string() : ReturnedText(o);
  });
}

Matcher<const Outcome&> IsMmioReadAt(Gpa gpa) {
  const MmioAccess expected = {gpa, 8, false, guest::kNoMemory};
  return Explaining<Outcome>("is one " + testing::PrintToString(expected),
                             [expected](const Outcome& o) { return ExplainMmio(o, expected); });
}

Matcher<const Outcome&> IsMmioWriteAt(Gpa gpa, uint64_t value) {
  const MmioAccess expected = {gpa, 8, true, value};
  return Explaining<Outcome>("is one " + testing::PrintToString(expected),
                             [expected](const Outcome& o) { return ExplainMmio(o, expected); });
}

Matcher<const Outcome&> IsStuck() {
  return Explaining<Outcome>("does not finish", [](const Outcome& o) {
    return o.done ? std::string("which finished") : std::string();
  });
}

Matcher<const Outcome&> SeesPattern() {
  return Explaining<Outcome>("sees the pattern in every word", [](const Outcome& o) {
    if (!o.done) return NotDone(o);
    const guest::Verdict& v = o.verdict;
    return v.words > 0 && v.matches == v.words ? std::string() : "which " + Words(v);
  });
}

Matcher<const Outcome&> FindsNothingIn(GpaRange range) {
  return Explaining<Outcome>(
      "finds no memory in " + ToString(range), [range](const Outcome& o) -> std::string {
        if (!o.done) return NotDone(o);
        if (o.mmio_count != range.pages()) return ReturnedText(o);
        for (size_t i = 0; i < o.mmio.size(); i++) {
          const MmioAccess expected = {range.start + i * kPageSize, 8, false, guest::kNoMemory};
          if (!(o.mmio[i] == expected))
            return "which made a " + testing::PrintToString(o.mmio[i]) + ", not a " +
                   testing::PrintToString(expected);
        }
        return "";
      });
}

Matcher<const ZapReport&> ZappedOnly(std::vector<LeafRange> expected, MmuMode mode,
                                     int address_space) {
  std::ostringstream os;
  os << kPrecision << "zapped exactly the leaves in";
  for (const LeafRange& r : expected) os << " " << r.range;
  if (expected.empty()) os << " nothing";
  return Explaining<ZapReport>(
      os.str(), [expected = std::move(expected), mode, address_space](const ZapReport& report) {
        return ExplainZappedOnly(report, expected, mode, address_space);
      });
}

Matcher<const ZapReport&> ZappedEverything() {
  return Explaining<ZapReport>(kPrecision + std::string("zapped everything"),
                               [](const ZapReport& report) {
                                 std::ostringstream os;
                                 if (report.after.total() != 0)
                                   os << "where leaf SPTEs are left: " << report.after;
                                 else if (report.before.total() == 0)
                                   os << "where there was nothing to zap";
                                 else if (report.untraced.empty() && report.zap_all == 0)
                                   os << "where the roots were not invalidated";
                                 return os.str();
                               });
}

Matcher<const ZapReport&> TracedLeavesAre(const std::vector<LeafRange>& expected) {
  return Explaining<ZapReport>(
      kPrecision + std::string("zapped these leaves, by the tracepoint"),
      [keys = Keys(expected)](const ZapReport& report) {
        return report.untraced.empty() ? ExplainTracedLeaves(report, keys, 0) : std::string();
      });
}

Matcher<const SptOrderReport&> KeptSecureEptOrder() {
  return Explaining<SptOrderReport>(kPrecision + std::string("kept Secure-EPT's order"),
                                    [](const SptOrderReport& report) {
                                      const std::string problem = OrderProblem(report);
                                      return problem.empty() ? problem : "where " + problem;
                                    });
}

Matcher<const SptOrderReport&> RemovedLeavesOnlyIn(std::vector<GpaRange> ranges,
                                                   int address_space) {
  std::ostringstream os;
  os << kPrecision << "removed the leaves of address space " << address_space << " in";
  for (const GpaRange& range : ranges) os << " " << range;
  os << (ranges.empty() ? " nothing" : " and nothing else");
  return Explaining<SptOrderReport>(
      os.str(), [ranges = std::move(ranges), address_space](const SptOrderReport& report) {
        if (report.unknown_before != 0)
          return "where at least " + std::to_string(report.unknown_before) +
                 " entries were mapped before recording began, so that nothing shows what is left";
        const std::string problem = RemovalProblem(report, ranges, address_space);
        return problem.empty() ? problem : "where " + problem;
      });
}

Matcher<const SptOrderReport&> RemovedTablesOnlyOf(std::vector<GpaRange> ranges,
                                                   int address_space) {
  std::ostringstream os;
  os << kPrecision << "removed no table but those of";
  for (const GpaRange& range : ranges) os << " " << range;
  return Explaining<SptOrderReport>(
      os.str(), [ranges = std::move(ranges), address_space](const SptOrderReport& report) {
        for (const std::vector<RemovedTable>* tables : {&report.tables, &report.violations})
          for (const RemovedTable& table : *tables) {
            const GpaRange maps = RangeOf(table.change.gfn, table.change.level);
            if (table.change.as_id != address_space ||
                std::none_of(ranges.begin(), ranges.end(),
                             [&](const GpaRange& range) { return range.overlaps(maps); }))
              return "where a table was removed: " + table.ToString();
          }
        return std::string();
      });
}

}  // namespace slotzap
