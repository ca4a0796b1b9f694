// SPDX-License-Identifier: GPL-2.0-only
// What races are made of: memory whose pages come when the test says so, vCPUs and ioctls that are
// under way, and the proof of the order in which things happened.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "guest/guest.h"
#include "host/task.h"
#include "host/userfaultfd.h"
#include "oracle/interleaving.h"
#include "oracle/test_device.h"
#include "tests/slot_test.h"

namespace slotzap {

// Memory for a memslot none of whose pages is there.  A vCPU that accesses one sleeps in KVM, in
// the middle of its page fault, until Provide() or Open().  It holds kvm->srcu meanwhile, so that
// it still uses the memslots as they were when the fault began, but no lock.
class GatedMemory {
 public:
  // `name` is for the steps of an interleaving.  A page comes with the pattern of `seed`.
  GatedMemory(std::string name, uint64_t size, uint64_t seed);

  const std::string& name() const { return name_; }
  const std::shared_ptr<GuestMemory>& memory() const { return memory_; }
  // What a read at the start of a page returns.
  uint64_t word(uint64_t page) const;

  void Provide(uint64_t page);
  // Whether a vCPU went to sleep for this page; each is told once.  Throws if it was another one.
  bool TakeFaultOn(uint64_t page, pid_t* thread = nullptr);
  // All that sleep go on, and pages are allocated as in any memory.
  void Open() { uffd_.Close(); }

 private:
  std::string name_;
  uint64_t seed_;
  std::shared_ptr<GuestMemory> memory_;
  Userfaultfd uffd_;
};

// Where an ioctl that changes a memslot can wait.
enum class Waits {
  // In kvm_swap_active_memslots(): new memslots are in place, and those that may still use the old
  // ones are waited for.  A delete or move does so twice, after it marked the memslot invalid, and
  // after it zapped it and took it away.  In between, faults on it are retried; after that there is
  // no memory.  So what a vCPU finds there tells which one it is.
  kForReaders,
  kForSlotsLock,  // behind another such ioctl
};

// One race.  Whatever is under way when it is destroyed, because the test failed, is let go and
// waited for.  VM, memory and slots have to outlive it.
class Race {
 public:
  struct Command {
    Command(std::string n, Guest& guest, std::function<Outcome(Guest&)> command)
        : name(std::move(n)), run(guest, std::move(command)) {}
    std::string name;  // "vCPU 0"
    AsyncCommand run;
  };
  struct Call {
    Call(std::string n, std::function<KvmStatus()> ioctl)
        : name(std::move(n)), run(std::move(ioctl)) {}
    std::string name;  // "delete"
    BackgroundCall<KvmStatus> run;
  };

  Race() = default;
  Race(const Race&) = delete;
  Race& operator=(const Race&) = delete;
  ~Race();

  // A vCPU executes a command, a thread makes an ioctl.  The end of the latter is a step, "delete
  // returned", unless that is kUnordered: of two ioctls, the one that was let go by the other may
  // be seen to return first.
  enum class Return { kStep, kUnordered };
  Command& Start(Guest& guest, std::function<Outcome(Guest&)> command);
  Call& Start(const std::string& name, std::function<KvmStatus()> ioctl,
              Return returning = Return::kStep);

  // Each of these records what it says, in the words of the comment; those that wait throw
  // StepMissed if it can't happen any more.
  //   "vCPU 0 sleeps for page 3 of the victim"
  template <typename CommandOrCall>
  void AwaitSleeping(const CommandOrCall& sleeper, GatedMemory& memory, uint64_t page) {
    const auto ended = [&] { return sleeper.run.ended(); };
    AwaitSleeping(sleeper.name, ended, memory, page);
  }
  void AwaitWaiting(const Call& call, Waits where);
  // "delete waits for readers", "delete waits for slots_lock"
  void Provide(GatedMemory& memory, uint64_t page);  // "page 3 of the victim comes"
  void Do(const std::string& step, const std::function<void()>& action) {
    order_.Saw(step);
    action();
  }

  // From now on, who begins to use the memslots is not one of those that the ioctl, which waits for
  // readers, waits for.  "newer readers don't matter"
  void AwaitNewReaders(const Call& waiting);

  // What happened is what should have; it is printed and added to the test's results.
  void ExpectOrder(const std::vector<std::string>& expected);

  Interleaving& order() { return order_; }

 private:
  void AwaitSleeping(const std::string& name, const std::function<bool()>& ended,
                     GatedMemory& memory, uint64_t page);

  Interleaving order_;
  std::set<GatedMemory*> memories_;  // that something sleeps for
  std::list<Command> commands_;
  std::list<Call> calls_;
};

// Has the test module hold a thread at a place in KVM.  It spins on its CPU, all others have to run
// elsewhere.  Whoever is held goes on when this goes, even if the test fails.
class Hold {
 public:
  Hold(TestVm& vm, slotzap_test_place place, unsigned vcpu = 0);

  // Why nobody will be held, or an empty string.
  std::string Unavailable() const;
  // Somebody is, and `step` is what is known thereby.
  void Await(Race& race, const std::string& step);
  // Whoever is goes on, which is `step`.  Fails the test if it did so before.
  void Release(Race& race, const std::string& step);

 private:
  TestDevice device_;
  KvmStatus status_;
};

class RaceTest : public SlotTest {
 protected:
  void SetUp() override;

  static constexpr uint64_t kSeed = 0x4ace;
  static constexpr Gpa kVictim = 1_GiB;
  static constexpr Gpa kOther = 2_GiB;
  static constexpr Gpa kAway = 3_GiB;
};

}  // namespace slotzap
