// SPDX-License-Identifier: GPL-2.0-only
// kvm.nx_huge_pages: whether huge pages are never executable (the iTLB multihit mitigation).
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
  static bool Available() { return FileExists(kPath); }

 private:
  static constexpr char kPath[] = "/sys/module/kvm/parameters/nx_huge_pages";
  static std::string Spelled(const std::string& value) { return value == "Y" ? "force" : "off"; }
  const std::string old_;
};

}  // namespace slotzap
