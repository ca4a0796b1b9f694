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
  BenchVm vm({.slot_zap_all = slot_zap_all});
  SparseSlots slots(vm, kGrowthEnd);
  vm.TouchElsewhere();
  state.counters["pages_before"] = static_cast<double>(SecondaryPageTablePages());
  for (auto _ : state) {
    SetTime(state, TimeOf([&] {
              slots.Rounds(kGrowthFewRounds);
              vm.TouchElsewhere();
              state.counters["pages_few"] = static_cast<double>(SecondaryPageTablePages());
              slots.Rounds(kGrowthRounds - kGrowthFewRounds);
            }));
    vm.TouchElsewhere();
    state.counters["pages_many"] = static_cast<double>(SecondaryPageTablePages());
  }
}

}  // namespace

void RegisterGrowth() {
  // With the quirk on everything goes each time, so nothing can add up.
  RegisterBench(GrowthName(false), 1, [](benchmark::State& state) { Grow(state, false); });
}

}  // namespace slotzap
