// SPDX-License-Identifier: GPL-2.0-only
// kvm.nx_huge_pages: whether huge pages are never executable (the iTLB multihit mitigation).  A
// huge page that the guest executes from is split; a thread per VM gives the small ones up again.
#pragma once

#include <string>

#include "base/file_descriptor.h"

namespace slotzap {

// Sets kvm.nx_huge_pages and puts the old value back.
class NxHugePages {
 public:
  NxHugePages() : old_(ReadLine(kPath)) {}
  ~NxHugePages() { WriteFile(kPath, Spelled(old_)); }
  NxHugePages(const NxHugePages&) = delete;
  NxHugePages& operator=(const NxHugePages&) = delete;

  void Toggle() const { WriteFile(kPath, old_ == "Y" ? "off" : "force"); }
  void Force() const { WriteFile(kPath, "force"); }
  static bool Available() { return FileExists(kPath); }

 private:
  static constexpr char kPath[] = "/sys/module/kvm/parameters/nx_huge_pages";
  static std::string Spelled(const std::string& value) { return value == "Y" ? "force" : "off"; }
  const std::string old_;
};

// While the object lives, every VM's recovery thread gives up all split pages (ratio 1) each
// millisecond, not a 60th of them each minute.  KVM wakes the threads when that begins.
class NxRecovery {
 public:
  NxRecovery() : old_ratio_(ReadLine(Path("ratio"))), old_period_(ReadLine(Path("period_ms"))) {
    WriteFile(Path("ratio"), "1");
    WriteFile(Path("period_ms"), "1");
  }
  ~NxRecovery() {
    WriteFile(Path("period_ms"), old_period_);
    WriteFile(Path("ratio"), old_ratio_);
  }
  NxRecovery(const NxRecovery&) = delete;
  NxRecovery& operator=(const NxRecovery&) = delete;

  static bool Available() { return FileExists(Path("ratio")) && FileExists(Path("period_ms")); }

 private:
  static std::string Path(const std::string& parameter) {
    return "/sys/module/kvm/parameters/nx_huge_pages_recovery_" + parameter;
  }
  const std::string old_ratio_;
  const std::string old_period_;
};

}  // namespace slotzap
