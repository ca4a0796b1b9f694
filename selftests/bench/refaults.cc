// SPDX-License-Identifier: GPL-2.0-only
// Row "refaults": page faults of a guest that touches all its memory again after a delete.
#include "base/range.h"
#include "bench/bench.h"
#include "bench/bench_vm.h"

namespace slotzap {
namespace {

using namespace literals;

void CountRefaults(benchmark::State& state, const RefaultCase& c, bool slot_zap_all) {
  BenchVm vm({.slot_zap_all = slot_zap_all, .elsewhere = 64_MiB, .nested = c.nested});
  MemorySlot victim = c.touched ? vm.AddVictim(c.size) : vm.AddSparseVictim(c.size);
  for (auto _ : state) {
    vm.TouchElsewhere();
    if (c.touched) vm.Touch(victim.range());
    SetTime(state, TimeOf([&] { victim.Delete(); }));
    const uint64_t faults = vm.FixedFaults();
    vm.TouchElsewhere();
    state.counters["refaults"] = static_cast<double>(vm.FixedFaults() - faults);
  }
}

}  // namespace

void RegisterRefaults() {
  for (const RefaultCase& c : RefaultCases())
    for (const bool slot_zap_all : {true, false})
      RegisterBench(c.Name(slot_zap_all), 1,
                    [=](benchmark::State& state) { CountRefaults(state, c, slot_zap_all); });
}

}  // namespace slotzap
