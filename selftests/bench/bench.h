// SPDX-License-Identifier: GPL-2.0-only
// What the benchmarks have in common.  Their names are those of bench/cases.h.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <string>

#include "bench/cases.h"
#include "bench/samples.h"

namespace slotzap {

// How often something is measured, to take the median.
inline constexpr int kRounds = 5;

// Registers a benchmark that runs `rounds` times over the loop of its state, with the times that
// SetTime() hands over.  What `run` throws becomes the benchmark's error.
void RegisterBench(const std::string& name, int rounds,
                   const std::function<void(benchmark::State&)>& run);

// The time of one iteration.
void SetTime(benchmark::State& state, uint64_t ns);
// PREFIX_ns, the median, and with it PREFIX_min_ns and PREFIX_max_ns, as counters.
void Report(benchmark::State& state, const std::string& prefix, const Samples& samples);

// Each registers the benchmarks of one theme, so of one row.
void RegisterUntouched();
void RegisterTouched();
void RegisterRefaults();
void RegisterLock();
void RegisterFault();
void RegisterGrowth();

}  // namespace slotzap
