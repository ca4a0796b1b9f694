// SPDX-License-Identifier: GPL-2.0-only
#include "harness/main.h"

#include "kvm/kvm.h"

namespace {

// The series that promise it say so by a capability of theirs.
bool PromisesPrecision() {
  return slotzap::Kvm::Unavailable().empty() &&
         slotzap::Kvm().CheckExtension(KVM_CAP_X86_QUIRKS_IN_EFFECT) != 0;
}

}  // namespace

int main(int argc, char** argv) {
  return slotzap::HarnessMain(argc, argv, {.promises_precision = PromisesPrecision});
}
