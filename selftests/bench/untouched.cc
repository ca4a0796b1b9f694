// SPDX-License-Identifier: GPL-2.0-only
// Row "untouched": deleting a slot that no guest has touched, by its size.
#include "base/range.h"
#include "bench/bench.h"
#include "bench/bench_vm.h"

namespace slotzap {
namespace {

using namespace literals;

void DeleteUntouched(benchmark::State& state, const UntouchedCase& c, bool slot_zap_all) {
  BenchVm vm({.slot_zap_all = slot_zap_all, .elsewhere = c.elsewhere, .nested = c.nested});
  vm.WarmUp();
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
      RegisterBench(c.Name(slot_zap_all), c.size <= 64_GiB ? kRounds : 1,
                    [=](benchmark::State& state) { DeleteUntouched(state, c, slot_zap_all); });
}

}  // namespace slotzap
