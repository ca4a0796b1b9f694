// SPDX-License-Identifier: GPL-2.0-only
// Whether KVM took mappings down by the rules that TDX's Secure-EPT imposes, as the TDP MMU's
// tracepoint shows it on ordinary hardware.  With TDX, the module refuses, and the VM dies, if
//   - the root is replaced,
//   - a non-leaf entry goes away while an entry below it is present (leaves first),
// and every private page that is dropped without need has lost its contents.
//
// What is watched (arch/x86/kvm/mmu/tdp_mmu.c, the same in Linux 6.1 and 6.12):
//   kvm_tdp_mmu_spte_changed  each change of an entry, before what hangs below it is taken down.
//                             An eager split is one event, of the entry that becomes a table; the
//                             512 leaves in that table appear without.
//   kvm_mmu_zap_all_fast      all roots were made obsolete
//   kvm_mmu_get_page          a table was made; a root has gfn 0 and level 4 or 5
// None of them names the VM: only one VM may be active while they are recorded.
#pragma once

#include <compare>
#include <cstdint>
#include <iosfwd>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/range.h"
#include "host/tracefs.h"
#include "oracle/zap_watch.h"

namespace slotzap {

// A present entry of the page tables: at `level`, it maps 512^(level - 1) pages from `gfn` on.
struct SptEntry {
  int as_id = 0;
  int level = 0;
  Gfn gfn = 0;
  uint64_t spte = 0;
};

// The guest physical addresses that an entry maps.
GpaRange RangeOf(Gfn gfn, int level);

// A non-leaf entry that was cleared, or replaced by another table or by a leaf.
struct RemovedTable {
  SpteChanged change;
  std::optional<SptEntry> child;  // an entry below that was still present: out of order
  // "address space 0: the level 2 entry of gfn 0x40000 was cleared (SPTE 0x... -> 0x5a0) while the
  // level 1 entry of gfn 0x40003 below it was present (SPTE 0x...)".
  std::string ToString() const;
};

struct SptOrderReport {
  std::vector<SpteChanged> leaves;       // leaves that were cleared, or given another page
  std::vector<RemovedTable> tables;      // tables removed in order: nothing was below them
  std::vector<RemovedTable> violations;  // tables removed out of order
  std::string root_replaced;             // how that was seen; empty: the root was kept
  int root_level = 4;                    // of the entries in the root
  uint64_t changes = 0;                  // of entries, whatever they were
  uint64_t installs = 0;     // entries that became present, or leaves given another page
  uint64_t splits = 0;       // leaves replaced by tables that map the same
  uint64_t host_unmaps = 0;  // MMU notifier calls, which zap as well
  // Entries mapped before recording began and seen only when they changed.  If there are any,
  // there may be more that are not in `present`.
  uint64_t unknown_before = 0;
  std::vector<SptEntry> present;  // the leaves that are left, by address space, level, gfn

  // Leaves that lie in a range, or reach into it.
  struct InRange {
    GpaRange range;
    Leaves removed, left;
  };
  std::vector<InRange> ranges;  // those asked for

  Leaves removed() const;
  // Everything above on a few lines, for messages.
  std::string ToString() const;
};
std::ostream& operator<<(std::ostream& os, const SptOrderReport& report);

// What breaks the order: a root replaced, a table removed before what is below it.  Empty if
// nothing does.
std::string OrderProblem(const SptOrderReport& report);

// What keeps this from being true: in each range a leaf was removed, no leaf is left there, and
// elsewhere nothing was removed.  A leaf that reaches beyond the ranges is elsewhere.  A table that
// was removed counts as elsewhere if it mapped nothing in the ranges.  Empty if it is true, as far
// as recording showed (`unknown_before`).
std::string RemovalProblem(const SptOrderReport& report, const std::vector<GpaRange>& ranges,
                           int address_space = 0);

// Where the operation in question is expected to remove leaves.
struct SptScope {
  std::vector<GpaRange> ranges;
  int address_space = 0;
};

// Follows page tables from one event to the next.  What comes before Begin() only shows what is
// mapped.
class SptOrderChecker {
 public:
  explicit SptOrderChecker(SptScope scope = {}) : scope_(std::move(scope)) {}

  void Begin();
  // Events of other names are skipped.
  void Add(const TraceEvent& event);
  void Add(const SpteChanged& change);
  void Add(const CreatedPage& page);
  void AddZapAllFast();
  SptOrderReport Report() const;

 private:
  struct Key {
    int as_id;
    int level;
    Gfn gfn;
    // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 mistakes the 0 that <=> is compared with
    auto operator<=>(const Key&) const = default;
  };
  struct State {
    uint64_t spte;
    // More than 1 while an obsolete root is still being taken down and the new one maps the same.
    unsigned copies = 1;
    bool split = false;  // came with a split: no event showed it
  };

  void Install(const SpteChanged& change);
  void Remove(const SpteChanged& change);
  void Split(const SpteChanged& change);
  void Learn(const SpteChanged& change);
  void NoteNewRoot(const SpteChanged& change);
  std::optional<SptEntry> PresentBelow(const SpteChanged& change) const;

  SptScope scope_;
  std::map<Key, State> present_;
  std::set<int> address_spaces_;  // that have had an entry
  int root_level_ = 4;

  // Since Begin().
  bool begun_ = false;
  SptOrderReport report_;                 // its `tables` have the violations in them, too
  std::map<Key, size_t> removed_tables_;  // that are gone: where in report_.tables
  uint64_t zap_all_ = 0;
  uint64_t unclaimed_roots_ = 0;  // made, for an address space that isn't known yet
};

// A trace from the mark that SptOrderWatch::Begin() makes on; all of it if there is no mark.
SptOrderReport CheckTrace(const std::vector<TraceEvent>& events, const SptScope& scope);

// Records from construction to End().  To know all that is mapped, it is made before the VM.
//   SptOrderWatch watch;
//   TestVm vm(...);
//   ... the guest touches memory ...
//   watch.Begin({slot.range()});
//   slot.Delete();
//   const SptOrderReport report = watch.End();
// One at a time: they share one trace buffer.
class SptOrderWatch {
 public:
  // Why nothing can be recorded here (tracefs, KVM's events, an MMU other than the TDP MMU), or
  // an empty string.
  static std::string Unavailable();

  SptOrderWatch();  // throws std::runtime_error with the reason if it is unavailable
  SptOrderWatch(const SptOrderWatch&) = delete;
  SptOrderWatch& operator=(const SptOrderWatch&) = delete;
  ~SptOrderWatch();

  // The operation in question starts here.
  void Begin(std::vector<GpaRange> ranges = {}, int address_space = 0);
  // Throws std::runtime_error if trace events were lost, or Begin() was not called.
  SptOrderReport End();

 private:
  SptScope scope_;
  bool recording_ = false;
};

}  // namespace slotzap
