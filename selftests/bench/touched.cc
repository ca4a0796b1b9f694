// SPDX-License-Identifier: GPL-2.0-only
// Row "small": deleting a small slot beside much memory that is in use, compared to adding it.
// Row "leaf": deleting a slot all of which is mapped, by the leaf.
#include "base/range.h"
#include "bench/bench.h"
#include "bench/bench_vm.h"

namespace slotzap {
namespace {

using namespace literals;

void DeleteSmall(benchmark::State& state, bool slot_zap_all) {
  BenchVm vm({.slot_zap_all = slot_zap_all, .elsewhere = 1_GiB});
  vm.WarmUp();
  MemorySlot victim = vm.AddVictim(4_KiB);
  victim.Delete();
  Samples adds;
  Samples deletes;
  for (auto _ : state) {
    vm.TouchElsewhere();
    adds.Add(TimeOf([&] { victim.Add(); }));
    vm.Touch(victim.range());
    deletes.Add(TimeOf([&] { victim.Delete(); }));
    SetTime(state, deletes.last());
  }
  Report(state, "add", adds);
  Report(state, "delete", deletes);
}

void DeleteLeaves(benchmark::State& state, bool slot_zap_all) {
  BenchVm vm({.slot_zap_all = slot_zap_all});
  vm.WarmUp();
  MemorySlot victim = vm.AddVictim(64_MiB);
  Samples deletes;
  Samples unmaps;
  for (auto _ : state) {
    vm.Touch(victim.range());
    unmaps.Add(TimeOf([&] { victim.memory().Unmap(0, victim.range().size); }));
    vm.Touch(victim.range());
    deletes.Add(TimeOf([&] { victim.Delete(); }));
    SetTime(state, deletes.last());
    victim.Add();
  }
  Report(state, "unmap", unmaps);
  Report(state, "delete", deletes);
  state.counters["leaves"] = static_cast<double>(victim.range().pages());
}

}  // namespace

void RegisterTouched() {
  // With the quirk on, it is shown and not judged, and the guest takes long to get its memory back.
  RegisterBench(SmallName(true), 1, [](benchmark::State& state) { DeleteSmall(state, true); });
  RegisterBench(SmallName(false), kRounds,
                [](benchmark::State& state) { DeleteSmall(state, false); });
  for (const bool slot_zap_all : {true, false})
    RegisterBench(LeafName(slot_zap_all), kRounds,
                  [=](benchmark::State& state) { DeleteLeaves(state, slot_zap_all); });
}

}  // namespace slotzap
