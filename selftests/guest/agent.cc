// SPDX-License-Identifier: GPL-2.0-only
// The agent: takes commands from its vCPU's mailbox and executes them with the guest's own loads
// and stores.  Freestanding: no library, no SSE, nothing but what is here.
#include "guest/agent_nested.h"
#include "guest/protocol.h"

namespace slotzap::guest {
namespace {

// Plain 8-byte moves in assembly, so that each access is exactly one, of a kind that KVM can
// emulate if it hits no memory, and the compiler neither merges nor drops any.
uint64_t Load(uint64_t gpa) {
  uint64_t value;
  asm volatile("movq (%1), %0" : "=r"(value) : "r"(gpa) : "memory");
  return value;
}

void Store(uint64_t gpa, uint64_t value) {
  asm volatile("movq %1, (%0)" : : "r"(gpa), "r"(value) : "memory");
}

uint64_t LoadSized(uint64_t gpa, uint64_t size) {
  uint64_t value;
  switch (size) {
    case 1:
      asm volatile("movzbl (%1), %k0" : "=r"(value) : "r"(gpa) : "memory");
      return value;
    case 2:
      asm volatile("movzwl (%1), %k0" : "=r"(value) : "r"(gpa) : "memory");
      return value;
    case 4:
      asm volatile("movl (%1), %k0" : "=r"(value) : "r"(gpa) : "memory");
      return value;
    default:
      return Load(gpa);
  }
}

void StoreSized(uint64_t gpa, uint64_t value, uint64_t size) {
  switch (size) {
    case 1:
      asm volatile("movb %b1, (%0)" : : "r"(gpa), "r"(value) : "memory");
      break;
    case 2:
      asm volatile("movw %w1, (%0)" : : "r"(gpa), "r"(value) : "memory");
      break;
    case 4:
      asm volatile("movl %k1, (%0)" : : "r"(gpa), "r"(value) : "memory");
      break;
    default:
      Store(gpa, value);
      break;
  }
}

void Out(uint16_t port) { asm volatile("outb %%al, %%dx" : : "a"(0), "d"(port) : "memory"); }

Mailbox* CurrentMailbox() {
  uint64_t self;
  asm volatile("movq %%gs:0, %0" : "=r"(self));
  return reinterpret_cast<Mailbox*>(self);
}

constexpr uint64_t kPage = 4096;
constexpr uint64_t kWordsPerPage = kPage / 8;

void Touch(const Range& range, bool write) {
  for (uint64_t page = 0; page < range.pages; page++) {
    const uint64_t gpa = range.start + page * kPage;
    const uint64_t value = Load(gpa);
    if (write) Store(gpa, value);
  }
}

void Fill(const Range& range) {
  for (uint64_t i = 0; i < range.pages * kWordsPerPage; i++)
    Store(range.start + i * 8, PatternWord(range, i));
}

void VerifyWord(const Range& range, uint64_t i, Verdict& verdict) {
  const uint64_t gpa = range.start + i * 8;
  const uint64_t expected = PatternWord(range, i);
  const uint64_t seen = Load(gpa);
  verdict.words++;
  if (seen == expected) {
    verdict.matches++;
  } else if (seen == kNoMemory) {
    verdict.absent++;
  } else if (verdict.wrong++ == 0) {
    verdict.wrong_gpa = gpa;
    verdict.wrong_seen = seen;
    verdict.wrong_expected = expected;
  }
}

void Verify(const Range& range, Verdict& verdict) {
  for (uint64_t i = 0; i < range.pages * kWordsPerPage; i++) VerifyWord(range, i, verdict);
}

// One word of each page, another one at each pass, so that many passes see the whole page.
void VerifySample(const Range& range, uint64_t pass, Verdict& verdict) {
  for (uint64_t page = 0; page < range.pages; page++)
    VerifyWord(range, page * kWordsPerPage + (pass * 37 + page) % kWordsPerPage, verdict);
}

void VerifyLoop(Mailbox& mailbox) {
  while (__atomic_load_n(&mailbox.stop, __ATOMIC_ACQUIRE) == 0) {
    for (uint32_t i = 0; i < mailbox.ranges_count; i++)
      VerifySample(mailbox.ranges[i], mailbox.passes, mailbox.verdict);
    __atomic_store_n(&mailbox.passes, mailbox.passes + 1, __ATOMIC_RELEASE);
  }
}

uint64_t Call(uint64_t gpa) { return reinterpret_cast<uint64_t (*)()>(gpa)(); }

void SetCacheDisable(bool on) {
  constexpr uint64_t kCacheDisable = 1ull << 30;  // CR0.CD
  uint64_t cr0;
  asm volatile("movq %%cr0, %0" : "=r"(cr0));
  cr0 = on ? cr0 | kCacheDisable : cr0 & ~kCacheDisable;
  asm volatile("movq %0, %%cr0" : : "r"(cr0) : "memory");
}

void Execute(Mailbox& mailbox) {
  const uint64_t* args = mailbox.args;
  switch (mailbox.command) {
    case Command::kNop:
      break;
    case Command::kRead:
      mailbox.result = Load(args[0]);
      break;
    case Command::kWrite:
      Store(args[0], args[1]);
      break;
    case Command::kTouch:
      for (uint32_t i = 0; i < mailbox.ranges_count; i++) Touch(mailbox.ranges[i], args[0] != 0);
      break;
    case Command::kFill:
      for (uint32_t i = 0; i < mailbox.ranges_count; i++) Fill(mailbox.ranges[i]);
      break;
    case Command::kVerify:
      for (uint32_t i = 0; i < mailbox.ranges_count; i++)
        Verify(mailbox.ranges[i], mailbox.verdict);
      break;
    case Command::kVerifyLoop:
      VerifyLoop(mailbox);
      break;
    case Command::kCall:
      mailbox.result = Call(args[0]);
      break;
    case Command::kSetCr3:
      asm volatile("movq %0, %%cr3" : : "r"(args[0]) : "memory");
      break;
    case Command::kSetCacheDisable:
      SetCacheDisable(args[0] != 0);
      break;
    case Command::kReadSized:
      mailbox.result = LoadSized(args[0], args[1]);
      break;
    case Command::kWriteSized:
      StoreSized(args[0], args[1], args[2]);
      break;
    case Command::kInvalidatePage:
      asm volatile("invlpg (%0)" : : "r"(args[0]) : "memory");
      break;
  }
}

// What L2 is: it shares code, data and mailbox with L1.
[[noreturn]] void NestedMain(Mailbox* mailbox) {
  Execute(*mailbox);
  for (;;) Hypercall(mailbox->nested.kind);
}

}  // namespace

extern "C" {

extern uint64_t idt[32][2];
extern char exception_stubs[];

// Every vCPU writes the same gates, so it doesn't matter that they share the table.
static void InstallGates() {
  for (uint64_t vector = 0; vector < 32; vector++) {
    const uint64_t stub = reinterpret_cast<uint64_t>(exception_stubs) + vector * 16;
    constexpr uint64_t kPresentInterruptGate = 0x8e00;
    constexpr uint64_t kCodeSelector = 0x08;
    idt[vector][0] = (stub & 0xffff) | kCodeSelector << 16 | kPresentInterruptGate << 32 |
                     (stub >> 16 & 0xffff) << 48;
    idt[vector][1] = stub >> 32;
  }
}

[[noreturn]] void AgentMain(Mailbox* mailbox) {
  InstallGates();
  for (;;) {
    Out(kDonePort);
    if (mailbox->nested.kind != Virtualization::kNone)
      RunNested(*mailbox, NestedMain);
    else
      Execute(*mailbox);
  }
}

void AgentException(uint64_t vector, uint64_t error_code, uint64_t rip) {
  Mailbox* mailbox = CurrentMailbox();
  mailbox->vector = vector;
  mailbox->error_code = error_code;
  mailbox->rip = rip;
  asm volatile("movq %%cr2, %0" : "=r"(mailbox->cr2));
  Out(kExceptionPort);
}

}  // extern "C"

}  // namespace slotzap::guest
