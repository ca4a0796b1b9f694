// SPDX-License-Identifier: GPL-2.0-only
// The software RMP that this project's series adds to Linux 6.12 (arch/x86/kvm/mmu/sw_rmp.c, its
// Documentation/virt/kvm/x86/sw-rmp.rst): parameters of the module kvm.
#pragma once

#include <cstdint>
#include <string>

namespace slotzap {

// While it exists, software-protected VMs are created with a software RMP.  Puts every parameter
// back when destroyed.
class SwRmp {
 public:
  static constexpr char kParameters[] = "/sys/module/kvm/parameters";

  // Why there is none, or an empty string.
  static std::string Unavailable(const std::string& parameters = kParameters);

  explicit SwRmp(std::string parameters = kParameters);
  SwRmp(const SwRmp&) = delete;
  SwRmp& operator=(const SwRmp&) = delete;
  ~SwRmp();

  // Pages, over all VMs.
  uint64_t pages() const { return Number("pages"); }        // in the table
  uint64_t assigned() const { return Number("assigned"); }  // private to a VM
  uint64_t unmapped() const { return Number("unmapped"); }  // out of the host's direct map
  // Mappings that disagreed with the table, since this object exists.
  uint64_t refused() const { return Number("refused") - refused_before_; }
  // Changes of attributes that wait in the window that HoldWindow() keeps open.
  uint64_t held() const { return Number("held"); }

  // Keeps whoever sets attributes waiting between storing them and updating the table.
  void HoldWindow() { Write("sw_rmp_hold", "Y"); }
  void ReleaseWindow() { Write("sw_rmp_hold", "N"); }

  // The next time memory turns private, preparing it fails after `pages` pages, with EIO.
  void FailAfter(uint64_t pages) { Write("sw_rmp_fail_after", std::to_string(pages)); }

 private:
  uint64_t Number(const std::string& name) const;
  void Write(const std::string& parameter, const std::string& value) const;

  std::string parameters_;
  std::string was_;
  uint64_t refused_before_;
};

}  // namespace slotzap
