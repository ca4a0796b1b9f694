// SPDX-License-Identifier: GPL-2.0-only
// The kernel's trace events: a private tracefs instance to record them, and typed decoders of
// the KVM events that say what was zapped.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace slotzap {

inline constexpr char kTracefsRoot[] = "/sys/kernel/tracing";

// One line of a trace, in the default text format.
struct TraceEvent {
  std::string task;  // name of the thread, which may contain spaces and dashes
  int pid = 0;
  int cpu = 0;
  double seconds = 0;  // of the instance's clock
  std::string name;    // "kvm_mmu_zap_all_fast", without its system
  std::string fields;  // what follows the name, as the event prints it
};

// nullopt for comments, blank lines and the tracer's own remarks ("CPU:1 [LOST 3 EVENTS]").
std::optional<TraceEvent> ParseTraceLine(std::string_view line);

// The events of a whole trace, in its order.
std::vector<TraceEvent> ParseTrace(std::string_view text);

// Decoders.  Each returns nullopt if `event` is another event, and throws std::runtime_error if
// it is the right one but lacks a field.  Fields added by later kernels are ignored.

// kvmmmu:kvm_tdp_mmu_spte_changed: one SPTE of the TDP MMU was written.
struct SpteChanged {
  int as_id = 0;
  uint64_t gfn = 0;  // the first one that the SPTE maps
  int level = 0;     // 1: 4 KiB, 2: 2 MiB, ...
  uint64_t old_spte = 0;
  uint64_t new_spte = 0;
};
std::optional<SpteChanged> DecodeSpteChanged(const TraceEvent& event);

// kvmmmu:kvm_mmu_prepare_zap_page: a shadow page is taken down; of the TDP MMU's, those whose
// parent entry was cleared or replaced.
struct PreparedZapPage {
  uint64_t gfn = 0;
  int level = 0;
  bool direct = false;   // false: it shadows guest page tables
  bool invalid = false;  // it was already marked invalid
  int root_count = 0;
  bool unsync = false;
};
std::optional<PreparedZapPage> DecodePreparedZapPage(const TraceEvent& event);

// kvmmmu:kvm_mmu_get_page: KVM made a page table.  nullopt for one that existed already.  Of the
// TDP MMU's tables it tells gfn (0 for a root) and level, but not the address space.
struct CreatedPage {
  uint64_t gfn = 0;  // the first one that the table maps
  int level = 0;     // of its entries
  bool direct = false;
};
std::optional<CreatedPage> DecodeCreatedPage(const TraceEvent& event);

// kvmmmu:kvm_mmu_set_spte: a page fault installed an SPTE, in any MMU.  The SPTE may be a huge
// page's, or an MMIO SPTE.
struct InstalledSpte {
  uint64_t gfn = 0;  // in the legacy and the shadow MMU the one that faulted
  uint64_t spte = 0;
  int level = 0;  // 1: 4 KiB, 2: 2 MiB, ...
};
std::optional<InstalledSpte> DecodeInstalledSpte(const TraceEvent& event);

// kvm:kvm_unmap_hva_range: the MMU notifier unmapped [start, end) of the process.
struct UnmapHvaRange {
  uint64_t start = 0;
  uint64_t end = 0;
};
std::optional<UnmapHvaRange> DecodeUnmapHvaRange(const TraceEvent& event);

// kvmmmu:kvm_mem_attrs (this project's series for Linux 6.12): a hook of
// KVM_SET_MEMORY_ATTRIBUTES is called for the gfns [start, end).
struct MemAttrsStep {
  std::string step;  // "prepare", "cancel", "update", "finish"
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t attributes = 0;
  bool invalidating = false;  // page faults on the range retry
  int error = 0;              // what "prepare" returned, 0 or a negative errno
  bool operator==(const MemAttrsStep&) const = default;
};
std::optional<MemAttrsStep> DecodeMemAttrsStep(const TraceEvent& event);

// kvmmmu:kvm_mmu_zap_memslot (this project's series): what maps a memslot that goes, or moves, was
// zapped.
struct ZapMemslot {
  int slot = 0;
  int as_id = 0;
  uint64_t base_gfn = 0;
  uint64_t npages = 0;
  bool all = false;      // everything of the VM was zapped; the next three are 0 then
  uint64_t leafs = 0;    // leaf SPTEs
  uint64_t pages = 0;    // KVM's page tables
  uint64_t flushes = 0;  // of all vCPUs' TLBs
  uint64_t ns = 0;       // how long it took
};
std::optional<ZapMemslot> DecodeZapMemslot(const TraceEvent& event);

// kvmmmu:kvm_mmu_zap_all_fast: every root and shadow page of a VM was made obsolete.
bool IsZapAllFast(const TraceEvent& event);

// A line that TraceInstance::Mark() wrote.
bool IsMark(const TraceEvent& event, std::string_view text);

// A private trace buffer with its own set of enabled events; exists from construction to
// destruction.  It records what any task does, since KVM zaps from kernel threads too.  All
// members throw std::system_error if tracefs refuses.
class TraceInstance {
 public:
  // One left by a run that crashed is removed, or taken over when it can't be.  Recording is off.
  explicit TraceInstance(const std::string& name, const std::string& root = kTracefsRoot);
  TraceInstance(const TraceInstance&) = delete;
  TraceInstance& operator=(const TraceInstance&) = delete;
  ~TraceInstance();

  // Empty if instances can be made and KVM's events are there; otherwise the reason.
  static std::string Available(const std::string& root = kTracefsRoot);

  // Events are named "system:event", e.g. "kvmmmu:kvm_mmu_zap_all_fast".
  bool HasEvent(const std::string& event) const;
  void Enable(const std::string& event);  // throws std::runtime_error if there is no such event

  void SetBufferKb(unsigned kib_per_cpu);
  void Clear();  // forgets what was recorded, and what was lost
  void Start();
  void Stop();
  // Writes a line of our own between the events, if recording is on.
  void Mark(const std::string& text);

  // What was recorded since Clear(), oldest first.  Does not consume it.
  std::vector<TraceEvent> Read() const;

  // How many events were recorded and overwritten, or dropped, since Clear().  Unless it is 0,
  // Read() proves nothing about what did not happen.
  uint64_t lost() const;

 private:
  std::string EventDirectory(const std::string& event) const;

  std::string directory_;
};

}  // namespace slotzap
