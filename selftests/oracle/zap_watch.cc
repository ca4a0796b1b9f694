// SPDX-License-Identifier: GPL-2.0-only
#include "oracle/zap_watch.h"

#include <algorithm>
#include <memory>
#include <ostream>
#include <sstream>
#include <stdexcept>

namespace slotzap {
namespace {

constexpr unsigned kBufferKb = 16384;

// Making a tracefs instance takes much longer than a test, so all watches share one.
struct Tracer {
  Tracer() : unavailable(TraceInstance::Available()) {
    if (!unavailable.empty()) return;
    instance = std::make_unique<TraceInstance>("slotzap");
    instance->SetBufferKb(kBufferKb);
    for (const char* event : {"kvmmmu:kvm_mmu_zap_all_fast", "kvmmmu:kvm_mmu_prepare_zap_page",
                              "kvmmmu:kvm_tdp_mmu_spte_changed", "kvm:kvm_unmap_hva_range"})
      instance->Enable(event);
    if (constexpr char kEvent[] = "kvmmmu:kvm_mmu_zap_memslot"; instance->HasEvent(kEvent))
      instance->Enable(kEvent);
  }

  std::string unavailable;
  std::unique_ptr<TraceInstance> instance;
};

Tracer& SharedTracer() {
  static Tracer tracer;
  return tracer;
}

void Decode(const std::vector<TraceEvent>& events, ZapReport& report) {
  for (const TraceEvent& event : events) {
    if (const auto change = DecodeSpteChanged(event)) {
      // An SPTE that still points to something, e.g. write protection, wasn't zapped.
      if (!IsPresentSpte(change->old_spte) || IsPresentSpte(change->new_spte)) continue;
      (IsLeaf(change->old_spte, change->level) ? report.leaves : report.tables).push_back(*change);
    } else if (const auto page = DecodePreparedZapPage(event)) {
      report.shadow_pages.push_back(*page);
    } else if (const auto slot = DecodeZapMemslot(event)) {
      report.slots.push_back(*slot);
    } else if (const auto range = DecodeUnmapHvaRange(event)) {
      report.host_unmaps.push_back(*range);
    } else if (IsZapAllFast(event)) {
      report.zap_all++;
    }
  }
}

}  // namespace

void ZapReport::SortOutEmptied() {
  // What an SPTE of `level` maps, or a table of the level below.
  const auto of_slot_that_went = [this](uint64_t gfn, int level) {
    const uint64_t end = gfn + (1ull << (level - 1) * 9);
    return std::any_of(slots.begin(), slots.end(), [&](const ZapMemslot& slot) {
      return !slot.all && gfn < slot.base_gfn + slot.npages && slot.base_gfn < end;
    });
  };
  const size_t of_tdp_mmu = std::erase_if(
      tables, [&](const SpteChanged& entry) { return of_slot_that_went(entry.gfn, entry.level); });
  std::erase_if(shadow_pages, [&](const PreparedZapPage& page) {
    const bool is =
        page.direct && page.root_count == 0 && of_slot_that_went(page.gfn, page.level + 1);
    if (is) emptied.push_back(page);
    return is;
  });
  // The TDP MMU's page tables aren't in the statistics.
  shadow_zapped -= std::min<uint64_t>(shadow_zapped, emptied.size() - of_tdp_mmu);
}

bool IsPresentSpte(uint64_t spte) { return (spte & 1ull << 11) != 0; }

bool IsLeaf(uint64_t spte, int level) { return level == 1 || (spte & 1ull << 7) != 0; }

Leaves PresentLeaves(const StatsSnapshot& stats) {
  return {static_cast<int64_t>(stats["pages_4k"]), static_cast<int64_t>(stats["pages_2m"]),
          static_cast<int64_t>(stats["pages_1g"])};
}

std::ostream& operator<<(std::ostream& os, const Leaves& leaves) {
  return os << leaves.k4K << " of 4 KiB, " << leaves.k2M << " of 2 MiB, " << leaves.k1G
            << " of 1 GiB";
}

std::string ZapReport::ToString() const {
  std::ostringstream os;
  os << "leaf SPTEs before: " << before << "; after: " << after
     << "; TLB flush requests: " << flush_requests << "; mmu_shadow_zapped: " << shadow_zapped;
  if (!untraced.empty()) {
    os << "; not traced: " << untraced;
    return os.str();
  }
  os << "; traced: zap-all " << zap_all << ", TDP leaves " << leaves.size() << ", TDP tables "
     << tables.size() << ", shadow pages " << shadow_pages.size() << ", emptied page tables "
     << emptied.size() << ", host unmaps " << host_unmaps.size();
  constexpr size_t kShown = 8;
  for (size_t i = 0; i < leaves.size() && i < kShown; i++)
    os << (i == 0 ? "; first leaves at gfn" : ",") << " " << Hex(leaves[i].gfn) << " level "
       << leaves[i].level;
  for (size_t i = 0; i < shadow_pages.size() && i < kShown; i++)
    os << (i == 0 ? "; first shadow pages of gfn" : ",") << " " << Hex(shadow_pages[i].gfn)
       << " level " << shadow_pages[i].level << (shadow_pages[i].direct ? " direct" : "");
  return os.str();
}

std::ostream& operator<<(std::ostream& os, const ZapReport& report) {
  return os << report.ToString();
}

ZapWatch::ZapWatch(Vm& vm) : vm_(vm), before_(vm.stats().Read()) {
  if (TraceInstance* instance = SharedTracer().instance.get()) {
    instance->Clear();
    instance->Start();
    recording_ = true;
  }
}

ZapWatch::~ZapWatch() {
  if (recording_) SharedTracer().instance->Stop();
}

ZapReport ZapWatch::Stop() {
  const StatsSnapshot now = vm_.stats().Read();
  ZapReport report;
  report.before = PresentLeaves(before_);
  report.after = PresentLeaves(now);
  report.flush_requests = now["remote_tlb_flush_requests"] - before_["remote_tlb_flush_requests"];
  report.shadow_zapped = now["mmu_shadow_zapped"] - before_["mmu_shadow_zapped"];

  const Tracer& tracer = SharedTracer();
  if (!tracer.unavailable.empty()) {
    report.untraced = tracer.unavailable;
    return report;
  }
  tracer.instance->Stop();
  recording_ = false;
  if (const uint64_t lost = tracer.instance->lost(); lost != 0)
    throw std::runtime_error(std::to_string(lost) + " trace events were lost, the buffer of " +
                             std::to_string(kBufferKb) + " KiB per CPU is too small");
  Decode(tracer.instance->Read(), report);
  report.SortOutEmptied();
  return report;
}

}  // namespace slotzap
