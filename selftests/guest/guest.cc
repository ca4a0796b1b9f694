// SPDX-License-Identifier: GPL-2.0-only
#include "guest/guest.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "guest/nested.h"
#include "guest/paging_mode.h"

extern "C" {
extern const std::byte slotzap_agent_image[];
extern const std::byte slotzap_agent_image_end[];
}

namespace slotzap {
namespace {

using guest::Command;
using guest::Mailbox;

}  // namespace

std::string NestedExitText(const NestedExit& exit) {
  std::string text = "L2 ";
  switch (exit.end) {
    case guest::NestedEnd::kNone:
      return text + "was not entered";
    case guest::NestedEnd::kHypercall:
      return text + "is done";
    case guest::NestedEnd::kFault:
      text += "exited: fault at " + Hex(exit.fault_addr);
      break;
    case guest::NestedEnd::kShutdown:
      text += "exited: triple fault";
      break;
    case guest::NestedEnd::kEntryFailed:
      text +=
          "could not be entered: VM-instruction error " + std::to_string(exit.instruction_error);
      break;
    case guest::NestedEnd::kOther:
      text += "exited";
      break;
  }
  return text + " (code " + Hex(exit.code) + ", info " + Hex(exit.info) + ")";
}

MmioAccess AnswerMmio(kvm_run& run) {
  MmioAccess access = {run.mmio.phys_addr, run.mmio.len, run.mmio.is_write != 0, 0};
  if (!access.write) std::memset(run.mmio.data, 0xff, sizeof(run.mmio.data));
  std::memcpy(&access.value, run.mmio.data, sizeof(access.value));
  return access;
}

void Outcome::Add(const MmioAccess& access) {
  if (mmio_count++ < kMmioKept) mmio.push_back(access);
}

std::span<const std::byte> AgentImage() { return {slotzap_agent_image, slotzap_agent_image_end}; }

Guest::Guest(std::unique_ptr<Vcpu> vcpu, MemorySlot& agent, Gpa cr3) : vcpu_(std::move(vcpu)) {
  const unsigned id = vcpu_->id();
  if (id >= guest::kMaxVcpus)
    throw std::out_of_range("the agent has room for " + std::to_string(guest::kMaxVcpus) +
                            " vCPUs");
  const Gpa mailbox_gpa = guest::kMailboxGpa + id * kPageSize;
  mailbox_ = reinterpret_cast<Mailbox*>(agent.memory().data() + agent.config().offset +
                                        (mailbox_gpa - agent.range().start));
  *mailbox_ = {};
  mailbox_->self = mailbox_gpa;

  EnterPagingMode(*vcpu_, PagingMode::k4Level, cr3);
  kvm_sregs sregs = vcpu_->Sregs();
  sregs.gs.base = mailbox_gpa;
  vcpu_->SetSregs(sregs);
  kvm_regs regs = {};
  regs.rip = guest::kAgentGpa;
  regs.rsp = guest::kStackGpa + (id + 1) * kPageSize;
  regs.rdi = mailbox_gpa;
  regs.rflags = kRflags;
  vcpu_->SetRegs(regs);

  const Outcome outcome = RunUntilDone();
  if (!outcome.done)
    throw std::runtime_error("the guest agent did not start: " + outcome.exit_text);
}

void Guest::Post(Command command, std::initializer_list<uint64_t> args) {
  Mailbox& m = mailbox();
  m.command = command;
  m.ranges_count = 0;
  size_t i = 0;
  for (const uint64_t arg : args) m.args[i++] = arg;
  m.nested = nested_;
  m.result = 0;
  m.verdict = {};
  m.passes = 0;
  m.stop = 0;
}

void Guest::PostRanges(Command command, std::span<const Pattern> patterns, uint64_t arg0) {
  if (patterns.size() > guest::kMaxRanges)
    throw std::length_error("a command takes " + std::to_string(guest::kMaxRanges) + " ranges");
  Post(command, {arg0});
  Mailbox& m = mailbox();
  for (const Pattern& pattern : patterns)
    m.ranges[m.ranges_count++] = {pattern.range.start, pattern.range.pages(), pattern.seed,
                                  pattern.first_word, pattern.period};
}

Outcome Guest::RunUntilDone() {
  Outcome outcome;
  for (;;) {
    const KvmStatus status = vcpu_->TryRun();
    const kvm_run& run = vcpu_->run();
    if (!status.ok()) {
      if (status.error() != EINTR) status.OrThrow();
      if (!vcpu_->TakeKick()) continue;
      outcome.exit_reason = KVM_EXIT_INTR;
      outcome.exit_text = "kicked out of KVM_RUN";
      outcome.verdict = mailbox().verdict;
      return outcome;
    }
    if (run.exit_reason == KVM_EXIT_MMIO) {
      const MmioAccess access = AnswerMmio(vcpu_->run());
      if (on_mmio_) on_mmio_(access);
      outcome.Add(access);
      continue;
    }
    const Mailbox& m = mailbox();
    outcome.exit_reason = run.exit_reason;
    outcome.exit_text = vcpu_->ExitText();
    outcome.value = m.result;
    outcome.verdict = m.verdict;
    if (run.exit_reason == KVM_EXIT_MEMORY_FAULT) outcome.memory_fault = MemoryFaultIn(run);
    outcome.nested_faults = m.nested.faults;
    if (run.exit_reason == KVM_EXIT_IO && run.io.port == guest::kDonePort) {
      const guest::NestedRun& l2 = m.nested;
      outcome.done =
          l2.kind == guest::Virtualization::kNone || l2.end == guest::NestedEnd::kHypercall;
      if (!outcome.done) {
        outcome.nested_exit = {l2.end, l2.exit_code, l2.exit_info, l2.fault_addr,
                               l2.instruction_error};
        outcome.exit_text = NestedExitText(*outcome.nested_exit);
      }
    } else if (run.exit_reason == KVM_EXIT_IO && run.io.port == guest::kExceptionPort) {
      outcome.exit_text = "guest exception: vector " + std::to_string(m.vector) + ", error code " +
                          Hex(m.error_code) + ", rip " + Hex(m.rip) + ", cr2 " + Hex(m.cr2);
    }
    return outcome;
  }
}

Outcome Guest::Read(Gpa gpa) {
  Post(Command::kRead, {gpa});
  return RunUntilDone();
}

Outcome Guest::Write(Gpa gpa, uint64_t value) {
  Post(Command::kWrite, {gpa, value});
  return RunUntilDone();
}

Outcome Guest::Touch(std::initializer_list<GpaRange> ranges, bool write) {
  std::vector<Pattern> patterns;
  for (const GpaRange& range : ranges) patterns.push_back({.range = range});
  PostRanges(Command::kTouch, patterns, write ? 1 : 0);
  return RunUntilDone();
}

Outcome Guest::Fill(std::initializer_list<Pattern> patterns) {
  PostRanges(Command::kFill, {patterns.begin(), patterns.size()});
  return RunUntilDone();
}

Outcome Guest::VerifyAll(std::span<const Pattern> patterns) {
  PostRanges(Command::kVerify, patterns);
  return RunUntilDone();
}

Outcome Guest::Call(Gpa function) {
  Post(Command::kCall, {function});
  return RunUntilDone();
}

Outcome Guest::SetCr3(Gpa root) {
  Post(Command::kSetCr3, {root});
  return RunUntilDone();
}

Outcome Guest::SetCacheDisable(bool on) {
  Post(Command::kSetCacheDisable, {on ? 1ull : 0ull});
  return RunUntilDone();
}

Outcome Guest::ReadSized(Gpa gpa, unsigned size) {
  Post(Command::kReadSized, {gpa, size});
  return RunUntilDone();
}

Outcome Guest::WriteSized(Gpa gpa, uint64_t value, unsigned size) {
  Post(Command::kWriteSized, {gpa, value, size});
  return RunUntilDone();
}

Outcome Guest::InvalidatePage(uint64_t virt) {
  Post(Command::kInvalidatePage, {virt});
  return RunUntilDone();
}

Outcome Guest::Nop() {
  Post(Command::kNop);
  return RunUntilDone();
}

Outcome Guest::NopWithin(uint64_t exits) {
  AsyncCommand nop(*this, [](Guest& guest) { return guest.Nop(); });
  nop.WaitForExits(exits);
  return nop.Stop();
}

void Guest::RestoreTo(const Vcpu::State& state) {
  vcpu_->Restore(state);
  // The state was saved when the vCPU had exited for the agent's OUT, with RIP still at the
  // instruction: it is executed again.
  const Outcome outcome = RunUntilDone();
  if (!outcome.done) throw std::runtime_error("the agent does not go on: " + outcome.exit_text);
}

std::string Guest::Describe() const {
  const Mailbox& m = mailbox();
  return "vCPU " + std::to_string(vcpu_->id()) + ": command " +
         std::to_string(static_cast<uint32_t>(m.command)) + ", passes " + std::to_string(m.passes) +
         ", words " + std::to_string(m.verdict.words) + ", absent " +
         std::to_string(m.verdict.absent) + ", wrong " + std::to_string(m.verdict.wrong) +
         ", last exit " + vcpu_->ExitText() +
         (m.nested.kind == guest::Virtualization::kNone
              ? std::string()
              : ", in L2: " + std::to_string(m.nested.entries) + " entries, " +
                    std::to_string(m.nested.faults) + " faults");
}

AsyncCommand::AsyncCommand(Guest& guest, std::function<Outcome(Guest&)> command) : guest_(guest) {
  thread_ = std::thread([this, command = std::move(command)] {
    try {
      outcome_ = command(guest_);
    } catch (...) {
      error_ = std::current_exception();
    }
    __atomic_store_n(&ended_, true, __ATOMIC_RELEASE);
  });
}

void AsyncCommand::WaitForExits(uint64_t n) const {
  const Stats& stats = guest_.vcpu().stats();
  const uint64_t begin = stats.Read("exits");
  while (!ended() && stats.Read("exits") - begin < n) std::this_thread::yield();
}

Outcome AsyncCommand::Join() {
  if (thread_.joinable()) thread_.join();
  // If the command ended by itself, a kick may still be due.
  guest_.vcpu().TakeKick();
  if (error_) std::rethrow_exception(error_);
  return outcome_;
}

Outcome AsyncCommand::Stop() {
  KickOut();
  return Join();
}

void AsyncCommand::KickOut() {
  if (!thread_.joinable()) return;
  Kick();
  thread_.join();
  guest_.vcpu().TakeKick();
}

VerifyLoop::VerifyLoop(Guest& guest, std::vector<Pattern> patterns)
    : guest_(guest), patterns_(std::move(patterns)) {
  Start();
}

VerifyLoop::VerifyLoop(NestedGuest& l2, const std::vector<Pattern>& patterns)
    : guest_(l2.l1()), patterns_(patterns) {
  const NestedGuest::Scope scope(l2);
  Start();
}

void VerifyLoop::Start() {
  guest_.PostRanges(Command::kVerifyLoop, patterns_);
  thread_ = std::thread([this] {
    outcome_ = guest_.RunUntilDone();
    __atomic_store_n(&ended_, true, __ATOMIC_RELEASE);
  });
}

VerifyLoop::~VerifyLoop() { Stop(); }

uint64_t VerifyLoop::passes() const {
  return __atomic_load_n(&guest_.mailbox().passes, __ATOMIC_ACQUIRE);
}

guest::Verdict VerifyLoop::verdict() const {
  // The guest is counting meanwhile: a field may be newer than another, but none is torn.
  const guest::Verdict& v = guest_.mailbox().verdict;
  const auto load = [](const uint64_t& field) { return __atomic_load_n(&field, __ATOMIC_ACQUIRE); };
  return {load(v.words),     load(v.matches),    load(v.absent),        load(v.wrong),
          load(v.wrong_gpa), load(v.wrong_seen), load(v.wrong_expected)};
}

void VerifyLoop::WaitForPasses(uint64_t n) const {
  // The pass that is under way began before the call.
  const uint64_t goal = passes() + 1 + n;
  while (passes() < goal && !ended()) std::this_thread::yield();
}

void VerifyLoop::WaitForNestedFaults(uint64_t n) const {
  const auto faults = [&] {
    return __atomic_load_n(&guest_.mailbox().nested.faults, __ATOMIC_ACQUIRE);
  };
  const uint64_t goal = faults() + n;
  while (faults() < goal && !ended()) std::this_thread::yield();
}

const Outcome& VerifyLoop::Stop() {
  __atomic_store_n(&guest_.mailbox().stop, uint64_t{1}, __ATOMIC_RELEASE);
  if (thread_.joinable()) thread_.join();
  return outcome_;
}

const Outcome& VerifyLoop::Abandon() {
  if (!thread_.joinable()) return outcome_;
  guest_.vcpu().Kick(thread_);
  thread_.join();
  // If the loop ended by itself, the kick is still due.
  guest_.vcpu().TakeKick();
  return outcome_;
}

}  // namespace slotzap
