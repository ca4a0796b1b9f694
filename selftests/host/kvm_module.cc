// SPDX-License-Identifier: GPL-2.0-only
#include "host/kvm_module.h"

#include <cpuid.h>

#include <array>
#include <cstring>
#include <stdexcept>

#include "base/file_descriptor.h"

namespace slotzap {
namespace {

constexpr std::array<MmuMode, 3> kModes = {MmuMode::kTdp, MmuMode::kLegacy, MmuMode::kShadow};

// A boolean module parameter; false if the module has none of that name.
bool Parameter(const std::string& path) {
  if (!FileExists(path)) return false;
  const std::string value = ReadLine(path);
  return value == "Y" || value == "1";
}

}  // namespace

std::string ToString(MmuMode mode) {
  switch (mode) {
    case MmuMode::kTdp:
      return "tdp";
    case MmuMode::kLegacy:
      return "legacy";
    case MmuMode::kShadow:
      break;
  }
  return "shadow";
}

MmuMode MmuModeFromString(std::string_view name) {
  for (const MmuMode mode : kModes)
    if (name == ToString(mode)) return mode;
  throw std::invalid_argument("no MMU mode '" + std::string(name) + "': tdp, legacy or shadow");
}

KvmModule DetectKvmModule(const std::string& sysfs_root) {
  KvmModule kvm;
  std::string paging;
  std::string vendor_parameters;
  if (FileExists(sysfs_root + "/kvm_amd")) {
    kvm.vendor = "svm";
    vendor_parameters = sysfs_root + "/kvm_amd/parameters/";
    paging = "npt";
  } else if (FileExists(sysfs_root + "/kvm_intel")) {
    kvm.vendor = "vmx";
    vendor_parameters = sysfs_root + "/kvm_intel/parameters/";
    paging = "ept";
  } else {
    throw std::runtime_error("no KVM is loaded: neither kvm_amd nor kvm_intel is in " + sysfs_root);
  }
  // tdp_mmu keeps its value when there is no two-dimensional paging for it to manage.
  if (!Parameter(vendor_parameters + paging))
    kvm.mode = MmuMode::kShadow;
  else if (!Parameter(sysfs_root + "/kvm/parameters/tdp_mmu"))
    kvm.mode = MmuMode::kLegacy;
  kvm.nested = Parameter(vendor_parameters + "nested");
  return kvm;
}

std::string CpuEmulator(const std::string& dmi_root) {
  constexpr unsigned kHypervisorLeaf = 0x40000000;
  unsigned eax = 0;
  std::array<unsigned, 3> name = {};
  __cpuid(kHypervisorLeaf, eax, name[0], name[1], name[2]);
  if (std::memcmp(name.data(), "TCGTCGTCGTCG", sizeof(name)) == 0) return "tcg";
  // Bochs has no such leaf, but brings its own BIOS.
  const std::string vendor = dmi_root + "/bios_vendor";
  if (FileExists(vendor) && ReadLine(vendor).find("Bochs") != std::string::npos) return "bochs";
  return {};
}

}  // namespace slotzap
