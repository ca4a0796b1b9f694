// SPDX-License-Identifier: GPL-2.0-only
#include "guest/nested.h"

#include <algorithm>

namespace slotzap {
namespace {

using guest::Virtualization;

const kvm_cpuid_entry2* Find(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function) {
  const auto it = std::find_if(entries.begin(), entries.end(),
                               [&](const kvm_cpuid_entry2& e) { return e.function == function; });
  return it != entries.end() ? &*it : nullptr;
}

// IA32_VMX_PROCBASED_CTLS[63]: there are secondary controls; of these, IA32_VMX_PROCBASED_CTLS2[33]
// is EPT.
bool HasEpt(const Kvm& kvm) {
  constexpr uint32_t kControls = 0x482;
  constexpr uint32_t kControls2 = 0x48b;
  return (kvm.FeatureMsr(kControls) >> 63 & 1) != 0 && (kvm.FeatureMsr(kControls2) >> 33 & 1) != 0;
}

}  // namespace

NestedSupport DetectNested(const Kvm& kvm) {
  const std::vector<kvm_cpuid_entry2> cpuid = kvm.SupportedCpuid();
  const kvm_cpuid_entry2* amd = Find(cpuid, 0x80000001);
  if (amd != nullptr && (amd->ecx & 1u << 2) != 0) {
    const kvm_cpuid_entry2* svm = Find(cpuid, 0x8000000a);
    const bool npt = svm != nullptr && (svm->edx & 1u << 0) != 0;
    return {Virtualization::kSvm, npt ? TableFormat::kNpt : TableFormat::kGuest};
  }
  const kvm_cpuid_entry2* intel = Find(cpuid, 1);
  if (intel != nullptr && (intel->ecx & 1u << 5) != 0)
    return {Virtualization::kVmx, HasEpt(kvm) ? TableFormat::kEpt : TableFormat::kGuest};
  return {};
}

uint64_t NestedRoot(const PageTables& tables) {
  constexpr uint64_t kWriteBack = 6;
  constexpr uint64_t kFourLevels = 3ull << 3;
  return tables.root() | (tables.format() == TableFormat::kEpt ? kWriteBack | kFourLevels : 0);
}

NestedGuest::NestedGuest(Guest& l1, const NestedSupport& support, const PageTables& nested,
                         const PageTables& l1_tables)
    : l1_(l1), paging_(support.paging()) {
  run_.kind = support.kind;
  run_.block = guest::kNestedGpa + l1.vcpu().id() * guest::kNestedBlockSize;
  run_.cr3 = l1_tables.root();
  UseTables(nested);
}

void NestedGuest::UseTables(const PageTables& nested) {
  (paging_ ? run_.nested_root : run_.cr3) = NestedRoot(nested);
}

Outcome NestedGuest::Read(Gpa gpa) {
  const Scope scope(*this);
  return l1_.Read(gpa);
}

Outcome NestedGuest::Write(Gpa gpa, uint64_t value) {
  const Scope scope(*this);
  return l1_.Write(gpa, value);
}

Outcome NestedGuest::TouchRead(std::initializer_list<GpaRange> ranges) {
  const Scope scope(*this);
  return l1_.TouchRead(ranges);
}

Outcome NestedGuest::TouchWrite(std::initializer_list<GpaRange> ranges) {
  const Scope scope(*this);
  return l1_.TouchWrite(ranges);
}

Outcome NestedGuest::Fill(std::initializer_list<Pattern> patterns) {
  const Scope scope(*this);
  return l1_.Fill(patterns);
}

Outcome NestedGuest::Verify(std::initializer_list<Pattern> patterns) {
  const Scope scope(*this);
  return l1_.Verify(patterns);
}

Outcome NestedGuest::Nop() {
  const Scope scope(*this);
  return l1_.Nop();
}

}  // namespace slotzap
