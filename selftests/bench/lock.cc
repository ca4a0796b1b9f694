// SPDX-License-Identifier: GPL-2.0-only
// Row "lock": the longest stretch for which deleting a slot holds mmu_lock for write without a
// chance to yield.
#include "bench/bench.h"
#include "bench/bench_vm.h"
#include "oracle/test_device.h"

namespace slotzap {
namespace {

void WatchLock(benchmark::State& state, const LockCase& c, bool slot_zap_all) {
  if (const std::string reason = TestDevice::Unavailable(); !reason.empty())
    throw std::runtime_error(reason);
  BenchVm vm({.slot_zap_all = slot_zap_all, .elsewhere = LockCase::kElsewhere});
  vm.WarmUp();
  MemorySlot victim = vm.AddSparseVictim(c.size);
  TestDevice device(vm.vm());
  for (auto _ : state) {
    vm.TouchElsewhere();
    if (c.touched != 0) vm.Touch({victim.range().start, c.touched});
    device.TryWatchLock().OrThrow();
    SetTime(state, TimeOf([&] { victim.Delete(); }));
    const slotzap_test_lock_stretches stretches = device.StopWatchingLock();
    state.counters["stretches"] = static_cast<double>(stretches.count);
    state.counters["longest_ns"] = static_cast<double>(stretches.longest_ns);
    state.counters["total_ns"] = static_cast<double>(stretches.total_ns);
  }
}

}  // namespace

void RegisterLock() {
  for (const LockCase& c : LockCases())
    for (const bool slot_zap_all : {true, false})
      RegisterBench(c.Name(slot_zap_all), 1,
                    [=](benchmark::State& state) { WatchLock(state, c, slot_zap_all); });
}

}  // namespace slotzap
