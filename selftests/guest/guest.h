// SPDX-License-Identifier: GPL-2.0-only
// The agent in the guest, as the host commands it: one Guest per vCPU.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/range.h"
#include "guest/protocol.h"
#include "kvm/memory_slot.h"
#include "kvm/vcpu.h"

namespace slotzap {

// The agent's image, to be loaded at guest::kAgentGpa.
std::span<const std::byte> AgentImage();

// Nobody interrupts a guest.  That it could be (IF) is for Bochs: there, the host's own interrupts
// don't end a guest that runs without.
inline constexpr uint64_t kRflags = 1 << 9 | 1 << 1;

// An access of the guest to where no memslot is.
struct MmioAccess {
  Gpa gpa;
  unsigned size;  // bytes
  bool write;
  uint64_t value;  // what was written; for reads what the host answered, guest::kNoMemory
  bool operator==(const MmioAccess&) const = default;
};

// After KVM_EXIT_MMIO: answers as a bus would, reads get all ones, writes are dropped.
MmioAccess AnswerMmio(kvm_run& run);

// Memory whose contents are known: see guest::Range.
struct Pattern {
  GpaRange range;
  uint64_t seed = 0;
  uint64_t first_word = 0;
  uint64_t period = 0;
};

// How a guest of the guest ended, if not with its command done; see guest::NestedRun.
struct NestedExit {
  guest::NestedEnd end = guest::NestedEnd::kNone;
  uint64_t code = 0;        // SVM's EXITCODE, VMX's exit reason
  uint64_t info = 0;        // EXITINFO1, exit qualification
  uint64_t fault_addr = 0;  // of kFault
  uint32_t instruction_error = 0;
  bool operator==(const NestedExit&) const = default;
};
// In words, as "L2 exited: fault at 0x40000000 (code 0x400, info 0x100000014)".
std::string NestedExitText(const NestedExit& exit);

// What happened when a vCPU executed a command.
struct Outcome {
  bool done = false;         // the agent, or its guest, finished and handed control back
  uint32_t exit_reason = 0;  // if not: the KVM_EXIT_* that the host can't resolve
  std::string exit_text;     // and that exit in words, with the exception if there was one
  uint64_t value = 0;        // the command's result
  guest::Verdict verdict = {};
  uint64_t mmio_count = 0;                  // accesses to where no memslot is
  std::vector<MmioAccess> mmio;             // the first kMmioKept of them
  std::optional<MemoryFault> memory_fault;  // if the exit is KVM_EXIT_MEMORY_FAULT
  std::optional<NestedExit> nested_exit;    // if a guest of the guest was to execute the command,
                                            // and control is back, but it isn't done
  uint64_t nested_faults = 0;               // how often it was started again after a fault

  static constexpr size_t kMmioKept = 64;
  // Counts an access.
  void Add(const MmioAccess& access);
};

class Guest {
 public:
  // A vCPU about to enter the agent, in 64-bit mode with its page tables at `cr3`.  `agent` is the
  // memslot that the agent was loaded into.
  Guest(std::unique_ptr<Vcpu> vcpu, MemorySlot& agent, Gpa cr3);

  Vcpu& vcpu() { return *vcpu_; }

  // The commands of guest/protocol.h.  Each returns when the agent is done with it, or when the
  // vCPU exits for a reason that the host can't resolve (`done` is false then).  Accesses to where
  // no memslot is are answered as a bus would: reads give all ones, writes are dropped.
  Outcome Read(Gpa gpa);
  Outcome Write(Gpa gpa, uint64_t value);
  Outcome TouchRead(std::initializer_list<GpaRange> ranges) { return Touch(ranges, false); }
  Outcome TouchWrite(std::initializer_list<GpaRange> ranges) { return Touch(ranges, true); }
  Outcome Fill(std::initializer_list<Pattern> patterns);
  Outcome Verify(std::initializer_list<Pattern> patterns) {
    return VerifyAll({patterns.begin(), patterns.size()});
  }
  Outcome VerifyAll(std::span<const Pattern> patterns);
  Outcome Call(Gpa function);
  Outcome SetCr3(Gpa root);
  Outcome SetCacheDisable(bool on);
  // As Read() and Write(), of 1, 2, 4 or 8 bytes.
  Outcome ReadSized(Gpa gpa, unsigned size);
  Outcome WriteSized(Gpa gpa, uint64_t value, unsigned size);
  // INVLPG of the page at a virtual address.
  Outcome InvalidatePage(uint64_t virt);
  Outcome Nop();

  // From now on, called on the vCPU's thread at each access to where no memslot is, before it is
  // answered: the vCPU is out of KVM_RUN, in the middle of an instruction.
  void OnMmio(std::function<void(const MmioAccess&)> handler) { on_mmio_ = std::move(handler); }

