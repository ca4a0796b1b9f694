// SPDX-License-Identifier: GPL-2.0-only
#include "tests/slot_test.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "harness/main.h"
#include "host/huge_pages.h"

namespace slotzap {

TestVm::TestVm(const GuestVmConfig& config) : GuestVm(config) {
  SetHangReporter([this] {
    std::string text;
    for (unsigned i = 0; i < vcpus(); i++) text += guest(i).Describe() + "\n";
    return text;
  });
}

TestVm::~TestVm() { SetHangReporter(nullptr); }

void TestVm::MapOwnMemory() {
  const Outcome outcome = guest().TouchRead({agent_slot().range(), tables_slot().range()});
  if (!outcome.done) throw std::runtime_error("the guest can't read its own: " + outcome.exit_text);
}

MemorySlot TestVm::AddFilledSlot(Gpa gpa, uint64_t size, uint64_t seed, Backing backing) {
  MemorySlot slot = AddSlot(gpa, size, backing);
  FillMemory(slot.memory(), {.start = gpa, .pages = size / kPageSize, .seed = seed});
  return slot;
}

Pattern PatternOf(const MemorySlot& slot, uint64_t seed) {
  return {.range = slot.range(), .seed = seed};
}

void FillMemory(const GuestMemory& memory, const guest::Range& range, uint64_t offset) {
  for (uint64_t i = 0; i < range.pages * kPageSize / 8; i++)
    memory.Store(offset + i * 8, guest::PatternWord(range, i));
}

MmuMode CurrentMmuMode() {
  static const MmuMode mode = DetectKvmModule().mode;
  return mode;
}

bool KernelIsAtLeast(const char* version) {
  utsname system = {};
  uname(&system);
  return strverscmp(system.release, version) >= 0;
}

std::string QuirkUnavailable() {
  const Kvm kvm;
  if ((kvm.CheckExtension(KVM_CAP_DISABLE_QUIRKS2) & static_cast<int>(kQuirkSlotZapAll)) == 0)
    return "this kernel has no KVM_X86_QUIRK_SLOT_ZAP_ALL";
  return "";
}

std::string BackingUnavailable(Backing backing, uint64_t pages) {
  if (backing == Backing::k4K) return "";
  const uint64_t size = BackingPageSize(backing);
  const uint64_t available = FreeHugePages(size);
  if (available >= pages) return "";
  return "needs " + std::to_string(pages) + " free huge pages of " + SizeString(size) + ", has " +
         std::to_string(available);
}

bool HasSeries() {
  return Kvm::Unavailable().empty() && Kvm().CheckExtension(KVM_CAP_X86_QUIRKS_IN_EFFECT) != 0;
}

std::string KnownBug(const std::string& what) {
  const char* run = std::getenv("SLOTZAP_KNOWN_BUGS");
  if (HasSeries() || (run != nullptr && std::strcmp(run, "1") == 0)) return "";
  return "known bug: " + what + " (SLOTZAP_KNOWN_BUGS=1 runs this test)";
}

uint64_t FewestFlushes(TestVm& vm, const std::function<void()>& map,
                       const std::function<void()>& zap) {
  constexpr int kTimes = 5;
  const auto requests = [&] { return vm.vm().stats().Read("remote_tlb_flush_requests"); };
  uint64_t fewest = std::numeric_limits<uint64_t>::max();
  for (int i = 0; i < kTimes; i++) {
    map();
    const uint64_t before = requests();
    zap();
    fewest = std::min(fewest, requests() - before);
  }
  return fewest;
}

std::string SlotTestUnavailable(bool slot_zap_all) {
  const std::string reason = Kvm::Unavailable();
  return !reason.empty() || slot_zap_all ? reason : QuirkUnavailable();
}

void SlotTest::SetUp() {
  if (const std::string reason = SlotTestUnavailable(slot_zap_all()); !reason.empty())
    GTEST_SKIP() << reason;
}

std::string QuirkName(const testing::TestParamInfo<bool>& info) {
  return info.param ? "ZapAll" : "LeafOnly";
}

}  // namespace slotzap
