// SPDX-License-Identifier: GPL-2.0-only
// Theme: attribute hooks.  What hardware must be told when memory turns private or shared, in which
// order, what happens when it refuses, and that no vCPU can slip in between.  The hardware is KVM's
// software RMP.
#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "harness/main.h"
#include "host/tracefs.h"
#include "tests/protected_vm.h"

namespace slotzap {
namespace {

constexpr Gpa kGpa = 1_GiB;
constexpr uint64_t kShared = 0x5ba2ed;
constexpr uint64_t kPrivate = 0x9217a7e;

class AttributeHooks : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = Kvm::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    if (const std::string reason = ProtectedVmsUnavailable(); !reason.empty())
      GTEST_SKIP() << reason;
    if (const std::string reason = SwRmp::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }

  static GuestVmConfig Config(unsigned vcpus = 1) {
    return {.vcpus = vcpus, .type = VmType::kSwProtected};
  }
  static MemorySlot AddFilledSlot(TestVm& vm, Gpa gpa, uint64_t size) {
    MemorySlot slot = vm.AddPrivateSlot(gpa, size);
    FillMemory(slot.memory(), {.start = gpa, .pages = size / kPageSize, .seed = kShared});
    return slot;
  }
};

// The calls of the hooks while it exists.
class HookTrace {
 public:
  HookTrace() : trace_("slotzap-hooks") {
    trace_.Enable("kvmmmu:kvm_mem_attrs");
    trace_.Start();
  }
  // Those since the last time.
  std::vector<MemAttrsStep> Take() {
    std::vector<MemAttrsStep> steps;
    for (const TraceEvent& event : trace_.Read())
      if (const auto step = DecodeMemAttrsStep(event)) steps.push_back(*step);
    EXPECT_EQ(trace_.lost(), 0u);
    trace_.Clear();
    return steps;
  }

