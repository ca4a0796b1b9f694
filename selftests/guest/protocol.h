// SPDX-License-Identifier: GPL-2.0-only
// What the host and the agent in the guest share: where things are in guest physical memory, the
// mailbox, the commands, and the patterns that memory is filled with.  Compiled into both.
#pragma once

#include <cstdint>

namespace slotzap::guest {

// The agent's image, mailboxes and stacks, in one memslot.
inline constexpr uint64_t kAgentGpa = 0x100000;
inline constexpr uint64_t kAgentSize = 0x40000;
inline constexpr uint64_t kMailboxGpa = kAgentGpa + 0x20000;  // one page per vCPU
inline constexpr uint64_t kStackGpa = kAgentGpa + 0x30000;    // one page per vCPU
inline constexpr unsigned kMaxVcpus = 16;

// The guest's page tables, in another memslot.  They map all of guest physical memory up to
// kMappedEnd at the same virtual address.
inline constexpr uint64_t kTablesGpa = 0x200000;
inline constexpr uint64_t kTablesSize = 0x100000;
inline constexpr uint64_t kMappedEnd = 512ull << 30;

// Where tests with nested guests put the memslot for the agent's use of SVM or VMX, one block per
// vCPU.  Other VMs have nothing there.
inline constexpr uint64_t kNestedGpa = 0x300000;
inline constexpr uint64_t kNestedBlockSize = 0x4000;  // see NestedRun::block
inline constexpr uint64_t kNestedSize = kMaxVcpus * kNestedBlockSize;

// The agent writes to these ports to hand control back to the host.
inline constexpr uint16_t kDonePort = 0x510;       // the command is done
inline constexpr uint16_t kExceptionPort = 0x511;  // an exception; the mailbox tells which

// What the host answers when the guest reads where no memory is, as a bus would.
inline constexpr uint64_t kNoMemory = ~0ull;

enum class Command : uint32_t {
  kNop,
  kRead,        // args: gpa.                        result: the 8 bytes there
  kWrite,       // args: gpa, value
  kTouch,       // args: ranges, write.              Reads, or rewrites, 8 bytes of every page
  kFill,        // args: ranges.                     Writes the pattern to every word
  kVerify,      // args: ranges.                     Compares every word with the pattern
  kVerifyLoop,  // args: ranges.                     Compares a word per page, until told to stop
  kCall,        // args: gpa.                        result: what the function there returned
  kSetCr3,      // args: cr3
  kSetCacheDisable,  // args: on.                    CR0.CD
  kReadSized,        // args: gpa, size (1, 2, 4, 8).     result: what is there, zero-extended
  kWriteSized,       // args: gpa, value, size
  kInvalidatePage,   // args: virtual address.        INVLPG
};

// A range of guest memory and the pattern that it holds: word i (of 8 bytes, counted from
// `start`) is PatternWord(seed, first_word + i), or, if the pattern repeats every `period` words,
// PatternWord(seed, first_word + i % period).
struct Range {
  uint64_t start = 0;
  uint64_t pages = 0;
  uint64_t seed = 0;
  uint64_t first_word = 0;
  uint64_t period = 0;  // 0: the pattern does not repeat
};

inline constexpr unsigned kMaxRanges = 16;

// What kVerify and kVerifyLoop found.
struct Verdict {
  uint64_t words = 0;    // compared
  uint64_t matches = 0;  // held the pattern
  uint64_t absent = 0;   // read as kNoMemory
  uint64_t wrong = 0;    // anything else; the first one is described below
  uint64_t wrong_gpa = 0;
  uint64_t wrong_seen = 0;
  uint64_t wrong_expected = 0;
};

// Nested guests: the agent ("L1") runs a guest of its own ("L2"), which executes the command.

enum class Virtualization : uint32_t { kNone, kSvm, kVmx };

// Why L2 handed control back to L1.
enum class NestedEnd : uint32_t {
  kNone,         // it was not entered yet
  kHypercall,    // it is done with the command
  kFault,        // a translation that L1 is in charge of failed: #NPF, EPT violation or
                 // misconfiguration; without nested paging a page fault of L2
  kShutdown,     // triple fault
  kEntryFailed,  // it could not be entered
  kOther,
};

struct NestedRun {
  // What the host asks for.
  Virtualization kind;   // kNone: no L2, the agent executes the command itself
  uint32_t restart;      // after kFault and kShutdown, until Mailbox::stop is set, L2 starts again
  uint64_t block;        // kNestedBlockSize bytes: VMCB or VMCS; host save area or VMXON region; a
                         // page that isn't used; L2's stack
  uint64_t nested_root;  // N_CR3 or EPTP; 0: no nested paging
  uint64_t cr3;          // L2's own page tables

  // What the agent answers.
  NestedEnd end;
  uint32_t instruction_error;  // kVmx, kEntryFailed: the VM-instruction error
  uint64_t entries;
  uint64_t faults;      // ends by kFault and kShutdown
  uint64_t exit_code;   // EXITCODE, or the exit reason
  uint64_t exit_info;   // EXITINFO1, or the exit qualification
  uint64_t fault_addr;  // of kFault: the address that could not be translated
};

struct Mailbox {
  uint64_t self;  // this mailbox's address; what GS.base points to
  Command command;
  uint32_t ranges_count;
  uint64_t args[4];
  Range ranges[kMaxRanges];

  NestedRun nested;

  uint64_t result;
  Verdict verdict;
  uint64_t passes;  // of kVerifyLoop, so far; changes while it runs
  uint64_t stop;    // set by the host to end kVerifyLoop

  // Of an exception that the agent did not expect.
  uint64_t vector;
  uint64_t error_code;
  uint64_t rip;
  uint64_t cr2;
};
static_assert(sizeof(Mailbox) <= 4096);

// 64 well mixed bits for (seed, index); never kNoMemory.  splitmix64's finalizer.
constexpr uint64_t PatternWord(uint64_t seed, uint64_t index) {
  uint64_t x = seed * 0x9e3779b97f4a7c15ull + index + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return x == kNoMemory ? 0 : x;
}

constexpr uint64_t PatternWord(const Range& range, uint64_t i) {
  return PatternWord(range.seed, range.first_word + (range.period != 0 ? i % range.period : i));
}

}  // namespace slotzap::guest
