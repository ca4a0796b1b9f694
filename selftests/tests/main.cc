// SPDX-License-Identifier: GPL-2.0-only
#include "harness/main.h"

#include <memory>

#include "kvm/kvm.h"
#include "kvm/vm.h"

namespace slotzap {
namespace {

// KVM switches code on and off, by patching it, when the first VM comes and the last one goes, and
// the same with vCPUs that have no local APIC (static keys).
struct HeldVm {
  Kvm kvm;
  Vm vm{kvm};
  std::unique_ptr<Vcpu> vcpu = vm.AddVcpu();
};

// The series that promise it say so by a capability of theirs.
bool PromisesPrecision() {
  return Kvm::Unavailable().empty() && Kvm().CheckExtension(KVM_CAP_X86_QUIRKS_IN_EFFECT) != 0;
}

}  // namespace
}  // namespace slotzap

int main(int argc, char** argv) {
  return slotzap::HarnessMain(argc, argv,
                              {.promises_precision = slotzap::PromisesPrecision,
                               .hold_vm = [] { return std::make_shared<slotzap::HeldVm>(); }});
}