  // Goes on with the command that the last outcome was not done with: after KVM_EXIT_MEMORY_FAULT
  // at the same instruction again, for a caller that has removed the cause.  The outcome counts
  // MMIO from here on; its verdict is that of the whole command.
  Outcome Resume() { return RunUntilDone(); }

  // Nop(), given up (not done) after `exits` VM exits: where a vCPU has neither code nor page
  // tables to go on with, KVM may keep retrying in vain.
  Outcome NopWithin(uint64_t exits);

  // Puts the vCPU back to where it was between two commands, see Vcpu::Save().  This gives up a
  // command that isn't done.
  void RestoreTo(const Vcpu::State& state);

  // Registers and mailbox in words, for a report about a vCPU that hangs.
  std::string Describe() const;

 private:
  friend class NestedGuest;
  friend class VerifyLoop;

  guest::Mailbox& mailbox() const { return *mailbox_; }
  void Post(guest::Command command, std::initializer_list<uint64_t> args = {});
  void PostRanges(guest::Command command, std::span<const Pattern> patterns, uint64_t arg0 = 0);
  Outcome Touch(std::initializer_list<GpaRange> ranges, bool write);
  Outcome RunUntilDone();
  std::unique_ptr<Vcpu> vcpu_;
  guest::Mailbox* mailbox_;
  std::function<void(const MmioAccess&)> on_mmio_;
  guest::NestedRun nested_ = {};  // how commands are executed from now on, see NestedGuest
};

class NestedGuest;

// A vCPU that executes a command on a thread of its own, while the host does something else.
// Meanwhile nothing of the Guest may be used but its vCPU's statistics.
//   AsyncCommand touch(guest, [&](Guest& g) { return g.TouchRead({slot.range()}); });
//   vm.MakePrivate(slot.range());
//   const Outcome outcome = touch.Join();
class AsyncCommand {
 public:
  AsyncCommand(Guest& guest, std::function<Outcome(Guest&)> command);
  AsyncCommand(const AsyncCommand&) = delete;
  AsyncCommand& operator=(const AsyncCommand&) = delete;
  // Takes the vCPU out of KVM_RUN, as Stop().
  ~AsyncCommand() { KickOut(); }

  bool ended() const { return __atomic_load_n(&ended_, __ATOMIC_ACQUIRE); }
  // Returns when the vCPU has made another `n` VM exits, or the command has ended.
  void WaitForExits(uint64_t n) const;

  // Makes the KVM_RUN that the vCPU is in, or is about to enter, return: see Vcpu::Kick().  The
  // command then ends as with Stop(), unless it ends by itself; Join() has to follow.
  void Kick() { guest_.vcpu().Kick(thread_); }
  // Waits for the command to end.  Throws what the command threw.
  Outcome Join();
  // Join(), but doesn't wait: a command that hasn't ended is interrupted.  Its outcome is not done;
  // Guest::Resume() would finish it.
  Outcome Stop();

 private:
  void KickOut();

  Guest& guest_;
  Outcome outcome_;
  std::exception_ptr error_;
  bool ended_ = false;
  std::thread thread_;
};

// A vCPU that verifies patterns over and over, on a thread of its own, until Stop().
class VerifyLoop {
 public:
  VerifyLoop(Guest& guest, std::vector<Pattern> patterns);
  // By a guest of the guest.
  VerifyLoop(NestedGuest& l2, const std::vector<Pattern>& patterns);
  VerifyLoop(const VerifyLoop&) = delete;
  VerifyLoop& operator=(const VerifyLoop&) = delete;
  ~VerifyLoop();

  // Passes over all patterns so far, and what they found so far.
  uint64_t passes() const;
  guest::Verdict verdict() const;
  // Returns when another `n` passes have begun and ended since the call, or the loop has ended by
  // itself.
  void WaitForPasses(uint64_t n) const;
  bool ended() const { return __atomic_load_n(&ended_, __ATOMIC_ACQUIRE); }
  // If a guest of the guest executes it (NestedGuest::set_restart()): returns when that has ended
  // by a fault another `n` times since the call, or the loop has ended by itself.
  void WaitForNestedFaults(uint64_t n) const;

  // Tells the guest to stop and waits for it.
  const Outcome& Stop();
  // Interrupts the vCPU wherever it is and leaves it there, in the guest's guest, say.  The outcome
  // is not done; it has the verdict so far.
  const Outcome& Abandon();

 private:
  void Start();

  Guest& guest_;
  std::vector<Pattern> patterns_;
  Outcome outcome_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace slotzap
