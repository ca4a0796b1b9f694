// SPDX-License-Identifier: GPL-2.0-only
#include "bench/cases.h"

#include <algorithm>

#include "base/range.h"

namespace slotzap {
namespace {

using namespace literals;

std::string Quirk(bool slot_zap_all) {
  return std::string("/quirk:") + (slot_zap_all ? "on" : "off");
}

std::string Nested(bool nested) { return std::string("/nested:") + (nested ? "yes" : "no"); }

}  // namespace

std::string SizeName(uint64_t bytes) {
  std::string name = bytes == 0 ? "0" : SizeString(bytes);
  name.erase(std::remove(name.begin(), name.end(), ' '), name.end());
  return name;
}

std::string UntouchedCase::Name(bool slot_zap_all) const {
  return "untouched/size:" + SizeName(size) + "/elsewhere:" + SizeName(elsewhere) + Nested(nested) +
         Quirk(slot_zap_all);
}

std::string UntouchedCase::Text() const {
  return SizeString(size) + ", " + (elsewhere == 0 ? "nothing" : SizeString(elsewhere)) +
         " elsewhere" + (nested ? ", nested" : "");
}

std::vector<UntouchedCase> UntouchedCases() {
  std::vector<UntouchedCase> cases;
  for (const uint64_t elsewhere : {uint64_t{0}, 64_MiB})
    for (const bool nested : {false, true})
      for (const uint64_t size : {4_KiB, 2_MiB, 64_MiB, 1_GiB, 4_GiB, 16_GiB, 64_GiB, 1024_GiB})
        cases.push_back({size, elsewhere, nested});
  return cases;
}

std::string RefaultCase::Name(bool slot_zap_all) const {
  return "refaults/size:" + SizeName(size) + "/touched:" + (touched ? "all" : "no") +
         Nested(nested) + Quirk(slot_zap_all);
}

std::string RefaultCase::Text() const {
  return SizeString(size) + (touched ? ", touched" : ", untouched") + (nested ? ", nested" : "");
}

std::vector<RefaultCase> RefaultCases() {
  std::vector<RefaultCase> cases;
  for (const bool nested : {false, true}) {
    for (const uint64_t size : {4_KiB, 64_MiB}) cases.push_back({size, true, nested});
    cases.push_back({64_GiB, false, nested});
  }
  return cases;
}

std::string SmallName(bool slot_zap_all) { return "small" + Quirk(slot_zap_all); }

std::string LeafName(bool slot_zap_all) { return "leaf" + Quirk(slot_zap_all); }

std::string LockCase::Name(bool slot_zap_all) const {
  return "lock/size:" + SizeName(size) + "/touched:" + SizeName(touched) + Quirk(slot_zap_all);
}

std::vector<uint64_t> LockTouched() { return {0, 64_MiB}; }

std::vector<LockCase> LockCases() {
  std::vector<LockCase> cases;
  for (const uint64_t touched : LockTouched())
    for (const uint64_t size : {kLockSmallSize, kLockLargeSize}) cases.push_back({size, touched});
  return cases;
}

std::string FaultCase::Name(bool slot_zap_all) const {
  return "fault/size:" + SizeName(size) + Quirk(slot_zap_all);
}

std::string FaultCase::Text() const { return SizeString(size) + ", touched"; }

std::vector<FaultCase> FaultCases() { return {{256_MiB}, {1_GiB}}; }

std::string GrowthName(bool slot_zap_all) { return "growth" + Quirk(slot_zap_all); }

}  // namespace slotzap
