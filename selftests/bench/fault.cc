// SPDX-License-Identifier: GPL-2.0-only
// Row "fault": the worst page fault of a vCPU that touches memory for the first time while another
// slot, all of which is mapped, is deleted.
#include <atomic>
#include <exception>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/range.h"
#include "bench/bench.h"
#include "bench/bench_vm.h"
#include "host/task.h"

namespace slotzap {
namespace {

using namespace literals;
using Clock = std::chrono::steady_clock;

// KVM may map neighbours, up to this far, with a page that faults (PTE_PREFETCH_NUM).
constexpr uint64_t kStride = 8 * kPageSize;
constexpr uint64_t kFresh = 1_GiB;

// A vCPU that writes to a fresh page after the other, on a thread and a CPU of its own, from
// construction until Stop().
class FaultLoop {
 public:
  struct Fault {
    Clock::time_point begin, end;
  };

  FaultLoop(Guest& guest, GpaRange fresh, int cpu)
      : thread_([this, &guest, fresh, cpu] {
          try {
            const CpuPin pin(cpu);
            for (Gpa gpa = fresh.start; gpa < fresh.end() && !stop_; gpa += kStride) {
              const Clock::time_point begin = Clock::now();
              if (!guest.Write(gpa, 1).done) throw std::runtime_error("the guest is stuck");
              faults_.push_back({begin, Clock::now()});
              count_++;
            }
          } catch (...) {
            error_ = std::current_exception();
          }
          ended_ = true;
        }) {}
  FaultLoop(const FaultLoop&) = delete;
  FaultLoop& operator=(const FaultLoop&) = delete;
  ~FaultLoop() { Join(); }

  void WaitForFaults(uint64_t n) const {
    const uint64_t goal = count_ + n;
    while (count_ < goal && !ended_) std::this_thread::yield();
  }
  // All faults.  Throws if the memory didn't last until now.
  const std::vector<Fault>& Stop() {
    const bool lasted = !ended_;
    Join();
    if (error_) std::rethrow_exception(error_);
    if (!lasted) throw std::runtime_error("the vCPU ran out of fresh memory");
    return faults_;
  }

 private:
  void Join() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

  std::vector<Fault> faults_;
  std::exception_ptr error_;
  std::atomic<uint64_t> count_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<bool> ended_ = false;
  std::thread thread_;  // the last one: it uses those above
};

void WorstFault(benchmark::State& state, const FaultCase& c, bool slot_zap_all) {
  const std::vector<int> cpus = AllowedCpus();
  if (cpus.size() < 2) throw std::runtime_error("takes two CPUs");
  BenchVm vm({.slot_zap_all = slot_zap_all});
  MemorySlot victim = vm.AddVictim(c.size);
  MemorySlot fresh = vm.AddSlot(BenchVm::kVictim + 4_GiB, kFresh);
  const CpuPin pin(cpus[0]);
  Samples worst;
  Samples meanwhile;
  Samples deletes;
  for (auto _ : state) {
    vm.Touch(victim.range());
    fresh.memory().Unmap(0, kFresh);
    FaultLoop loop(vm.guest(), fresh.range(), cpus[1]);
    loop.WaitForFaults(20);
    const Clock::time_point begin = Clock::now();
    deletes.Add(TimeOf([&] { victim.Delete(); }));
    const Clock::time_point end = Clock::now();
    loop.WaitForFaults(2);
    uint64_t longest = 0;
    uint64_t count = 0;
    for (const FaultLoop::Fault& fault : loop.Stop()) {
      if (fault.end < begin || fault.begin > end) continue;
      count++;
      longest = std::max(longest, static_cast<uint64_t>(
                                      std::chrono::nanoseconds(fault.end - fault.begin).count()));
    }
    worst.Add(longest);
    meanwhile.Add(count);
    SetTime(state, longest);
    victim.Add();
  }
  Report(state, "worst", worst);
  Report(state, "delete", deletes);
  state.counters["faults"] = static_cast<double>(meanwhile.median());
}

}  // namespace

void RegisterFault() {
  for (const FaultCase& c : FaultCases())
    for (const bool slot_zap_all : {true, false})
      RegisterBench(c.Name(slot_zap_all), kRounds,
                    [=](benchmark::State& state) { WorstFault(state, c, slot_zap_all); });
}

}  // namespace slotzap