 private:
  TraceInstance trace_;
};

std::vector<MemAttrsStep> Select(const std::vector<MemAttrsStep>& steps, const std::string& step) {
  std::vector<MemAttrsStep> selected;
  std::copy_if(steps.begin(), steps.end(), std::back_inserter(selected),
               [&](const MemAttrsStep& s) { return s.step == step; });
  return selected;
}

// The pieces follow each other, cover the range, and none crosses a 2 MiB boundary.
void ExpectPieces(const std::vector<MemAttrsStep>& pieces, const GpaRange& range) {
  ASSERT_FALSE(pieces.empty());
  EXPECT_EQ(pieces.front().start, range.first_gfn());
  EXPECT_EQ(pieces.back().end, range.end_gfn());
  for (size_t i = 0; i < pieces.size(); i++) {
    EXPECT_LT(pieces[i].start, pieces[i].end);
    EXPECT_EQ(pieces[i].start / 512, (pieces[i].end - 1) / 512);
    EXPECT_TRUE(i == 0 || pieces[i].start == pieces[i - 1].end);
  }
}

TEST_F(AttributeHooks, OffByDefault) {
  const std::string parameter = std::string(SwRmp::kParameters) + "/sw_rmp";
  EXPECT_EQ(ReadLine(parameter), "N");
  TestVm vm(Config());
  MemorySlot slot = AddFilledSlot(vm, kGpa, 64_KiB);
  const SwRmp rmp;  // for VMs created from now on
  vm.vm().MakePrivate(slot.range());
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  EXPECT_EQ(rmp.pages(), 0u);
}

TEST_F(AttributeHooks, ComeInOrder) {
  if (const std::string reason = TraceInstance::Available(); !reason.empty())
    GTEST_SKIP() << reason;
  const SwRmp rmp;
  TestVm vm(Config());
  MemorySlot slot = AddFilledSlot(vm, kGpa, 8_MiB);
  const GpaRange range = {kGpa + 1_MiB, 4_MiB + 4_KiB};
  HookTrace trace;
  for (const bool turn_private : {true, false}) {
    SCOPED_TRACE(turn_private ? "private" : "shared");
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    trace.Take();
    if (turn_private)
      vm.vm().MakePrivate(range);
    else
      vm.vm().MakeShared(range);
    const std::vector<MemAttrsStep> steps = trace.Take();
    const auto rank = [](const MemAttrsStep& step) {
      return step.step == "prepare" ? 0 : step.step == "update" ? 1 : step.step == "finish" ? 2 : 3;
    };
    EXPECT_TRUE(std::is_sorted(steps.begin(), steps.end(),
                               [&](const auto& a, const auto& b) { return rank(a) < rank(b); }));
    for (const MemAttrsStep& step : steps) {
      EXPECT_LT(rank(step), 3) << step.step;
      EXPECT_EQ(step.error, 0);
      EXPECT_EQ(step.attributes, turn_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0u);
      // Only the update is where page faults have to retry.
      EXPECT_EQ(step.invalidating, step.step == "update") << step.step;
    }
    for (const char* step : {"prepare", "update", "finish"}) {
      SCOPED_TRACE(step);
      ExpectPieces(Select(steps, step), range);
    }
  }
  vm.vm().MakeShared(range);
  EXPECT_TRUE(trace.Take().empty()) << "nothing changes, so nobody needs to know";
  EXPECT_EQ(rmp.refused(), 0u);
}

TEST_F(AttributeHooks, ThePagesFollow) {
  const SwRmp rmp;
  {
    TestVm vm(Config());
    MemorySlot slot = AddFilledSlot(vm, kGpa, 1_MiB);
    const GpaRange half = {kGpa, 512_KiB};
    vm.vm().MakePrivate(slot.range());
    EXPECT_EQ(rmp.pages(), 0u) << "no page was needed yet";
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    EXPECT_EQ(rmp.pages(), 256u);
    EXPECT_EQ(rmp.assigned(), 256u);
    EXPECT_EQ(rmp.unmapped(), 256u);

    vm.vm().MakeShared(half);
    EXPECT_EQ(rmp.pages(), 256u) << "the pages stay in the file";
    EXPECT_EQ(rmp.assigned(), 128u);
    EXPECT_EQ(rmp.unmapped(), 128u);

    slot.config().memfd->PunchHole(0, 1_MiB);
    EXPECT_EQ(rmp.pages(), 0u);
    EXPECT_EQ(rmp.assigned(), 0u);
    EXPECT_EQ(rmp.unmapped(), 0u);

    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    EXPECT_EQ(rmp.assigned(), 128u);
    slot.Delete();
    EXPECT_EQ(rmp.assigned(), 128u) << "the memory is the file's, not the slot's";
  }
  EXPECT_EQ(rmp.pages(), 0u);
  EXPECT_EQ(rmp.assigned(), 0u);
  EXPECT_EQ(rmp.unmapped(), 0u);
  EXPECT_EQ(rmp.refused(), 0u);
}

// Attributes can be set before there is a memslot.  The RMP has to know of that, too.
TEST_F(AttributeHooks, AreCalledWithoutAMemslot) {
  const SwRmp rmp;
  TestVm vm(Config());
  vm.vm().MakePrivate({kGpa, 32_KiB});
  MemorySlot slot = AddFilledSlot(vm, kGpa, 64_KiB);
  EXPECT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  EXPECT_EQ(rmp.assigned(), 8u);
  slot.Delete();
  vm.vm().MakeShared({kGpa, 16_KiB});
  EXPECT_EQ(rmp.assigned(), 4u);
  slot.Add();
  EXPECT_THAT(vm.guest().Read(slot.page(1)), Returns(guest::PatternWord(kShared, kPageSize / 8)));
  EXPECT_THAT(vm.guest().TouchRead({slot.range()}), Succeeds());
  EXPECT_EQ(rmp.refused(), 0u);
}

// As on SNP, a page that is assigned at one guest physical address is no good at another.
TEST_F(AttributeHooks, AMappingThatDisagreesIsRefused) {
  const SwRmp rmp;
  TestVm vm(Config());
  const std::shared_ptr<GuestMemfd> memfd = vm.vm().CreateGuestMemfd(64_KiB);
  const auto slot_at = [&](Gpa gpa) {
    return SlotConfig{.gpa = gpa, .memory = std::make_shared<GuestMemory>(64_KiB), .memfd = memfd};
  };
  MemorySlot slot = vm.vm().AddSlot(slot_at(kGpa));
  vm.vm().MakePrivate(slot.range());
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  slot.Delete();

  MemorySlot elsewhere = vm.vm().AddSlot(slot_at(2_GiB));
  vm.vm().MakePrivate(elsewhere.range());
  EXPECT_THAT(vm.guest().Read(elsewhere.page(3)), IsPrivateFaultAt(elsewhere.page(3)));
  EXPECT_EQ(rmp.refused(), 1u);

  // The host takes it back, then it is as good as new.
  memfd->PunchHole(0, 64_KiB);
  EXPECT_THAT(vm.guest().Resume(), Returns(0));
  EXPECT_EQ(rmp.refused(), 1u);
}

// Before, in and after a piece, and in the last one.
TEST_F(AttributeHooks, AFailureChangesNothing) {
  if (const std::string reason = TraceInstance::Available(); !reason.empty())
    GTEST_SKIP() << reason;
  SwRmp rmp;
  TestVm vm(Config());
  MemorySlot slot = AddFilledSlot(vm, kGpa, 8_MiB);
  const Pattern shared = PatternOf(slot, kShared);
  const GpaRange range = {kGpa + 1_MiB, 5_MiB};
  // Some are private already, and stay it; some pages exist, but aren't private anymore.
  const GpaRange private_part = {kGpa + 3_MiB, 64_KiB};
  const GpaRange was_private = {kGpa + 1_MiB, 64_KiB};
  vm.vm().MakePrivate(private_part);
  vm.vm().MakePrivate(was_private);
  const Pattern secret = {.range = private_part, .seed = kPrivate};
  ASSERT_THAT(vm.guest().Fill({secret}), Succeeds());
  ASSERT_THAT(vm.guest().TouchWrite({was_private}), Succeeds());
  vm.vm().MakeShared(was_private);
  const Pattern low = PartOf(shared, {kGpa, 3_MiB});
  const Pattern high =
      PartOf(shared, {private_part.end(), slot.range().end() - private_part.end()});
  ASSERT_THAT(vm.guest().Verify({low, secret, high}), SeesPattern());
  const uint64_t pages = rmp.pages();
  const uint64_t assigned = rmp.assigned();
  const uint64_t unmapped = rmp.unmapped();
  const uint64_t to_prepare = range.pages() - private_part.pages();

  HookTrace trace;
  for (const uint64_t after : {0ul, 5ul, 255ul, 256ul, 700ul, to_prepare - 1}) {
    SCOPED_TRACE("fails after " + std::to_string(after) + " pages");
    rmp.FailAfter(after);
    trace.Take();
    const uint64_t faults = vm.FixedFaults();
    EXPECT_THAT(vm.vm().TryMakePrivate(range), FailsWith(EIO));

    // Every piece that was prepared is canceled, the last one first.  Nothing else happens.
    const std::vector<MemAttrsStep> steps = trace.Take();
    std::vector<MemAttrsStep> prepared = Select(steps, "prepare");
    std::vector<MemAttrsStep> canceled = Select(steps, "cancel");
    ASSERT_EQ(steps.size(), prepared.size() + canceled.size());
    ASSERT_FALSE(prepared.empty());
    EXPECT_EQ(prepared.back().error, -EIO);
    prepared.pop_back();
    std::reverse(canceled.begin(), canceled.end());
    EXPECT_EQ(canceled, [&] {
      for (MemAttrsStep& step : prepared) step.step = "cancel";
      return prepared;
    }());

    EXPECT_EQ(rmp.pages(), pages);
    EXPECT_EQ(rmp.assigned(), assigned);
    EXPECT_EQ(rmp.unmapped(), unmapped);
    EXPECT_THAT(vm.guest().Verify({low, secret, high}), SeesPattern());
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "something was zapped";
  }

  EXPECT_THAT(vm.vm().TryMakePrivate(range), IsOk());
  EXPECT_THAT(vm.guest().Verify({secret, PartOf(shared, {kGpa, 1_MiB})}), SeesPattern());
  EXPECT_THAT(vm.guest().TouchWrite({range}), Succeeds());
  EXPECT_EQ(rmp.assigned(), range.pages());
  EXPECT_EQ(rmp.refused(), 0u);
}

// The window is held open with the new attributes stored and the RMP not updated.  A vCPU that
// faults on the range then has to retry until both agree.
class AttributeHooksWindow : public AttributeHooks, public testing::WithParamInterface<bool> {};

TEST_P(AttributeHooksWindow, AFaultInTheWindowIsRetried) {
  const bool turn_private = GetParam();
  SwRmp rmp;
  TestVm vm(Config());
  MemorySlot slot = AddFilledSlot(vm, kGpa, 4_MiB);
  const GpaRange range = {kGpa + 2_MiB - 16_KiB, 32_KiB};
  const Gpa gpa = range.start + 4 * kPageSize;  // in the second piece
  vm.vm().MakePrivate(range);
  ASSERT_THAT(vm.guest().Write(gpa, 42), Succeeds());
  const uint64_t shared_word = guest::PatternWord(kShared, (gpa - kGpa) / 8);
  if (turn_private) {
    vm.vm().MakeShared(range);
    ASSERT_THAT(vm.guest().Read(gpa), Returns(shared_word));
  }
  // What isn't in the range is mapped, so that only the access in question faults.
  ASSERT_THAT(vm.guest().Nop(), Succeeds());
  const uint64_t faults = vm.FixedFaults();

  rmp.HoldWindow();
  std::thread converter([&] {
    EXPECT_THAT(turn_private ? vm.vm().TryMakePrivate(range) : vm.vm().TryMakeShared(range),
                IsOk());
  });
  while (rmp.held() == 0) std::this_thread::yield();
  {
    AsyncCommand reader(vm.guest(), [&](Guest& guest) { return guest.Read(gpa); });
    reader.WaitForExits(50);
    EXPECT_FALSE(reader.ended()) << "the vCPU got past the window";
    EXPECT_EQ(vm.FixedFaults(), faults) << kPrecision << "something was mapped in the window";
    EXPECT_EQ(rmp.held(), 1u);
    rmp.ReleaseWindow();
    converter.join();
    EXPECT_THAT(reader.Join(), Returns(turn_private ? 42 : shared_word));
  }
  EXPECT_EQ(rmp.held(), 0u);
  EXPECT_EQ(rmp.refused(), 0u) << "a mapping disagreed with the RMP";
}

// The rest of the VM isn't affected while the window is open.
TEST_P(AttributeHooksWindow, OthersGoOn) {
  const bool turn_private = GetParam();
  SwRmp rmp;
  TestVm vm(Config());
  MemorySlot slot = AddFilledSlot(vm, kGpa, 4_MiB);
  MemorySlot other = AddFilledSlot(vm, 2_GiB, 1_MiB);
  const GpaRange range = {kGpa, 2_MiB};
  if (!turn_private) vm.vm().MakePrivate(range);

  rmp.HoldWindow();
  std::thread converter([&] {
    EXPECT_THAT(turn_private ? vm.vm().TryMakePrivate(range) : vm.vm().TryMakeShared(range),
                IsOk());
  });
  while (rmp.held() == 0) std::this_thread::yield();
  EXPECT_THAT(vm.guest().TouchWrite({other.range()}), Succeeds());
  EXPECT_THAT(vm.guest().TouchWrite({{kGpa + 2_MiB, 2_MiB}}), Succeeds());
  EXPECT_EQ(rmp.held(), 1u);
  rmp.ReleaseWindow();
  converter.join();
  EXPECT_THAT(vm.guest().TouchWrite({range}), Succeeds());
  EXPECT_EQ(rmp.refused(), 0u);
}

std::string TurnName(const testing::TestParamInfo<bool>& info) {
  return info.param ? "Private" : "Shared";
}
INSTANTIATE_TEST_SUITE_P(Turn, AttributeHooksWindow, testing::Values(true, false), TurnName);

TEST_F(AttributeHooks, TenThousandConversionsLeakNothing) {
  SetTestTimeout(std::chrono::seconds(180));
  const SwRmp rmp;
  {
    TestVm vm(Config());
    MemorySlot slot = AddFilledSlot(vm, kGpa, 64_KiB);
    const Pattern shared = PatternOf(slot, kShared);
    const Pattern secret = PatternOf(slot, kPrivate);
    vm.vm().MakePrivate(slot.range());
    ASSERT_THAT(vm.guest().Fill({secret}), Succeeds());
    const Leaves leaves = PresentLeaves(vm.vm().stats().Read());
    for (int round = 0; round < 5000; round++) {
      vm.vm().MakeShared(slot.range());
      const bool look = round % 250 == 0;
      if (look) {
        ASSERT_THAT(vm.guest().Verify({shared}), SeesPattern());
        ASSERT_EQ(rmp.assigned(), 0u);
        ASSERT_EQ(rmp.unmapped(), 0u);
      }
      vm.vm().MakePrivate(slot.range());
      if (look) {
        ASSERT_THAT(vm.guest().Verify({secret}), SeesPattern());
      }
      ASSERT_EQ(rmp.pages(), slot.range().pages());
      ASSERT_EQ(rmp.assigned(), slot.range().pages());
    }
    EXPECT_THAT(vm.guest().Verify({secret}), SeesPattern());
    EXPECT_EQ(PresentLeaves(vm.vm().stats().Read()), leaves) << kPrecision;
  }
  EXPECT_EQ(rmp.pages(), 0u);
  EXPECT_EQ(rmp.assigned(), 0u);
  EXPECT_EQ(rmp.unmapped(), 0u);
  EXPECT_EQ(rmp.refused(), 0u);
}

// --- races ---------------------------------------------------------------------------------------

// vCPUs access a slot all along while `disturb` does something to it.  An access sees what was
// written privately, what the host wrote, or zero where a hole was punched.  The test is worth
// nothing if no vCPU ever saw the change, so it counts.
class ProtectedRace : public AttributeHooks {
 protected:
  struct Seen {
    uint64_t shared = 0, secret = 0, zero = 0, other = 0, exits = 0;
  };

