// SPDX-License-Identifier: GPL-2.0-only
// slotzap-bench: what deleting a memslot costs on this machine's KVM.  Takes Google Benchmark's
// flags; "slotzap bench-table" judges its JSON.
//   --hold-vm   keep a VM with a vCPU open all along, see scripts/host-svm
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <iostream>
#include <memory>

#include "bench/bench.h"
#include "cli/machine.h"
#include "kvm/kvm.h"
#include "kvm/vm.h"

namespace {

struct HeldVm {
  slotzap::Kvm kvm;
  slotzap::Vm vm{kvm};
  std::unique_ptr<slotzap::Vcpu> vcpu = vm.AddVcpu();
};

int Run(int argc, char** argv) {
  std::unique_ptr<HeldVm> held;
  char** end = std::remove_if(argv + 1, argv + argc,
                              [](const char* arg) { return std::strcmp(arg, "--hold-vm") == 0; });
  if (end != argv + argc) held = std::make_unique<HeldVm>();
  argc = static_cast<int>(end - argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;

  const slotzap::Machine machine = slotzap::DescribeMachine();
  benchmark::AddCustomContext("kernel", machine.kernel);
  benchmark::AddCustomContext("vendor", machine.vendor);
  benchmark::AddCustomContext("mode", machine.mode);
  benchmark::AddCustomContext("host", machine.host);
  const bool series = slotzap::Kvm().CheckExtension(KVM_CAP_X86_QUIRKS_IN_EFFECT) != 0;
  benchmark::AddCustomContext("series", series ? "yes" : "no");

  slotzap::RegisterUntouched();
  slotzap::RegisterTouched();
  slotzap::RegisterRefaults();
  slotzap::RegisterLock();
  slotzap::RegisterGrowth();
  slotzap::RegisterFault();
  return benchmark::RunSpecifiedBenchmarks() == 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "slotzap-bench: " << e.what() << "\n";
    return 1;
  }
}
