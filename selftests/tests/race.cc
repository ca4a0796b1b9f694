// SPDX-License-Identifier: GPL-2.0-only
#include "tests/race.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>

#include "host/tracefs.h"

namespace slotzap {
namespace {

std::string PageOf(const GatedMemory& memory, uint64_t page) {
  return "page " + std::to_string(page) + " of the " + memory.name();
}

std::string StepOf(Waits where) {
  return where == Waits::kForReaders ? " waits for readers" : " waits for slots_lock";
}

bool IsWaiting(pid_t thread, Waits where) {
  if (where == Waits::kForSlotsLock) return WaitsForMutexIn("kvm_", thread);
  return IsInside(KernelStackOf(thread),
                  {"__synchronize_srcu", "kvm_swap_active_memslots", "kvm_set_memslot"});
}

// Shared, because to begin tracing needs grace periods of its own.
TraceInstance& SharedSrcuTrace() {
  static const auto trace = [] {
    auto instance = std::make_unique<TraceInstance>("slotzap-srcu");
    instance->Enable("workqueue:workqueue_execute_end");
    return instance;
  }();
  return *trace;
}

}  // namespace

GatedMemory::GatedMemory(std::string name, uint64_t size, uint64_t seed)
    : name_(std::move(name)), seed_(seed), memory_(GuestMemory::Unpopulated(size)) {
  uffd_.Register(memory_->address(), size);
}

uint64_t GatedMemory::word(uint64_t page) const {
  return guest::PatternWord(seed_, page * kPageSize / 8);
}

void GatedMemory::Provide(uint64_t page) {
  std::vector<uint64_t> words(kPageSize / 8);
  for (uint64_t i = 0; i < words.size(); i++)
    words[i] = guest::PatternWord(seed_, page * words.size() + i);
  uffd_.Copy(memory_->address() + page * kPageSize, std::as_bytes(std::span(words)));
}

bool GatedMemory::TakeFaultOn(uint64_t page, pid_t* thread) {
  const std::optional<UserFault> fault = uffd_.TakeFault();
  if (!fault) return false;
  if (fault->address != memory_->address() + page * kPageSize)
    throw std::runtime_error("a fault on page " +
                             std::to_string((fault->address - memory_->address()) / kPageSize) +
                             ", not on " + PageOf(*this, page));
  if (thread != nullptr) *thread = fault->thread;
  return true;
}

Race::~Race() {
  for (GatedMemory* memory : memories_) memory->Open();
}

Race::Command& Race::Start(Guest& guest, std::function<Outcome(Guest&)> command) {
  return commands_.emplace_back("vCPU " + std::to_string(guest.vcpu().id()), guest,
                                std::move(command));
}

Race::Call& Race::Start(const std::string& name, std::function<KvmStatus()> ioctl,
                        Return returning) {
  return calls_.emplace_back(name, [this, name, ioctl = std::move(ioctl), returning] {
    KvmStatus status = ioctl();
    if (returning == Return::kStep) order_.Saw(name + " returned");
    return status;
  });
}

void Race::AwaitSleeping(const std::string& name, const std::function<bool()>& ended,
                         GatedMemory& memory, uint64_t page) {
  memories_.insert(&memory);
  pid_t thread = 0;
  order_.Await(
      name + " sleeps for " + PageOf(memory, page),
      [&] {
        if (thread == 0) memory.TakeFaultOn(page, &thread);
        return thread != 0 &&
               IsInside(KernelStackOf(thread), {"handle_userfault", "kvm_vcpu_ioctl"});
      },
      [&] { return ended() ? name + " is done" : std::string(); });
}

void Race::AwaitWaiting(const Call& call, Waits where) {
  order_.Await(
      call.name + StepOf(where), [&] { return IsWaiting(call.run.thread(), where); },
      [&] { return call.run.ended() ? call.name + " has returned" : std::string(); });
}

// A grace period waits for all readers that are under way when the wait begins, and maybe for some
// that come a little later, until it has switched to the other of two counters
// (kernel/rcu/srcutree.c, srcu_flip()).  It does so the first time that it looks at the counters,
// in process_srcu(), and looks again and again as long as there is somebody to wait for.  A grace
// period that nobody delays takes no more than kLooks.
void Race::AwaitNewReaders(const Call& waiting) {
  constexpr int kLooks = 4;
  TraceInstance& trace = SharedSrcuTrace();
  trace.Clear();
  trace.Start();
  order_.Await(
      "newer readers don't matter",
      [&] {
        std::map<std::string, int> looks;  // by the work, of which each srcu_struct has one
        for (const TraceEvent& event : trace.Read())
          if (event.fields.ends_with("function process_srcu") && ++looks[event.fields] > kLooks)
            return true;
        return false;
      },
      [&] { return waiting.run.ended() ? waiting.name + " has returned" : std::string(); });
  trace.Stop();
}

void Race::Provide(GatedMemory& memory, uint64_t page) {
  Do(PageOf(memory, page) + " comes", [&] { memory.Provide(page); });
}

void Race::ExpectOrder(const std::vector<std::string>& expected) {
  const std::string seen = order_.ToString();
  printf("# interleaving: %s\n", seen.c_str());
  testing::Test::RecordProperty("interleaving", seen);
  EXPECT_EQ(InterleavingProblem(order_.steps(), expected), "") << "seen: " << seen;
}

Hold::Hold(TestVm& vm, slotzap_test_place place, unsigned vcpu)
    : device_(vm.vm()), status_(device_.TryHold(place, vcpu)) {}

std::string Hold::Unavailable() const {
  return status_.error() == EOPNOTSUPP ? "KVM can't be probed here" : "";
}

void Hold::Await(Race& race, const std::string& step) {
  race.order().Await(
      step, [&] { return device_.HoldState() == SLOTZAP_TEST_HELD; },
      [&] {
        return device_.HoldState() == SLOTZAP_TEST_GIVEN_UP ? "it was not held long enough" : "";
      });
}

void Hold::Release(Race& race, const std::string& step) {
  EXPECT_EQ(device_.HoldState(), SLOTZAP_TEST_HELD) << "it was not held long enough";
  race.Do(step, [&] { device_.Release(); });
}

void RaceTest::SetUp() {
  SlotTest::SetUp();
  if (IsSkipped()) return;
  for (const std::string& reason : {Userfaultfd::Unavailable(), KernelStackUnavailable()})
    if (!reason.empty()) GTEST_SKIP() << reason;
}

}  // namespace slotzap