  static constexpr uint64_t kSize = 128_KiB;
  static constexpr uint64_t kSecret = 0x5ec2e7;

  // Reads page after page until told to stop; an exit because there's no memory is tried again.
  static Seen ReadUntil(Guest& guest, const bool& stop) {
    Seen seen;
    for (uint64_t page = 0; !__atomic_load_n(&stop, __ATOMIC_ACQUIRE); page++) {
      const uint64_t index = page % (kSize / kPageSize);
      const Gpa gpa = kGpa + index * kPageSize;
      Outcome outcome = guest.Read(gpa);
      while (!outcome.done && outcome.memory_fault) {
        seen.exits++;
        EXPECT_EQ(outcome.memory_fault->gpa, gpa) << outcome.exit_text;
        outcome = guest.Resume();
      }
      if (!outcome.done) {
        ADD_FAILURE() << outcome.exit_text;
        break;
      }
      if (outcome.value == guest::PatternWord(kShared, index * kPageSize / 8))
        seen.shared++;
      else if (outcome.value == kSecret)
        seen.secret++;
      else if (outcome.value == 0 || outcome.value == guest::kNoMemory)
        seen.zero++;
      else
        seen.other++;
    }
    return seen;
  }

  template <typename Disturb>
  static Seen Race(TestVm& vm, int rounds, Disturb disturb) {
    bool stop = false;
    Seen total;
    std::vector<Seen> seen(vm.vcpus());
    std::vector<std::thread> readers;
    for (unsigned i = 0; i < vm.vcpus(); i++)
      readers.emplace_back([&, i] { seen[i] = ReadUntil(vm.guest(i), stop); });
    for (int round = 0; round < rounds; round++) disturb(round);
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    for (std::thread& reader : readers) reader.join();
    for (const Seen& s : seen) {
      total.shared += s.shared;
      total.secret += s.secret;
      total.zero += s.zero;
      total.other += s.other;
      total.exits += s.exits;
    }
    return total;
  }

