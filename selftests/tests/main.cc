// SPDX-License-Identifier: GPL-2.0-only
#include "harness/main.h"

#include <memory>

#include "kvm/kvm.h"
#include "kvm/vm.h"
#include "tests/slot_test.h"

namespace slotzap {
namespace {

// KVM switches code on and off, by patching it, when the first VM comes and the last one goes, and
// the same with vCPUs that have no local APIC (static keys).
struct HeldVm {
  Kvm kvm;
  Vm vm{kvm};
  std::unique_ptr<Vcpu> vcpu = vm.AddVcpu();
};

}  // namespace
}  // namespace slotzap

int main(int argc, char** argv) {
  const auto hold_vm = [] { return std::make_shared<slotzap::HeldVm>(); };
  return slotzap::HarnessMain(argc, argv,
                              {.promises_precision = slotzap::HasSeries, .hold_vm = hold_vm});
}
