// SPDX-License-Identifier: GPL-2.0-only
#include "bench/bench_vm.h"

#include <algorithm>
#include <stdexcept>

namespace slotzap {
namespace {

void Check(const Outcome& outcome) {
  if (!outcome.done || outcome.mmio_count != 0)
    throw std::runtime_error("the guest could not touch its memory: " + outcome.exit_text);
}

}  // namespace

BenchVm::BenchVm(const BenchVmConfig& config)
    : GuestVm({.slot_zap_all = config.slot_zap_all, .vcpus = config.vcpus}) {
  if (config.elsewhere != 0) elsewhere_ = AddSlot(kElsewhere, config.elsewhere);
  if (!config.nested) return;

  const NestedSupport support = DetectNested(vm().kvm());
  if (support.kind == guest::Virtualization::kNone)
    throw std::runtime_error("guests can't run guests here");
  nested_memory_ = AddSlot(guest::kNestedGpa, guest::kNestedSize);
  nested_tables_slot_ = AddSlot(kNestedTables, kNestedTablesSize);
  nested_tables_.emplace(*nested_tables_slot_, nested_tables_slot_->range(), support.format);
  nested_tables_->MapIdentity(NestedGuest::kNeeded, GuestPageSize::k2M);
  if (elsewhere_) nested_tables_->MapIdentity(elsewhere_->range(), GuestPageSize::k4K);
  nested_ = std::make_unique<NestedGuest>(guest(), support, *nested_tables_, tables());
}

void BenchVm::TouchElsewhere() {
  Check(guest().TouchRead({agent_slot().range(), tables_slot().range()}));
  if (elsewhere_) Touch(elsewhere_->range());
  if (!nested_) return;
  Check(nested_->Nop());
  if (elsewhere_) Check(nested_->TouchWrite({elsewhere_->range()}));
}

void BenchVm::WarmUp() {
  TouchElsewhere();
  MemorySlot slot = AddVictim(kPageSize);
  Touch(slot.range());
  slot.Delete();
}

void BenchVm::Touch(GpaRange range) { Check(guest().TouchWrite({range})); }

MemorySlot BenchVm::AddSparseVictim(uint64_t size) {
  const Gpa end = std::min(kVictim + size, Gpa{1} << vm().kvm().PhysicalAddressBits());
  return vm().AddSlot({.gpa = kVictim, .memory = GuestMemory::Sparse(end - kVictim)});
}

}  // namespace slotzap
