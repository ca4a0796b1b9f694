// SPDX-License-Identifier: GPL-2.0-only
// /dev/kvm: what the module as a whole can say and do.
// Documentation/virt/kvm/api.rst of the kernel describes every ioctl named here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "kvm/status.h"
#include "kvm/uapi.h"

namespace slotzap {

// What kind of VM KVM_CREATE_VM makes.  The values are the kernel's.
enum class VmType : uint32_t {
  kDefault = KVM_X86_DEFAULT_VM,
  // Private memory by software alone (CONFIG_KVM_SW_PROTECTED_VM): for testing, protects nothing.
  // Needs the TDP MMU.
  kSwProtected = KVM_X86_SW_PROTECTED_VM,
};

std::string ToString(VmType type);  // "default", "sw-protected"

class Kvm {
 public:
  // Opens /dev/kvm.  Throws if it can't be opened, or speaks another API version than 12.
  Kvm();

  // Why /dev/kvm can't be used, or an empty string.
  static std::string Unavailable();

  // KVM_CHECK_EXTENSION: 0 if the module lacks the capability.
  int CheckExtension(int capability) const;

  // KVM_CAP_VM_TYPES: bit n is set if there are VMs of type n.  A kernel that doesn't know the
  // capability has those of the default type only.
  uint64_t SupportedVmTypes() const;
  bool Supports(VmType type) const;

  // KVM_CREATE_VM.  The file descriptor of a new VM.  EINVAL if the type isn't supported.
  FileDescriptor CreateVm(VmType type = VmType::kDefault) const;

  // KVM_GET_SUPPORTED_CPUID: all that the module can offer a guest.
  std::vector<kvm_cpuid_entry2> SupportedCpuid() const;

  // KVM_GET_MSRS on /dev/kvm: the value of an MSR that tells what the module can offer a guest.
  // Throws if it isn't one of those.
  uint64_t FeatureMsr(uint32_t index) const;

  // The width of the physical addresses that a guest can use, in bits: CPUID Fn8000_0008
  // EAX[23:16], or, where that is 0, EAX[7:0].
  unsigned PhysicalAddressBits() const;

  // KVM_GET_VCPU_MMAP_SIZE, in bytes.
  uint64_t VcpuMmapSize() const;

 private:
  FileDescriptor fd_;
};

}  // namespace slotzap
