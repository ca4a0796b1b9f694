// SPDX-License-Identifier: GPL-2.0-only
// Row "growth": what KVM's page tables take after slots came and went in many places.
#include "base/range.h"
#include "bench/bench.h"
#include "bench/bench_vm.h"
#include "guest/sparse_slots.h"
#include "host/vm_stat.h"

namespace slotzap {
namespace {

void Grow(benchmark::State& state, bool slot_zap_all) {
  // An IOMMU's page tables count as well, since Linux 6.11.
  const uint64_t others = SecondaryPageTablePages();
  const auto pages = [others] { return static_cast<double>(SecondaryPageTablePages() - others); };
  BenchVm vm({.slot_zap_all = slot_zap_all});
  SparseSlots slots(vm, kGrowthEnd);
  vm.TouchElsewhere();
  state.counters["pages_before"] = pages();
  for (auto _ : state) {
    SetTime(state, TimeOf([&] {
              slots.Rounds(kGrowthFewRounds);
              vm.TouchElsewhere();
              state.counters["pages_few"] = pages();
              slots.Rounds(kGrowthRounds - kGrowthFewRounds);
            }));
    vm.TouchElsewhere();
    state.counters["pages_many"] = pages();
  }
}

}  // namespace

void RegisterGrowth() {
  // With the quirk on everything goes each time, so nothing can add up.
  RegisterBench(GrowthName(false), 1, [](benchmark::State& state) { Grow(state, false); });
}

}  // namespace slotzap
