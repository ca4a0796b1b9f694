// SPDX-License-Identifier: GPL-2.0-only
#include "kvm/kvm.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/range.h"

namespace slotzap {

std::string ToString(VmType type) {
  return type == VmType::kSwProtected ? "sw-protected" : "default";
}

Kvm::Kvm() : fd_(FileDescriptor::Open("/dev/kvm", O_RDWR)) {
  const int version = SLOTZAP_IOCTL(fd_.get(), KVM_GET_API_VERSION, 0).OrThrow();
  if (version != KVM_API_VERSION)
    throw KvmError("/dev/kvm speaks API version " + std::to_string(version) + ", not " +
                       std::to_string(KVM_API_VERSION),
                   EPROTO);
}

std::string Kvm::Unavailable() {
  try {
    const Kvm kvm;
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

int Kvm::CheckExtension(int capability) const {
  return SLOTZAP_IOCTL(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability))
      .OrThrow();
}

uint64_t Kvm::SupportedVmTypes() const {
  const auto types = static_cast<uint64_t>(CheckExtension(KVM_CAP_VM_TYPES));
  return types != 0 ? types : 1ull << KVM_X86_DEFAULT_VM;
}

bool Kvm::Supports(VmType type) const {
  return (SupportedVmTypes() >> static_cast<uint32_t>(type) & 1) != 0;
}

FileDescriptor Kvm::CreateVm(VmType type) const {
  return FileDescriptor(
      SLOTZAP_IOCTL(fd_.get(), KVM_CREATE_VM, static_cast<unsigned long>(type)).OrThrow());
}

std::vector<kvm_cpuid_entry2> Kvm::SupportedCpuid() const {
  constexpr uint32_t kMaxEntries = 256;
  // A kvm_cpuid2 is followed by its entries.
  std::vector<kvm_cpuid_entry2> buffer(kMaxEntries + 1);
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(buffer.data());
  cpuid->nent = kMaxEntries;
  SLOTZAP_IOCTL(fd_.get(), KVM_GET_SUPPORTED_CPUID, cpuid, "256 entries").OrThrow();
  const auto* entries = reinterpret_cast<const kvm_cpuid_entry2*>(cpuid + 1);
  return {entries, entries + cpuid->nent};
}

uint64_t Kvm::FeatureMsr(uint32_t index) const {
  // A kvm_msrs is followed by its entries.
  struct {
    uint32_t nmsrs;
    uint32_t pad;
    kvm_msr_entry entry;
  } msrs = {1, 0, {.index = index, .reserved = 0, .data = 0}};
  static_assert(sizeof(msrs) == sizeof(kvm_msrs) + sizeof(kvm_msr_entry));
  const KvmStatus status = SLOTZAP_IOCTL(fd_.get(), KVM_GET_MSRS, &msrs, "MSR " + Hex(index));
  // How many were read.
  if (status.OrThrow() != 1) throw KvmError(status.ToString() + ": no such feature MSR", ENOENT);
  return msrs.entry.data;
}

unsigned Kvm::PhysicalAddressBits() const {
  for (const kvm_cpuid_entry2& entry : SupportedCpuid())
    if (entry.function == 0x80000008)
      return (entry.eax >> 16 & 0xff) != 0 ? entry.eax >> 16 & 0xff : entry.eax & 0xff;
  return 36;  // what a processor without the leaf has (SDM volume 3, 4.1.4)
}

uint64_t Kvm::VcpuMmapSize() const {
  return static_cast<uint64_t>(SLOTZAP_IOCTL(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0).OrThrow());
}

}  // namespace slotzap
