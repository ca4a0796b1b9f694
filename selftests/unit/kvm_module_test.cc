// SPDX-License-Identifier: GPL-2.0-only
#include "host/kvm_module.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "unit/temp_dir.h"

namespace slotzap {
namespace {

TEST(MmuMode, NamesGoBothWays) {
  for (const MmuMode mode : {MmuMode::kTdp, MmuMode::kLegacy, MmuMode::kShadow})
    EXPECT_EQ(MmuModeFromString(ToString(mode)), mode);
  EXPECT_THROW(MmuModeFromString("ept"), std::invalid_argument);
}

TEST(DetectKvmModule, Svm) {
  const TempDir sys;
  sys.Write("kvm/parameters/tdp_mmu", "Y\n");
  sys.Write("kvm_amd/parameters/npt", "Y\n");
  sys.Write("kvm_amd/parameters/nested", "1\n");
  EXPECT_EQ(DetectKvmModule(sys.path()), (KvmModule{"svm", MmuMode::kTdp, true}));

  sys.Write("kvm/parameters/tdp_mmu", "N\n");
  EXPECT_EQ(DetectKvmModule(sys.path()).mode, MmuMode::kLegacy);

  sys.Write("kvm/parameters/tdp_mmu", "Y\n");
  sys.Write("kvm_amd/parameters/npt", "N\n");
  EXPECT_EQ(DetectKvmModule(sys.path()).mode, MmuMode::kShadow);
}

TEST(DetectKvmModule, VmxOfAKernelWithoutTdpMmu) {
  const TempDir sys;
  sys.Write("kvm_intel/parameters/ept", "1\n");
  sys.Write("kvm_intel/parameters/nested", "0\n");
  EXPECT_EQ(DetectKvmModule(sys.path()), (KvmModule{"vmx", MmuMode::kLegacy, false}));
}

TEST(DetectKvmModule, NoVendorModuleIsAnError) {
  const TempDir sys;
  sys.Write("kvm/parameters/tdp_mmu", "Y\n");
  EXPECT_THROW(DetectKvmModule(sys.path()), std::runtime_error);
}

TEST(CpuEmulator, BochsIsKnownByItsBios) {
  const TempDir dmi;
  const std::string without = CpuEmulator(dmi.path());
  if (without == "tcg") GTEST_SKIP() << "runs under TCG, which is recognised by CPUID";
  EXPECT_EQ(without, "");
  dmi.Write("bios_vendor", "The Bochs Project\n");
  EXPECT_EQ(CpuEmulator(dmi.path()), "bochs");
}

}  // namespace
}  // namespace slotzap
