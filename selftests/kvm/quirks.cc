// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/quirks.h"

#include "kvm/uapi.h"
#include "kvm/vm.h"

namespace slotzap {

uint64_t Quirks::Supported() const {
  return static_cast<uint64_t>(vm_.CheckExtension(KVM_CAP_DISABLE_QUIRKS2));
}

std::optional<uint64_t> Quirks::InEffect() const {
  // Asked of the module, these are all quirks that a VM could have.  A VM may have none, so that 0
  // is an answer there.
  if (vm_.kvm().CheckExtension(KVM_CAP_X86_QUIRKS_IN_EFFECT) == 0) return std::nullopt;
  return static_cast<uint64_t>(vm_.CheckExtension(KVM_CAP_X86_QUIRKS_IN_EFFECT));
}

KvmStatus Quirks::TryDisable(uint64_t mask) {
  return vm_.TryEnableCap(KVM_CAP_DISABLE_QUIRKS2, mask);
}

}  // namespace slotzap
