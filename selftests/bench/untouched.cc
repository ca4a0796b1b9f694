// SPDX-License-Identifier: GPL-2.0-only
// Row "untouched": deleting a slot that no guest has touched, by its size.
#include "bench/bench.h"
#include "bench/bench_vm.h"

namespace slotzap {
namespace {

void DeleteUntouched(benchmark::State& state, const UntouchedCase& c, bool slot_zap_all) {
  BenchVm vm({.slot_zap_all = slot_zap_all, .elsewhere = c.elsewhere, .nested = c.nested});
  MemorySlot victim = vm.AddSparseVictim(c.size);
  Samples times;
  for (auto _ : state) {
    if (times.count() != 0) victim.Add();
    vm.TouchElsewhere();
    times.Add(TimeOf([&] { victim.Delete(); }));
    SetTime(state, times.last());
  }
  Report(state, "delete", times);
}

}  // namespace

void RegisterUntouched() {
  for (const UntouchedCase& c : UntouchedCases())
    for (const bool slot_zap_all : {true, false})
      RegisterBench(c.Name(slot_zap_all), kRounds,
                    [=](benchmark::State& state) { DeleteUntouched(state, c, slot_zap_all); });
}

}  // namespace slotzap
