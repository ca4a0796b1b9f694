// SPDX-License-Identifier: GPL-2.0-only
#include "cli/measure.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <vector>

#include "cli/machine.h"
#include "guest/guest_vm.h"
#include "oracle/zap_watch.h"

namespace slotzap {
namespace {

constexpr Gpa kVictim = 1ull << 30;
constexpr Gpa kResident = 2ull << 30;
constexpr Gpa kElsewhere = 3ull << 30;

void Check(const Outcome& outcome) {
  if (!outcome.done || outcome.mmio_count != 0)
    throw std::runtime_error("the guest could not touch its memory: " + outcome.exit_text);
}

struct Update {
  std::string name;
  std::function<void(MemorySlot&)> apply;
  std::function<void(MemorySlot&)> revert;
};

UpdateCost MeasureUpdate(const MeasureConfig& config, const Update& update, bool slot_zap_all) {
  GuestVm vm({.slot_zap_all = slot_zap_all});
  MemorySlot resident = vm.AddSlot(kResident, config.resident_bytes);
  MemorySlot victim = vm.AddSlot(kVictim, config.victim_bytes);

  UpdateCost cost;
  cost.rounds = config.rounds;
  std::vector<uint64_t> times;
  for (unsigned round = 0; round < config.rounds; round++) {
    Check(vm.guest().TouchWrite({resident.range(), victim.range()}));

    // Traced once: recording events takes time itself.
    std::unique_ptr<ZapWatch> watch;
    if (round == 0) watch = std::make_unique<ZapWatch>(vm.vm());
    const auto begin = std::chrono::steady_clock::now();
    update.apply(victim);
    const auto end = std::chrono::steady_clock::now();
    if (watch) {
      const ZapReport report = watch->Stop();
      cost.present_sptes = static_cast<uint64_t>(report.before.total());
      cost.victim_sptes = victim.range().pages();
      cost.zapped_sptes = static_cast<uint64_t>(report.dropped().total());
      cost.zapped_pages = report.shadow_pages.size();
      cost.pages_counted = report.untraced.empty();
      const uint64_t faults = vm.FixedFaults();
      Check(vm.guest().TouchWrite({resident.range()}));
      cost.refaults = vm.FixedFaults() - faults;
    } else {
      times.push_back(static_cast<uint64_t>(
          std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count()));
    }
    update.revert(victim);
  }
  std::sort(times.begin(), times.end());
  if (!times.empty()) cost.host_ns = times[times.size() / 2];
  return cost;
}

}  // namespace

ModeReport Measure(const MeasureConfig& config) {
  if (config.rounds < 2) throw std::invalid_argument("at least 2 rounds: the first is traced");
  ModeReport report;
  const Machine machine = DescribeMachine();
  report.mode = machine.mode;
  report.vendor = machine.vendor;
  report.kernel = machine.kernel;
  report.host = machine.host;

  const Kvm kvm;
  if ((kvm.CheckExtension(KVM_CAP_DISABLE_QUIRKS2) & static_cast<int>(kQuirkSlotZapAll)) == 0) {
    report.skipped = "this kernel has no KVM_X86_QUIRK_SLOT_ZAP_ALL";
    return report;
  }
  const std::vector<Update> updates = {
      {"delete", [](MemorySlot& s) { s.Delete(); }, [](MemorySlot& s) { s.Add(); }},
      {"move", [](MemorySlot& s) { s.MoveTo(kElsewhere); },
       [](MemorySlot& s) { s.MoveTo(kVictim); }},
  };
  for (const Update& update : updates)
    report.comparisons.push_back(
        {update.name, MeasureUpdate(config, update, true), MeasureUpdate(config, update, false)});
  return report;
}

}  // namespace slotzap
