// SPDX-License-Identifier: GPL-2.0-only
#include "bench/bench.h"

#include <exception>

namespace slotzap {

void RegisterBench(const std::string& name, int rounds,
                   const std::function<void(benchmark::State&)>& run) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [run](benchmark::State& state) {
                                 try {
                                   run(state);
                                 } catch (const std::exception& e) {
                                   state.SkipWithError(e.what());
                                 }
                               })
      ->UseManualTime()
      ->Iterations(rounds);
}

void SetTime(benchmark::State& state, uint64_t ns) {
  state.SetIterationTime(static_cast<double>(ns) / 1e9);
}

void Report(benchmark::State& state, const std::string& prefix, const Samples& samples) {
  state.counters[prefix + "_ns"] = static_cast<double>(samples.median());
  state.counters[prefix + "_min_ns"] = static_cast<double>(samples.min());
  state.counters[prefix + "_max_ns"] = static_cast<double>(samples.max());
}

}  // namespace slotzap
