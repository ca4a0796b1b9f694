// SPDX-License-Identifier: GPL-2.0-only
// What is measured, by name: agreed on by slotzap-bench, which measures, and "slotzap bench-table",
// which misses what wasn't.  A name is ROW/KEY:VALUE/KEY:VALUE...
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace slotzap {

// "4KiB"; "0"
std::string SizeName(uint64_t bytes);

// Deleting a slot that no guest has touched.
struct UntouchedCase {
  uint64_t size;       // bytes; the largest is cut where guest physical addresses end
  uint64_t elsewhere;  // bytes that the guest uses beside it
  bool nested;         // the guest has run a guest, which used the same
  std::string Name(bool slot_zap_all) const;
  std::string Text() const;  // as a person would say it
};
std::vector<UntouchedCase> UntouchedCases();

// The guest touches everything again after a slot went.
struct RefaultCase {
  uint64_t size;
  bool touched;  // all of the slot
  bool nested;
  std::string Name(bool slot_zap_all) const;
  std::string Text() const;
};
std::vector<RefaultCase> RefaultCases();

// Deleting a slot of 4 KiB beside 1 GiB that is in use; deleting a slot all of which is mapped.
std::string SmallName(bool slot_zap_all);
std::string LeafName(bool slot_zap_all);

// For how long mmu_lock is held while a slot is deleted.
struct LockCase {
  static constexpr uint64_t kElsewhere = 64ull << 20;  // bytes that the guest uses beside it
  uint64_t size;
  uint64_t touched;  // bytes of it
  std::string Name(bool slot_zap_all) const;
};
// The touched amounts, and the sizes, of which the larger one may not cost more.
std::vector<LockCase> LockCases();
std::vector<uint64_t> LockTouched();
inline constexpr uint64_t kLockSmallSize = 4ull << 30;
inline constexpr uint64_t kLockLargeSize = 1024ull << 30;

// A vCPU faults while a slot, all of which is mapped, is deleted.
struct FaultCase {
  uint64_t size;
  std::string Name(bool slot_zap_all) const;
  std::string Text() const;
};
std::vector<FaultCase> FaultCases();

// Small slots come and go in many places below kGrowthEnd.
std::string GrowthName(bool slot_zap_all);
inline constexpr uint64_t kGrowthEnd = 1024ull << 30;
inline constexpr uint64_t kGrowthFewRounds = 100;
inline constexpr uint64_t kGrowthRounds = 100'000;

}  // namespace slotzap
