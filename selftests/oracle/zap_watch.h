// SPDX-License-Identifier: GPL-2.0-only
// What KVM zapped between two moments, by its own statistics and by its tracepoints.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "base/range.h"
#include "host/tracefs.h"
#include "kvm/stats.h"
#include "kvm/vm.h"

namespace slotzap {

// SPTEs as struct kvm_mmu_page has them (arch/x86/kvm/mmu/spte.h).
bool IsPresentSpte(uint64_t spte);      // SPTE_MMU_PRESENT_MASK
bool IsLeaf(uint64_t spte, int level);  // is_last_spte()

// Leaf SPTEs by the size of what they map.
struct Leaves {
  int64_t k4K = 0;
  int64_t k2M = 0;
  int64_t k1G = 0;
  int64_t total() const { return k4K + k2M + k1G; }
  bool operator==(const Leaves&) const = default;
  Leaves operator-(const Leaves& o) const { return {k4K - o.k4K, k2M - o.k2M, k1G - o.k1G}; }
};
std::ostream& operator<<(std::ostream& os, const Leaves& leaves);

// The leaf SPTEs that the VM has now (pages_4k, pages_2m, pages_1g).
Leaves PresentLeaves(const StatsSnapshot& stats);

struct ZapReport {
  // From the VM's statistics; these are of this VM alone.
  Leaves before, after;
  uint64_t flush_requests = 0;  // remote TLB flushes asked for
  uint64_t shadow_zapped = 0;   // shadow pages, by mmu_shadow_zapped, but for `emptied`

  // From the tracepoints; these are of all VMs on the machine.  `untraced` says why there are none.
  std::string untraced;
  std::vector<SpteChanged> leaves;  // TDP MMU: present leaf SPTEs that were cleared
  std::vector<SpteChanged> tables;  // TDP MMU: present non-leaf SPTEs that were cleared
  std::vector<PreparedZapPage> shadow_pages;
  std::vector<ZapMemslot> slots;  // the memslots that went, if the kernel tells
  // Page tables that mapped something of a memslot that went, and are left empty: neither in
  // `tables` nor in `shadow_pages`.  Whether they were indeed empty shows in `leaves`.
  std::vector<PreparedZapPage> emptied;
  unsigned zap_all = 0;                    // kvm_mmu_zap_all_fast()
  std::vector<UnmapHvaRange> host_unmaps;  // zaps that the host asked for, not the memslot update

  // Moves what belongs there from `tables` and `shadow_pages` to `emptied`.
  void SortOutEmptied();

  Leaves dropped() const { return before - after; }
  // Everything above on a few lines, for messages.
  std::string ToString() const;
};
std::ostream& operator<<(std::ostream& os, const ZapReport& report);

// Records from construction to Stop().  One at a time: they share one trace buffer.
class ZapWatch {
 public:
  explicit ZapWatch(Vm& vm);
  ZapWatch(const ZapWatch&) = delete;
  ZapWatch& operator=(const ZapWatch&) = delete;
  ~ZapWatch();

  // Throws std::runtime_error if trace events were lost: the report would be wrong.
  ZapReport Stop();

 private:
  Vm& vm_;
  StatsSnapshot before_;
  bool recording_ = false;
};

}  // namespace slotzap
