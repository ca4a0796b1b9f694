// SPDX-License-Identifier: GPL-2.0-only
#include "guest/smm.h"

#include <cstddef>
#include <span>
#include <stdexcept>

#include "kvm/uapi.h"

extern "C" {
extern const std::byte slotzap_smm_handler[];
extern const std::byte slotzap_smm_handler_end[];
}

namespace slotzap {
namespace {

constexpr uint64_t kHandlerOffset = 0x8000;
// Parameters: start and number of pages, 4 bytes each; result: 8 bytes; parameter: what to store, 4
// bytes.
constexpr uint64_t kParametersOffset = 0x7000;

MemorySlot AddSmram(Vm& vm) {
  if (vm.CheckExtension(KVM_CAP_X86_SMM) == 0)
    throw KvmError("this KVM has no System Management Mode (KVM_CAP_X86_SMM)", ENOSYS);
  return vm.AddSlot({.gpa = Smm::kBase,
                     .memory = std::make_shared<GuestMemory>(Smm::kSize),
                     .address_space = Smm::kAddressSpace});
}

}  // namespace

Smm::Smm(Vm& vm) : smram_(AddSmram(vm)) {
  smram_.memory().Write(kHandlerOffset, {slotzap_smm_handler, slotzap_smm_handler_end});
}

Outcome Smm::Touch(Guest& guest, GpaRange range, uint32_t word) {
  if (range.end() > 1ull << 32)
    throw std::invalid_argument("the SMM handler reaches only 4 GiB, not " + ToString(range));
  smram_.Store(kBase + kParametersOffset, range.start | range.pages() << 32);
  smram_.Store(kBase + kParametersOffset + 8, 0);
  smram_.Store(kBase + kParametersOffset + 16, word);
  guest.vcpu().SendSmi();
  Outcome outcome = guest.Nop();
  outcome.value = smram_.Load(kBase + kParametersOffset + 8);
  return outcome;
}

uint64_t AddHalves(uint64_t sum, uint64_t word) {
  const auto low = static_cast<uint32_t>(sum + word);
  const auto high = static_cast<uint32_t>((sum >> 32) + (word >> 32));
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace slotzap
