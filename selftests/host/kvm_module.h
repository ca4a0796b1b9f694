// SPDX-License-Identifier: GPL-2.0-only
// Which KVM is loaded, and how its MMU works.
#pragma once

#include <string>
#include <string_view>

namespace slotzap {

// How KVM builds the page tables that translate a guest's physical addresses.
enum class MmuMode {
  kTdp,     // two-dimensional paging, TDP MMU
  kLegacy,  // two-dimensional paging, direct shadow pages (kvm.tdp_mmu=0)
  kShadow,  // shadow paging (kvm_amd.npt=0, kvm_intel.ept=0)
};

std::string ToString(MmuMode mode);  // "tdp", "legacy", "shadow"
// Throws std::invalid_argument that lists the right names.
MmuMode MmuModeFromString(std::string_view name);

struct KvmModule {
  std::string vendor;  // "svm" or "vmx"
  MmuMode mode = MmuMode::kTdp;
  bool nested = false;  // guests may run guests

  bool operator==(const KvmModule&) const = default;
};

// Reads the parameters of the loaded modules.  Throws std::runtime_error if no KVM is loaded.
KvmModule DetectKvmModule(const std::string& sysfs_root = "/sys/module");

// What emulates this machine's processor in software: "tcg" (QEMU), "bochs", or "" for none that
// is known.  Times measured under an emulator are no times.
std::string CpuEmulator(const std::string& dmi_root = "/sys/class/dmi/id");

}  // namespace slotzap
