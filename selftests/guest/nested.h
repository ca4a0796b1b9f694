// SPDX-License-Identifier: GPL-2.0-only
// A guest of the guest: the agent ("L1") runs it ("L2") by SVM or VMX, so that KVM shadows the page
// tables that L1 has for it.
//
// L2 executes the same commands with the same code as L1, in 64-bit mode at CPL 0.  With nested
// paging it uses L1's page tables for its own, and its guest physical addresses are translated by
// NPT or EPT tables in L1's memory.  Where KVM offers no nested paging (kvm_amd.npt=0,
// kvm_intel.ept=0), L2's own page tables are what is in L1's memory instead.  The tests call either
// "nested tables": what L2 can reach is up to them.
#pragma once

#include <initializer_list>
#include <string>

#include "base/range.h"
#include "guest/guest.h"
#include "guest/page_tables.h"
#include "kvm/kvm.h"

namespace slotzap {

// What KVM offers its guests for running guests.
struct NestedSupport {
  guest::Virtualization kind = guest::Virtualization::kNone;
  TableFormat format = TableFormat::kGuest;  // of nested tables; kGuest: there is no nested paging
  bool paging() const { return format != TableFormat::kGuest; }
};

// By the CPUID leaves of AMD APM volume 2, 15.4 and 15.25.1, and of Intel SDM volume 3, 24.6; EPT
// by the VMX capability MSRs (appendix A).
NestedSupport DetectNested(const Kvm& kvm);

// What L1 has to put where the CPU expects the root of nested tables: N_CR3, EPTP (Intel SDM volume
// 3, 25.6.11) or CR3.
uint64_t NestedRoot(const PageTables& tables);

class NestedGuest {
 public:
  // `l1` is to run a guest on `nested` tables, which have to map what every guest needs: all below
  // kNeeded, at the same addresses.  `l1_tables` are L1's own, which map L2's virtual addresses if
  // there is nested paging.  L1's memory at guest::kNestedGpa has to be there, and is used.
  NestedGuest(Guest& l1, const NestedSupport& support, const PageTables& nested,
              const PageTables& l1_tables);

  // The agent, L1's page tables, and what is at guest::kNestedGpa.
  static constexpr GpaRange kNeeded = {0, 4ull << 20};

  Guest& l1() { return l1_; }

  // With other nested tables from the next command on.
  void UseTables(const PageTables& nested);

  // Whether L2 is started again, with the same command from the beginning, whenever it ends by a
  // fault or a shutdown.  The outcome tells how often that was.  For VerifyLoop: other commands
  // would never end.
  void set_restart(bool restart) { run_.restart = restart ? 1 : 0; }

  // As Guest's, but executed in L2.  Not done if L2 ends otherwise, see Outcome::nested_exit; L1 is
  // fine then.
  Outcome Read(Gpa gpa);
  Outcome Write(Gpa gpa, uint64_t value);
  Outcome TouchRead(std::initializer_list<GpaRange> ranges);
  Outcome TouchWrite(std::initializer_list<GpaRange> ranges);
  Outcome Fill(std::initializer_list<Pattern> patterns);
  Outcome Verify(std::initializer_list<Pattern> patterns);
  Outcome Nop();

  // What L1 is told to do while it exists is done in L2.
  class Scope {
   public:
    explicit Scope(NestedGuest& l2) : l1_(l2.l1_) { l1_.nested_ = l2.run_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { l1_.nested_ = {}; }

   private:
    Guest& l1_;
  };

 private:
  Guest& l1_;
  bool paging_;
  guest::NestedRun run_ = {};
};

}  // namespace slotzap