  static void WriteSecret(TestVm& vm) {
    for (Gpa gpa = kGpa; gpa < kGpa + kSize; gpa += kPageSize)
      ASSERT_THAT(vm.guest().Write(gpa, kSecret), Succeeds());
  }

  // Lets the readers get somewhere before the next change.
  static void WaitForReads(TestVm& vm, uint64_t n) {
    for (unsigned i = 0; i < vm.vcpus(); i++) {
      const Stats& stats = vm.guest(i).vcpu().stats();
      const uint64_t begin = stats.Read("exits");
      while (stats.Read("exits") - begin < n) std::this_thread::yield();
    }
  }
};

TEST_F(ProtectedRace, ConvertAgainstFaults) {
  const SwRmp rmp;
  TestVm vm(Config(2));
  MemorySlot slot = AddFilledSlot(vm, kGpa, kSize);
  vm.vm().MakePrivate(slot.range());
  WriteSecret(vm);
  const Seen seen = Race(vm, 200, [&](int round) {
    if (round % 2 == 0)
      vm.vm().MakeShared(slot.range());
    else
      vm.vm().MakePrivate(slot.range());
    if (round % 8 < 2) WaitForReads(vm, 3);
  });
  EXPECT_GT(seen.shared, 0u);
  EXPECT_GT(seen.secret, 0u);
  EXPECT_EQ(seen.zero, 0u) << "private memory was lost";
  EXPECT_EQ(seen.other, 0u);
  // KVM looks at the attributes more than once while it resolves a fault, and exits to userspace if
  // they changed in between (kvm_faultin_pfn()): once per vCPU and conversion, at most.
  EXPECT_LE(seen.exits, 2u * 200u);
  EXPECT_EQ(rmp.refused(), 0u);
}

TEST_F(ProtectedRace, PunchAgainstFaults) {
  const SwRmp rmp;
  TestVm vm(Config(2));
  MemorySlot slot = AddFilledSlot(vm, kGpa, kSize);
  vm.vm().MakePrivate(slot.range());
  WriteSecret(vm);
  const Seen seen = Race(vm, 200, [&](int round) {
    WaitForReads(vm, 2);
    // One page after the other, and then everything over and over.
    if (round < 32)
      slot.config().memfd->PunchHole(static_cast<uint64_t>(round) * kPageSize, kPageSize);
    else
      slot.config().memfd->PunchHole(0, kSize);
  });
  EXPECT_GT(seen.secret, 0u);
  EXPECT_GT(seen.zero, 0u);
  EXPECT_EQ(seen.shared, 0u);
  EXPECT_EQ(seen.other, 0u);
  EXPECT_EQ(seen.exits, 0u);
  EXPECT_EQ(rmp.refused(), 0u);
}

TEST_F(ProtectedRace, DeleteAgainstFaults) {
  const SwRmp rmp;
  TestVm vm(Config(2));
  MemorySlot slot = AddFilledSlot(vm, kGpa, kSize);
  vm.vm().MakePrivate(slot.range());
  WriteSecret(vm);
  const Seen seen = Race(vm, 100, [&](int round) {
    slot.Delete();
    if (round % 4 == 0) WaitForReads(vm, 2);
    slot.Add();
    WaitForReads(vm, 2);
  });
  EXPECT_GT(seen.secret, 0u);
  EXPECT_GT(seen.exits, 0u) << "no vCPU ever hit the deleted slot";
  EXPECT_EQ(seen.zero, 0u) << "deleting a slot doesn't free its guest_memfd";
  EXPECT_EQ(seen.shared + seen.other, 0u);
  EXPECT_EQ(rmp.refused(), 0u);
}

TEST_F(ProtectedRace, EverythingAtOnce) {
  SetTestTimeout(std::chrono::seconds(180));
  const SwRmp rmp;
  TestVm vm(Config(3));
  MemorySlot slot = AddFilledSlot(vm, kGpa, kSize);
  vm.vm().MakePrivate(slot.range());
  WriteSecret(vm);
  bool stop = false;
  std::thread puncher([&] {
    for (uint64_t i = 0; !__atomic_load_n(&stop, __ATOMIC_ACQUIRE); i++)
      slot.config().memfd->PunchHole(i % 32 * kPageSize, kPageSize);
  });
  std::thread converter([&] {
    for (uint64_t i = 0; !__atomic_load_n(&stop, __ATOMIC_ACQUIRE); i++) {
      const GpaRange part = {kGpa + i % 7 * 4 * kPageSize, 16 * kPageSize};
      if (i % 2 == 0)
        vm.vm().MakeShared(part);
      else
        vm.vm().MakePrivate(part);
    }
  });
  const Seen seen = Race(vm, 60, [&](int) {
    slot.Delete();
    slot.Add();
    WaitForReads(vm, 2);
  });
  __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
  puncher.join();
  converter.join();
  EXPECT_GT(seen.shared, 0u);
  EXPECT_GT(seen.zero, 0u);
  EXPECT_EQ(seen.other, 0u);
  EXPECT_EQ(rmp.refused(), 0u);
}

}  // namespace
}  // namespace slotzap
