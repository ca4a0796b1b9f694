// SPDX-License-Identifier: GPL-2.0-only
// KVM's binary statistics (KVM_GET_STATS_FD), of a VM or of a vCPU.
//
// The ones the tests rely on, with what increments them (arch/x86/kvm):
//   VM:   pages_4k, pages_2m, pages_1g   leaf SPTEs of that size that are present now
//         mmu_shadow_zapped              shadow pages zapped (legacy and shadow MMU)
//         remote_tlb_flush_requests      calls of kvm_flush_remote_tlbs()
//   vCPU: pf_taken, pf_fixed             page faults taken; those that installed an SPTE
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file_descriptor.h"

namespace slotzap {

// All statistics of one object at one moment, by name.
class StatsSnapshot {
 public:
  explicit StatsSnapshot(std::map<std::string, uint64_t> values) : values_(std::move(values)) {}

  // Throws std::out_of_range, naming the statistic, if this kernel has none of that name.
  uint64_t operator[](const std::string& name) const;
  bool has(const std::string& name) const { return values_.contains(name); }

 private:
  std::map<std::string, uint64_t> values_;
};

class Stats {
 public:
  // Takes ownership of what KVM_GET_STATS_FD returned, and reads header and descriptors.
  explicit Stats(FileDescriptor fd);

  StatsSnapshot Read() const;
  uint64_t Read(const std::string& name) const { return Read()[name]; }

 private:
  struct Entry {
    std::string name;
    uint64_t offset;  // of the first value, in the data block
  };

  std::vector<std::byte> ReadAt(uint64_t offset, uint64_t size) const;

  FileDescriptor fd_;
  std::vector<Entry> entries_;
  uint64_t data_offset_ = 0;
  uint64_t data_size_ = 0;
};

}  // namespace slotzap
