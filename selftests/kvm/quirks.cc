// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/quirks.h"

#include "kvm/uapi.h"
#include "kvm/vm.h"

namespace slotzap {

uint64_t Quirks::Supported() const {
  return static_cast<uint64_t>(vm_.CheckExtension(KVM_CAP_DISABLE_QUIRKS2));
}

KvmStatus Quirks::TryDisable(uint64_t mask) {
  return vm_.TryEnableCap(KVM_CAP_DISABLE_QUIRKS2, mask);
}

}  // namespace slotzap
