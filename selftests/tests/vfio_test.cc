// SPDX-License-Identifier: GPL-2.0-only
// Theme: assigned devices.  A VM has a PCI device by VFIO: its BAR is a memslot, the VM's memory is
// mapped for its DMA at guest physical addresses, KVM is told by its kvm-vfio device.  Memslots
// come and go while the device works.
//
// In 2019 zapping no more than the slot was taken back because of guests with assigned GPUs.
#include <linux/vfio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <list>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "base/event_fd.h"
#include "host/page_flags.h"
#include "host/pins.h"
#include "kvm/kvm_vfio.h"
#include "oracle/interleaving.h"
#include "tests/test_device.h"
#include "vfio/edu.h"
#include "vfio/memory_image.h"
#include "vfio/vfio.h"

namespace slotzap {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using Direction = EduTransfer::Direction;

constexpr uint64_t kSeed = 0x50;
constexpr Gpa kBarGpa = 1_GiB;
// The edu device reaches the first 256 MiB.
constexpr Gpa kRam = 64_MiB;
constexpr uint64_t kRamSize = 256_KiB;
constexpr uint64_t kBarSize = 1_MiB;  // of larger BARs, the beginning

const char* Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// A VM that has a device, as a VMM would set it up.
class AssignedVm : public TestVm {
 public:
  AssignedVm(const GuestVmConfig& config, const PciDevice& pci)
      : TestVm(config), assigned_(pci), kvm_vfio_(vm()) {
    kvm_vfio_.AddGroup(assigned_.group.fd());
  }

  AssignedDevice& assigned() { return assigned_; }
  VfioContainer& container() { return assigned_.container; }

  // The device's BAR, or the beginning of it, as a memslot.  None if the device has no BAR that can
  // be mapped.
  std::optional<MemorySlot> AddBar(Gpa gpa) {
    for (uint32_t i = VFIO_PCI_BAR0_REGION_INDEX; i <= VFIO_PCI_BAR5_REGION_INDEX; i++) {
      const VfioDevice::Region region = assigned_.device.GetRegion(i);
      if (!region.can_map || region.size < kPageSize) continue;
      return vm().AddSlot({.gpa = gpa,
                           .memory = GuestMemory::OfDevice(assigned_.device.Map(i)),
                           .size = std::min(region.size, kBarSize)});
    }
    return std::nullopt;
  }

 private:
  AssignedDevice assigned_;
  KvmVfio kvm_vfio_;
};

class VfioTest : public SlotTest {
 protected:
  void SetUp() override {
    SlotTest::SetUp();
    if (IsSkipped()) return;
    const VfioChoice choice = ChooseVfioDevice(Environment("VFIO_DEVICE"));
    if (!choice.error.empty()) FAIL() << choice.error;
    if (!choice.device) GTEST_SKIP() << choice.unavailable;
    pci_ = *choice.device;
  }

  const PciDevice& pci() const { return pci_; }
  bool is_edu() const { return Edu::Drives(pci_); }

  // What was zapped when `slot` went, and what it cost `others`, which are all mapped.
  template <typename Update>
  void ExpectPrecise(TestVm& vm, const GpaRange& slot, const std::vector<GpaRange>& others,
                     Update update) {
    ZapWatch watch(vm.vm());
    update();
    const ZapReport report = watch.Stop();
    const uint64_t faults = vm.FixedFaults();
    uint64_t pages = 0;
    for (const GpaRange& other : others) {
      EXPECT_THAT(vm.guest().TouchRead({other}), Succeeds());
      pages += other.pages();
    }
    const uint64_t refaults = vm.FixedFaults() - faults;
    if (slot_zap_all()) {
      EXPECT_THAT(report, ZappedEverything());
      EXPECT_GE(refaults, pages / 8) << kPrecision << "not everything was faulted in again";
    } else {
      EXPECT_THAT(report, ZappedOnly({{slot}}, CurrentMmuMode()));
      EXPECT_EQ(refaults, 0u) << kPrecision << "other slots were faulted in again";
    }
  }

 private:
  PciDevice pci_;
};

// --- the BAR as a memslot

class VfioBar : public VfioTest {
 protected:
  // The guest reads the device, not KVM_EXIT_MMIO; an edu's registers are read and written.
  void ExpectBarAt(AssignedVm& vm, const MemorySlot& bar) {
    EXPECT_THAT(vm.guest().TouchRead({bar.range()}), Succeeds());
    if (!is_edu()) return;
    Edu edu(bar.memory().mapping());
    EXPECT_THAT(vm.guest().ReadSized(bar.page(0) + Edu::kId, 4), Returns(Edu::kIdValue));
    liveness_ += 0x1234567;
    EXPECT_THAT(vm.guest().WriteSized(bar.page(0) + Edu::kLiveness, liveness_, 4), Succeeds());
    EXPECT_EQ(edu.liveness(), ~liveness_) << "the guest's write did not arrive";
    edu.SetLiveness(~liveness_);
    EXPECT_THAT(vm.guest().ReadSized(bar.page(0) + Edu::kLiveness, 4), Returns(liveness_));
    edu.SetLiveness(liveness_);
  }
  // All accesses of the guest to where the BAR was are KVM_EXIT_MMIO, and nothing arrives.
  void ExpectNoBarIn(AssignedVm& vm, const MemorySlot& bar, const GpaRange& range) {
    EXPECT_THAT(vm.guest().TouchRead({range}), FindsNothingIn(range));
    if (!is_edu()) return;
    const Gpa gpa = range.start + Edu::kLiveness;
    EXPECT_THAT(vm.guest().WriteSized(gpa, 0xbad, 4).mmio,
                ElementsAre(MmioAccess{gpa, 4, true, 0xbad}));
    EXPECT_EQ(Edu(bar.memory().mapping()).liveness(), ~liveness_)
        << "the guest wrote to a BAR that is not mapped";
  }

 private:
  uint32_t liveness_ = 0;
};

TEST_P(VfioBar, ReachableExactlyWhenMapped) {
  AssignedVm vm(Config(), pci());
  std::optional<MemorySlot> bar = vm.AddBar(kBarGpa);
  if (!bar) GTEST_SKIP() << "no BAR of " << pci().Ids() << " can be mapped";
  ExpectBarAt(vm, *bar);
  for (int round = 0; round < 2; round++) {
    SCOPED_TRACE("round " + std::to_string(round));
    const GpaRange here = bar->range();
    bar->Delete();
    ExpectNoBarIn(vm, *bar, here);
    bar->Add();
    ExpectBarAt(vm, *bar);
    // Far away, then over itself.
    bar->MoveTo(3_GiB);
    ExpectNoBarIn(vm, *bar, here);
    ExpectBarAt(vm, *bar);
    bar->MoveTo(3_GiB + kPageSize);
    ExpectNoBarIn(vm, *bar, {3_GiB, kPageSize});
    ExpectBarAt(vm, *bar);
    bar->MoveTo(here.start);
    ExpectNoBarIn(vm, *bar, {3_GiB, here.size});
    ExpectBarAt(vm, *bar);
  }
}

TEST_P(VfioBar, DeletingItSparesMemoryAndTheOtherWayRound) {
  AssignedVm vm(Config(), pci());
  std::optional<MemorySlot> bar = vm.AddBar(kBarGpa);
  if (!bar) GTEST_SKIP() << "no BAR of " << pci().Ids() << " can be mapped";
  MemorySlot below = vm.AddFilledSlot(kBarGpa - kRamSize, kRamSize, kSeed);
  MemorySlot above = vm.AddFilledSlot(bar->range().end(), kRamSize, kSeed + 1);
  const auto touch = [&] {
    return vm.guest().TouchRead({bar->range(), below.range(), above.range()});
  };
  ASSERT_THAT(touch(), Succeeds());
  ExpectPrecise(vm, bar->range(), {below.range(), above.range()}, [&] { bar->Delete(); });
  bar->Add();
  ASSERT_THAT(touch(), Succeeds());
  ExpectPrecise(vm, above.range(), {bar->range(), below.range()}, [&] { above.Delete(); });
  above.Add();
  ASSERT_THAT(touch(), Succeeds());
  ExpectPrecise(vm, bar->range(), {below.range(), above.range()}, [&] { bar->MoveTo(3_GiB); });
  ExpectBarAt(vm, *bar);
  EXPECT_THAT(vm.guest().Verify({PatternOf(below, kSeed), PatternOf(above, kSeed + 1)}),
              SeesPattern());
}

// A device that does not answer at its BAR, because its configuration space says so, which is not
// the guest's to write: VFIO unmaps the BAR, and KVM has no page for the slot.  The guest's access
// neither reaches the device nor gets an answer.
TEST_P(VfioBar, DisabledWhileItIsMapped) {
  AssignedVm vm(Config(), pci());
  std::optional<MemorySlot> bar = vm.AddBar(kBarGpa);
  if (!bar) GTEST_SKIP() << "no BAR of " << pci().Ids() << " can be mapped";
  MemorySlot other = vm.AddFilledSlot(kBarGpa - kRamSize, kRamSize, kSeed);
  const VfioDevice& device = vm.assigned().device;
  const auto expect_no_answer = [&](const auto& access) {
    try {
      const Outcome outcome = access();
      ADD_FAILURE() << "the vCPU went on: " << outcome;
    } catch (const KvmError& e) {
      EXPECT_EQ(e.error(), EFAULT) << e.what();
    }
  };
  ExpectBarAt(vm, *bar);
  ASSERT_THAT(vm.guest().TouchRead({bar->range(), other.range()}), Succeeds());
  {
    ZapWatch watch(vm.vm());
    device.DisableMemory();
    EXPECT_THAT(watch.Stop(), ZappedOnly({{bar->range()}}, CurrentMmuMode()));
  }
  expect_no_answer([&] { return vm.guest().ReadSized(bar->page(0), 4); });
  expect_no_answer([&] { return vm.guest().Resume(); });
  device.EnableMemory();
  EXPECT_THAT(vm.guest().Resume(), Succeeds());
  ExpectBarAt(vm, *bar);

  // What comes and goes meanwhile is the slot, not the BAR.
  const GpaRange here = bar->range();
  device.DisableMemory();
  bar->Delete();
  EXPECT_THAT(vm.guest().TouchRead({here}), FindsNothingIn(here));
  bar->Add();
  expect_no_answer([&] { return vm.guest().ReadSized(bar->page(0), 4); });
  bar->MoveTo(3_GiB);
  EXPECT_THAT(vm.guest().Resume().mmio,
              ElementsAre(MmioAccess{here.start, 4, false, guest::kNoMemory}));
  expect_no_answer([&] { return vm.guest().ReadSized(bar->page(0), 4); });
  device.EnableMemory();
  EXPECT_THAT(vm.guest().Resume(), Succeeds());
  EXPECT_THAT(vm.guest().Verify({PatternOf(other, kSeed)}), SeesPattern());
  ExpectNoBarIn(vm, *bar, here);
  ExpectBarAt(vm, *bar);
  if (!is_edu()) return;

  // A write waits until somebody is there.
  const Gpa gpa = bar->page(0) + Edu::kLiveness;
  const uint32_t liveness = Edu(bar->memory().mapping()).liveness();
  device.DisableMemory();
  expect_no_answer([&] { return vm.guest().WriteSized(gpa, liveness, 4); });
  device.EnableMemory();
  const Edu edu(bar->memory().mapping());
  EXPECT_EQ(edu.liveness(), liveness) << "the guest wrote to a BAR that was disabled";
  EXPECT_THAT(vm.guest().Resume(), Succeeds());
  EXPECT_EQ(edu.liveness(), ~liveness) << "the guest's write did not arrive";
}

SLOTZAP_INSTANTIATE(VfioBar);

// --- DMA

// A memslot that the device can reach, and what it should hold.
struct Ram {
  Ram(AssignedVm& vm, Gpa gpa, uint64_t size, uint64_t seed_of_pattern, bool mapped = true)
      : slot(vm.AddFilledSlot(gpa, size, seed_of_pattern)),
        seed(seed_of_pattern),
        image(slot.memory().bytes()) {
    if (mapped) vm.container().MapDma(gpa, slot.memory().address(), size);
  }

  MemorySlot slot;
  uint64_t seed;
  MemoryImage image;
};

// A VM with an edu device, and memory: what the device reads, what it writes to, and memory that
// nobody has any business with, right below and above.
class DmaVm : public AssignedVm {
 public:
  DmaVm(const GuestVmConfig& config, const PciDevice& pci)
      : AssignedVm(config, pci), bar(AddBar(kBarGpa).value()), edu(bar.memory().mapping()) {
    edu.WaitUntilIdle();
    assigned().device.EnableBusMaster();
  }

  // How a transfer is begun.
  void StartByHost(const EduTransfer& transfer) { edu.Start(transfer); }
  void StartByGuest(const EduTransfer& transfer) {
    for (const RegisterWrite& write : Edu::Program(transfer))
      EXPECT_THAT(guest().WriteSized(bar.page(0) + write.offset, write.value, write.size),
                  Succeeds());
  }
  void Transfer(const EduTransfer& transfer) {
    StartByHost(transfer);
    edu.WaitUntilIdle();
  }

  // The target as it was at first, mapped by the guest.
  void ResetTarget() {
    FillMemory(target.slot.memory(), {.start = target.slot.range().start,
                                      .pages = target.slot.range().pages(),
                                      .seed = target.seed});
    target.image = MemoryImage(target.slot.memory().bytes());
    EXPECT_THAT(guest().Verify({PatternOf(target.slot, target.seed)}), SeesPattern());
  }

  // Nothing but what the images say, in any memory that the device could reach, as the host sees
  // it.
  void ExpectMemoryAsItShouldBe() {
    for (const Ram* ram : {&source, &target, &below, &above})
      EXPECT_EQ(ram->image.DifferencesOf(ram->slot.memory().bytes()), "")
          << "in the memory that the guest has at " << ram->slot.range();
  }
  // The same as the guest sees it: `arrived` of the source's bytes, from `from` on, are at `to` of
  // the target.
  void ExpectGuestSees(uint64_t from, uint64_t to, uint64_t arrived) {
    EXPECT_THAT(
        guest().Verify({PatternOf(source.slot, source.seed), PatternOf(below.slot, below.seed),
                        PatternOf(above.slot, above.seed)}),
        SeesPattern());
    ASSERT_EQ(from % 8, to % 8);
    const uint64_t first = (to + 7) / 8;
    const uint64_t end = (to + arrived) / 8;
    const uint64_t touched = (to + arrived + 7) / 8 - to / 8;
    const uint64_t words = target.slot.range().size / 8;
    const Pattern old = PatternOf(target.slot, target.seed);
    const Pattern arrival = {
        .range = old.range, .seed = source.seed, .first_word = from / 8 - to / 8};
    EXPECT_EQ(guest().Verify({old}).verdict.matches, words - touched)
        << "words of the target that were not to change";
    EXPECT_EQ(guest().Verify({arrival}).verdict.matches, end - first)
        << "words that arrived where they belong";
    for (const uint64_t edge : {first - 1, first, end - 1, end})
      EXPECT_THAT(guest().Read(target.slot.page(0) + edge * 8),
                  Returns(target.image.Load(edge * 8)))
          << "at the edge of what arrived";
  }

  // So that the slots are neighbours in guest physical memory.
  Ram below{*this, kRam - kRamSize, kRamSize, kSeed};
  Ram target{*this, kRam, kRamSize, kSeed + 1};
  Ram above{*this, kRam + kRamSize, kRamSize, kSeed + 2};
  Ram source{*this, 2 * kRam, kRamSize, kSeed + 3};
  MemorySlot bar;
  Edu edu;
};

// What a transfer of these tests copies: across the edge of a page on both sides, from and to no
// multiple of anything.
constexpr uint64_t kFrom = 3 * kPageSize - 1005;
constexpr uint64_t kTo = 7 * kPageSize - 1981;
static_assert(kFrom % 8 == kTo % 8);
constexpr uint64_t kBytes = 3001;
constexpr uint64_t kBufferOffset = 13;

class VfioDma : public VfioTest {
 protected:
  void SetUp() override {
    VfioTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (!is_edu()) GTEST_SKIP() << "no driver for " << pci().Ids() << " to make it do DMA";
  }

  static EduTransfer ToDevice(Gpa iova) {
    return {Direction::kToDevice, iova, kBytes, kBufferOffset};
  }
  static EduTransfer FromDevice(Gpa iova) {
    return {Direction::kFromDevice, iova, kBytes, kBufferOffset};
  }
  static EduTransfer Load(DmaVm& vm) { return ToDevice(vm.source.slot.page(0) + kFrom); }
  static EduTransfer Store(DmaVm& vm) { return FromDevice(vm.target.slot.page(0) + kTo); }
  // From here on, what Store() copies belongs in the target.
  static void ExpectStored(DmaVm& vm) {
    vm.target.image.Write(kTo, vm.source.image.Part(kFrom, kBytes));
  }

  static void ExpectGuestSeesStored(DmaVm& vm) { vm.ExpectGuestSees(kFrom, kTo, kBytes); }

  // Lets `start` begin a transfer, and `update` do something to a slot while it is under way.
  // `prepare` before, and `check` after it is done, make each attempt a test of its own.
  // There is nothing to make the device wait, so `update` may come late, on a machine that is busy:
  // not each attempt shows what it was made for, but one of them has to.
  template <typename Prepare, typename Start, typename Update, typename Check>
  static void WhileBusy(DmaVm& vm, const std::string& what, Prepare prepare, Start start,
                        Update update, Check check) {
    WhileBusy([&vm]() -> Edu& { return vm.edu; }, what, prepare, start, update, check);
  }
  // The same with a device that is not the same all the time.
  template <typename Device, typename Prepare, typename Start, typename Update, typename Check>
  static void WhileBusy(Device edu, const std::string& what, Prepare prepare, Start start,
                        Update update, Check check) requires std::is_invocable_r_v<Edu&, Device> {
    SCOPED_TRACE(what);
    for (int attempt = 0; attempt < kAttempts; attempt++) {
      prepare();
      Interleaving interleaving;
      start();
      if (edu().busy()) interleaving.Saw("DMA is under way");
      update();
      interleaving.Saw(what);
      if (edu().busy()) interleaving.Saw("DMA is still under way");
      edu().WaitUntilIdle();
      interleaving.Saw("DMA is done");
      check();
      if (testing::Test::HasFailure()) return;
      if (interleaving.steps().size() == 4) {
        std::cout << "# interleaving: " << interleaving.ToString() << "\n";
        return;
      }
    }
    ADD_FAILURE() << "in none of " << kAttempts << " attempts was the DMA still under way";
  }

 private:
  static constexpr int kAttempts = 5;
};

// Out of the guest's memory and back into it, begun by the host or by the guest.
TEST_P(VfioDma, BothWays) {
  for (const bool by_guest : {false, true}) {
    SCOPED_TRACE(by_guest ? "begun by the guest" : "begun by the host");
    DmaVm vm(Config(), pci());
    const auto transfer = [&](const EduTransfer& what) {
      by_guest ? vm.StartByGuest(what) : vm.StartByHost(what);
      EXPECT_TRUE(vm.edu.busy());
      vm.edu.WaitUntilIdle();
      const uint64_t command = Edu::Program(what).back().value & ~Edu::kDmaRun;
      EXPECT_THAT(vm.guest().ReadSized(vm.bar.page(0) + Edu::kDmaCommand, 8), Returns(command));
      vm.ExpectMemoryAsItShouldBe();
    };
    vm.ResetTarget();
    transfer(Load(vm));
    ExpectStored(vm);
    transfer(Store(vm));
    ExpectGuestSeesStored(vm);
  }
}

// The slot of the memory that the device writes to goes, comes back, moves.  The device knows
// nothing of slots: what it writes arrives in the memory.
TEST_P(VfioDma, IntoASlotThatIsUpdated) {
  DmaVm vm(Config(), pci());
  MemorySlot& slot = vm.target.slot;
  const GpaRange home = slot.range();
  vm.Transfer(Load(vm));
  const auto prepare = [&] { vm.ResetTarget(); };
  const auto start = [&] { vm.StartByGuest(Store(vm)); };
  const auto check = [&] {
    ExpectStored(vm);
    vm.ExpectMemoryAsItShouldBe();
    ExpectGuestSeesStored(vm);
  };
  WhileBusy(
      vm, "slot deleted", prepare, start, [&] { slot.Delete(); },
      [&] {
        EXPECT_THAT(vm.guest().TouchRead({home}), FindsNothingIn(home));
        slot.Add();
        check();
      });
  WhileBusy(
      vm, "slot deleted and added", prepare, start,
      [&] {
        slot.Delete();
        slot.Add();
      },
      check);
  WhileBusy(
      vm, "slot moved", prepare, [&] { vm.StartByHost(FromDevice(home.start + kTo)); },
      [&] { slot.MoveTo(3_GiB); },
      [&] {
        EXPECT_THAT(vm.guest().TouchRead({home}), FindsNothingIn(home));
        check();
        slot.MoveTo(home.start);
        check();
      });
  // What the slot had is what the IOMMU knows, and so what the data comes to, although the guest
  // has other memory there by then.
  const std::shared_ptr<GuestMemory> mapped = slot.config().memory;
  const auto other = std::make_shared<GuestMemory>(kRamSize);
  constexpr uint64_t kOtherSeed = kSeed + 8;
  WhileBusy(
      vm, "slot got other memory",
      [&] {
        vm.ResetTarget();
        FillMemory(*other, {.pages = kRamSize / kPageSize, .seed = kOtherSeed});
      },
      start,
      [&] {
        slot.Delete();
        slot.AddWith(other);
        EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kOtherSeed)}), SeesPattern());
      },
      [&] {
        EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kOtherSeed)}), SeesPattern());
        slot.Delete();
        slot.AddWith(mapped);
        check();
      });
}

// The slot of the memory that the device reads, likewise.
TEST_P(VfioDma, OutOfASlotThatIsUpdated) {
  DmaVm vm(Config(), pci());
  MemorySlot& slot = vm.source.slot;
  const GpaRange home = slot.range();
  const auto prepare = [&] {
    vm.ResetTarget();
    EXPECT_THAT(vm.guest().TouchRead({home}), Succeeds());
    // So that the device holds something else.
    vm.Transfer(ToDevice(vm.below.slot.page(0) + kFrom));
  };
  const auto start = [&] { vm.StartByHost(ToDevice(home.start + kFrom)); };
  const auto check = [&] {
    vm.Transfer(Store(vm));
    ExpectStored(vm);
    vm.ExpectMemoryAsItShouldBe();
    ExpectGuestSeesStored(vm);
  };
  WhileBusy(
      vm, "slot deleted", prepare, start, [&] { slot.Delete(); },
      [&] {
        EXPECT_THAT(vm.guest().TouchRead({home}), FindsNothingIn(home));
        slot.Add();
        check();
      });
  WhileBusy(
      vm, "slot moved", prepare, start, [&] { slot.MoveTo(3_GiB); },
      [&] {
        EXPECT_THAT(vm.guest().TouchRead({home}), FindsNothingIn(home));
        check();
        slot.MoveTo(home.start);
      });
}

// The BAR that the DMA was begun through goes, and comes back.
TEST_P(VfioDma, ThroughABarThatIsDeleted) {
  DmaVm vm(Config(), pci());
  const GpaRange home = vm.bar.range();
  vm.Transfer(Load(vm));
  WhileBusy(
      vm, "BAR deleted", [&] { vm.ResetTarget(); }, [&] { vm.StartByGuest(Store(vm)); },
      [&] { vm.bar.Delete(); },
      [&] {
        EXPECT_THAT(vm.guest().TouchRead({home}), FindsNothingIn(home));
        ExpectStored(vm);
        vm.ExpectMemoryAsItShouldBe();
        ExpectGuestSeesStored(vm);
        vm.bar.Add();
        EXPECT_THAT(vm.guest().ReadSized(home.start + Edu::kDmaCommand, 8),
                    Returns(Edu::kDmaFromDevice));
      });
}

// The BAR goes elsewhere: by its new address the guest sees the DMA end, and begins the next.  What
// it writes to the old one does not reach the device.
TEST_P(VfioDma, ThroughABarThatIsMoved) {
  DmaVm vm(Config(), pci());
  const GpaRange home = vm.bar.range();
  const Gpa kAway = 3_GiB;
  vm.Transfer(Load(vm));
  const auto expect_no_bar_at = [&](const GpaRange& range) {
    EXPECT_THAT(vm.guest().TouchRead({range}), FindsNothingIn(range));
    const uint32_t liveness = vm.edu.liveness();
    const Gpa gpa = range.start + Edu::kLiveness;
    EXPECT_THAT(vm.guest().WriteSized(gpa, liveness, 4).mmio,
                ElementsAre(MmioAccess{gpa, 4, true, liveness}));
    EXPECT_EQ(vm.edu.liveness(), liveness) << "the guest wrote to where the BAR was";
  };
  WhileBusy(
      vm, "BAR moved", [&] { vm.ResetTarget(); }, [&] { vm.StartByGuest(Store(vm)); },
      [&] {
        vm.bar.MoveTo(kAway);
        const Outcome command = vm.guest().ReadSized(kAway + Edu::kDmaCommand, 8);
        // If it is busy now, it was before.
        if (vm.edu.busy()) {
          EXPECT_THAT(command, Returns(Edu::kDmaFromDevice | Edu::kDmaRun));
        }
      },
      [&] {
        expect_no_bar_at(home);
        EXPECT_THAT(vm.guest().ReadSized(kAway + Edu::kDmaCommand, 8),
                    Returns(Edu::kDmaFromDevice));
        ExpectStored(vm);
        vm.ExpectMemoryAsItShouldBe();
        ExpectGuestSeesStored(vm);
        vm.ResetTarget();
        vm.StartByGuest(Store(vm));
        vm.edu.WaitUntilIdle();
        vm.bar.MoveTo(home.start);
        expect_no_bar_at({kAway, home.size});
        EXPECT_THAT(vm.guest().ReadSized(home.start + Edu::kDmaCommand, 8),
                    Returns(Edu::kDmaFromDevice));
        ExpectStored(vm);
        vm.ExpectMemoryAsItShouldBe();
        ExpectGuestSeesStored(vm);
      });
}

// A small ROM that becomes RAM and ROM again, as firmware does to its shadow, right below the
// memory that the device works in and that another vCPU reads all the time.
TEST_P(VfioDma, BesideARomThatFlips) {
  DmaVm vm(Config(2), pci());
  constexpr uint64_t kRomSize = 16_KiB;
  constexpr uint64_t kRomSeed = kSeed + 9;
  const auto memory = std::make_shared<GuestMemory>(kRomSize);
  FillMemory(*memory, {.pages = kRomSize / kPageSize, .seed = kRomSeed});
  MemorySlot rom = vm.vm().AddSlot({.gpa = vm.source.slot.range().start - kRomSize,
                                    .memory = memory,
                                    .flags = KVM_MEM_READONLY});
  SlotConfig writable = rom.config();
  writable.flags = 0;
  MemorySlot ram(vm.vm(), rom.id(), writable);

  VerifyLoop loop(vm.guest(1), {PatternOf(vm.source.slot, vm.source.seed)});
  WhileBusy(
      vm, "ROM became RAM and ROM again",
      [&] {
        vm.ResetTarget();
        // So that the device holds something else.
        vm.Transfer(ToDevice(vm.below.slot.page(0) + kFrom));
      },
      [&] { vm.StartByGuest(Load(vm)); },
      [&] {
        EXPECT_THAT(vm.guest().Write(rom.page(1), 0xbad), IsMmioWriteAt(rom.page(1), 0xbad));
        rom.Delete();
        ram.Add();
        EXPECT_THAT(vm.guest().Write(ram.page(0), guest::PatternWord(kRomSeed, 0)), Succeeds());
        ram.Delete();
        rom.Add();
      },
      [&] {
        EXPECT_THAT(vm.guest().Verify({PatternOf(rom, kRomSeed)}), SeesPattern());
        EXPECT_THAT(vm.guest().Write(rom.page(0), 0xbad), IsMmioWriteAt(rom.page(0), 0xbad));
        vm.Transfer(Store(vm));
        ExpectStored(vm);
        vm.ExpectMemoryAsItShouldBe();
        ExpectGuestSeesStored(vm);
      });
  loop.WaitForPasses(1);
  const Outcome outcome = loop.Stop();
  EXPECT_TRUE(outcome.done) << outcome.exit_text;
  EXPECT_GT(outcome.verdict.words, 0u);
  EXPECT_EQ(outcome.verdict.matches, outcome.verdict.words) << "the other vCPU missed memory";
  EXPECT_EQ(outcome.mmio_count, 0u);
}

// As a VMM has it that gives a slot other memory: DMA goes where the IOMMU says now, and nowhere
// when it says nothing.
TEST_P(VfioDma, OnlyWhereItIsMapped) {
  DmaVm vm(Config(), pci());
  MemorySlot& slot = vm.target.slot;
  const uint32_t left = vm.container().MappingsLeft();
  vm.Transfer(Load(vm));
  vm.ResetTarget();

  slot.Delete();
  EXPECT_EQ(vm.container().UnmapDma(slot.range().start, kRamSize), kRamSize);
  EXPECT_EQ(vm.container().MappingsLeft(), left + 1);
  vm.Transfer(Store(vm));
  vm.ExpectMemoryAsItShouldBe();

  const std::shared_ptr<GuestMemory> old_memory = slot.config().memory;
  const MemoryImage old_image = vm.target.image;
  slot.AddWith(std::make_shared<GuestMemory>(kRamSize));
  vm.container().MapDma(slot.range().start, slot.memory().address(), kRamSize);
  EXPECT_EQ(vm.container().MappingsLeft(), left);
  vm.ResetTarget();
  vm.Transfer(Store(vm));
  ExpectStored(vm);
  vm.ExpectMemoryAsItShouldBe();
  ExpectGuestSeesStored(vm);
  EXPECT_EQ(old_image.DifferencesOf(old_memory->bytes()), "")
      << "the device still wrote to the slot's former memory";
}

// The IOMMU has the memory no longer, while the device is about to write there: nothing arrives.
TEST_P(VfioDma, IntoMemoryThatIsUnmapped) {
  DmaVm vm(Config(), pci());
  MemorySlot& slot = vm.target.slot;
  vm.Transfer(Load(vm));
  for (const bool deleted : {false, true}) {
    bool in_time = false;
    WhileBusy(
        vm, deleted ? "slot deleted, memory unmapped" : "memory unmapped",
        [&] { vm.ResetTarget(); }, [&] { vm.StartByGuest(Store(vm)); },
        [&] {
          if (deleted) slot.Delete();
          EXPECT_EQ(vm.container().UnmapDma(slot.range().start, kRamSize), kRamSize);
          in_time = vm.edu.busy();
        },
        [&] {
          if (deleted) slot.Add();
          // The device may have been done before.
          if (in_time) {
            vm.ExpectMemoryAsItShouldBe();
            EXPECT_THAT(vm.guest().Verify({PatternOf(slot, vm.target.seed)}), SeesPattern());
          }
          vm.container().MapDma(slot.range().start, slot.memory().address(), kRamSize);
        });
  }
}

// A VM with an edu device, in pieces that may go in any order.
struct Pieces {
  Pieces(const GuestVmConfig& config, const PciDevice& pci,
         const std::shared_ptr<GuestMemory>& memory)
      : vm(std::make_unique<TestVm>(config)), device(std::make_unique<Device>(pci)) {
    kvm_vfio = std::make_unique<KvmVfio>(vm->vm());
    kvm_vfio->AddGroup(device->assigned.group.fd());
    slot = vm->vm().AddSlot({.gpa = kRam, .memory = memory});
    vm->vm().AddSlot({.gpa = kBarGpa, .memory = device->bar});
    device->assigned.container.MapDma(kRam, memory->address(), memory->size());
    device->assigned.device.EnableBusMaster();
    EXPECT_THAT(vm->guest().TouchWrite({slot->range(), {kBarGpa, device->bar->size()}}),
                Succeeds());
    device->edu.WaitUntilIdle();
  }
  void DestroyVm() {
    kvm_vfio.reset();
    vm.reset();
  }

  struct Device {
    explicit Device(const PciDevice& pci) : assigned(pci) {}
    AssignedDevice assigned;
    std::shared_ptr<GuestMemory> bar =
        GuestMemory::OfDevice(assigned.device.Map(VFIO_PCI_BAR0_REGION_INDEX));
    Edu edu{bar->mapping()};
  };
  std::unique_ptr<TestVm> vm;
  std::unique_ptr<Device> device;
  std::unique_ptr<KvmVfio> kvm_vfio;
  std::optional<MemorySlot> slot;
};

// The VM goes, and the device has nothing to do with that: what is mapped for it gets the data.
// Then all of the device goes as well, before or after the VM.  Whoever has it next finds it at
// work, if there is no way to reset it, but what it writes arrives nowhere any more.
TEST_P(VfioDma, TornDown) {
  const uint64_t locked = LockedBytes();
  const int64_t pinned = OutstandingPins();
  const auto memory = std::make_shared<GuestMemory>(kRamSize);
  std::optional<MemoryImage> image;
  std::unique_ptr<Pieces> pieces;
  std::unique_ptr<Pieces::Device> again;
  const auto prepare = [&] {
    again.reset();
    pieces.reset();
    FillMemory(*memory, {.pages = kRamSize / kPageSize, .seed = kSeed});
    image.emplace(memory->bytes());
    pieces = std::make_unique<Pieces>(Config(), pci(), memory);
    pieces->device->edu.Start(ToDevice(kRam + kFrom));
    pieces->device->edu.WaitUntilIdle();
  };
  const auto start = [&] { pieces->device->edu.Start(FromDevice(kRam + kTo)); };
  const auto edu = [&]() -> Edu& { return again ? again->edu : pieces->device->edu; };

  WhileBusy(
      edu, "VM destroyed", prepare, start, [&] { pieces->DestroyVm(); },
      [&] {
        image->Write(kTo, image->Part(kFrom, kBytes));
        EXPECT_EQ(image->DifferencesOf(memory->bytes()), "");
        EXPECT_EQ(LockedBytes(), locked + kRamSize) << "it is mapped without a VM, too";
      });
  for (const bool vm_first : {true, false}) {
    bool in_time = false;
    WhileBusy(
        edu, vm_first ? "VM and device destroyed" : "device and VM destroyed", prepare, start,
        [&] {
          if (vm_first) pieces->DestroyVm();
          // KVM has the group as well.
          pieces->kvm_vfio.reset();
          pieces->device.reset();
          if (!vm_first) {
            EXPECT_THAT(pieces->vm->guest().Verify({PatternOf(*pieces->slot, kSeed)}),
                        SeesPattern());
          }
          pieces.reset();
          again = std::make_unique<Pieces::Device>(pci());
          // It may do DMA, if only it knew where.
          again->assigned.device.EnableBusMaster();
          in_time = again->edu.busy();
        },
        [&] {
          // The device may have been done before.
          if (in_time) {
            EXPECT_EQ(image->DifferencesOf(memory->bytes()), "");
          }
          EXPECT_EQ(LockedBytes(), locked);
          EXPECT_EQ(OutstandingPins(), pinned);
        });
  }
}

SLOTZAP_INSTANTIATE(VfioDma);

// --- pinned pages

class VfioPins : public VfioTest {
 protected:
  void SetUp() override {
    VfioTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (const std::string reason = PageFlags::Unavailable(); !reason.empty())
      GTEST_SKIP() << reason;
  }
};

// The kernel moves pages that nobody has pinned (here: joins them to a huge page, when told to).
// What is mapped for DMA stays where it is, whatever becomes of the slot, until it is unmapped.
TEST_P(VfioPins, StayWhateverBecomesOfTheSlot) {
  constexpr uint64_t kSize = 2_MiB;
  if (const int error = GuestMemory::Collapsible(kSize)->TryCollapse(); error != 0)
    GTEST_SKIP() << "needs MADV_COLLAPSE of 2 MiB: " << std::strerror(error);
  AssignedVm vm(Config(), pci());
  const auto memory = GuestMemory::Collapsible(kSize);
  FillMemory(*memory, {.pages = kSize / kPageSize, .seed = kSeed});
  MemorySlot slot = vm.vm().AddSlot({.gpa = kRam, .memory = memory});
  const uint64_t locked = LockedBytes();
  const uint32_t left = vm.container().MappingsLeft();

  vm.container().MapDma(kRam, memory->address(), kSize);
  const std::vector<uint64_t> frames = PageFlags().FramesOf(memory->bytes());
  const auto expect_pinned = [&](const std::string& when) {
    EXPECT_EQ(LockedBytes(), locked + kSize) << when;
    EXPECT_THAT(memory->TryCollapse(), AnyOf(EAGAIN, EINVAL)) << "pages could be moved " << when;
    EXPECT_EQ(PageFlags().FramesOf(memory->bytes()), frames) << when;
  };
  expect_pinned("at first");
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  expect_pinned("when the guest uses them");
  slot.Delete();
  expect_pinned("after the slot was deleted");
  EXPECT_THAT(vm.guest().TouchRead({slot.range()}), FindsNothingIn(slot.range()));
  slot.Add();
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  expect_pinned("after it was added");
  slot.MoveTo(3_GiB);
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
  expect_pinned("after it was moved");

  EXPECT_EQ(vm.container().UnmapDma(kRam, kSize), kSize);
  EXPECT_EQ(LockedBytes(), locked);
  EXPECT_EQ(vm.container().MappingsLeft(), left);
  EXPECT_EQ(memory->TryCollapse(), 0) << "something still pins the pages";
  EXPECT_NE(PageFlags().FramesOf(memory->bytes()), frames);
  EXPECT_THAT(vm.guest().Verify({PatternOf(slot, kSeed)}), SeesPattern());
}

// The VM, the container, group and device, and KVM's own hold on the group go in any order: what is
// mapped stays pinned as long as the group is in a container, and no longer than that.
TEST_P(VfioPins, GoWithTheLastUser) {
  enum class Last { kVfio, kKvmVfio, kVm };
  for (const Last last : {Last::kVfio, Last::kKvmVfio, Last::kVm}) {
    SCOPED_TRACE(last == Last::kVfio ? "VFIO last"
                 : last == Last::kVm ? "VM last"
                                     : "kvm-vfio last");
    const uint64_t locked = LockedBytes();
    const int64_t pinned = OutstandingPins();
    const auto memory = std::make_shared<GuestMemory>(kRamSize);
    FillMemory(*memory, {.start = kRam, .pages = kRamSize / kPageSize, .seed = kSeed});
    std::vector<uint64_t> frames;
    std::string folder;  // debugfs has one as long as KVM has the VM
    const auto expect_vm = [&](bool is_there, const char* when) {
      // Other machines may have no debugfs, or other process ids.
      if (!is_edu()) return;
      EXPECT_EQ(FileExists(folder), is_there) << folder << " " << when;
    };
    const auto expect_pinned = [&](bool is_pinned, const char* when) {
      EXPECT_EQ(LockedBytes(), locked + (is_pinned ? kRamSize : 0)) << when;
      EXPECT_EQ(PageFlags().FramesOf(memory->bytes()), frames) << when;
      // On other machines there may be others who pin pages meanwhile.
      if (!is_edu()) return;
      EXPECT_EQ(OutstandingPins(), pinned + (is_pinned ? int64_t{kRamSize / kPageSize} : 0))
          << when;
    };
    auto vm = std::make_unique<TestVm>(Config());
    folder =
        "/sys/kernel/debug/kvm/" + std::to_string(getpid()) + "-" + std::to_string(vm->vm().fd());
    auto assigned = std::make_unique<AssignedDevice>(pci());
    auto kvm_vfio = std::make_unique<KvmVfio>(vm->vm());
    kvm_vfio->AddGroup(assigned->group.fd());
    MemorySlot slot = vm->vm().AddSlot({.gpa = kRam, .memory = memory});
    assigned->container.MapDma(kRam, memory->address(), kRamSize);
    frames = PageFlags().FramesOf(memory->bytes());
    const Pattern pattern = PatternOf(slot, kSeed);
    ASSERT_THAT(vm->guest().Verify({pattern}), SeesPattern());
    expect_pinned(true, "when the VM runs");
    expect_vm(true, "when the VM runs");
    switch (last) {
      case Last::kVfio:
        kvm_vfio.reset();
        vm.reset();
        expect_pinned(true, "after the VM was destroyed");
        expect_vm(false, "after the VM was destroyed");
        assigned.reset();
        break;
      case Last::kKvmVfio:
        vm.reset();
        assigned.reset();
        expect_pinned(true, "as long as KVM has the group");
        expect_vm(true, "as long as kvm-vfio is there");
        kvm_vfio.reset();
        break;
      case Last::kVm:
        kvm_vfio.reset();
        expect_pinned(true, "after KVM gave up the group");
        assigned->container.Close();
        expect_pinned(true, "as long as the group is open");
        assigned.reset();
        expect_pinned(false, "after the group was closed");
        EXPECT_THAT(vm->guest().Verify({pattern}), SeesPattern());
        expect_vm(true, "without the device");
        vm.reset();
        break;
    }
    expect_pinned(false, "in the end");
    expect_vm(false, "in the end");
  }
}

SLOTZAP_INSTANTIATE(VfioPins);

// --- what KVM knows

class VfioCoherency : public VfioTest {};

// The emulated IOMMU is the one that was asked for.
TEST_P(VfioCoherency, IsWhatTheMachineWasMadeWith) {
  const std::string iommu = Environment("IOMMU");
  if (iommu.empty() || !is_edu()) GTEST_SKIP() << "this machine was not made for a test";
  EXPECT_EQ(AssignedDevice(pci()).container.EnforcesCoherency(), iommu == "coherent") << iommu;
}

TEST_P(VfioCoherency, IsKnownToKvm) {
  if (const std::string reason = TestDevice::Unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  TestVm vm(Config());
  AssignedDevice assigned(pci());
  const TestDevice kvm(vm.vm());
  const auto expect = [&](bool is_assigned, const char* when) {
    EXPECT_EQ(kvm.HasAssignedDevice(), is_assigned) << when;
    EXPECT_EQ(kvm.HasNoncoherentDma(), is_assigned && !assigned.container.EnforcesCoherency())
        << when;
  };
  expect(false, "without kvm-vfio");
  {
    KvmVfio kvm_vfio(vm.vm());
    const EventFd no_group;
    FileDescriptor second;
    EXPECT_THAT(KvmVfio::TryCreate(vm.vm(), second), FailsWith(EBUSY));
    EXPECT_THAT(kvm_vfio.TryRemoveGroup(assigned.group.fd()), FailsWith(ENOENT));
    EXPECT_THAT(kvm_vfio.TryAddGroup(no_group.fd()), FailsWith(EINVAL));
    EXPECT_THAT(kvm_vfio.TryAddGroup(-1), FailsWith(EBADF));
    expect(false, "without the group");
    EXPECT_THAT(kvm_vfio.TryAddGroup(assigned.group.fd()), IsOk());
    expect(true, "with the group");
    EXPECT_THAT(kvm_vfio.TryAddGroup(assigned.group.fd()), FailsWith(EEXIST));
    MemorySlot slot = vm.AddSlot(kRam, kRamSize);
    slot.Delete();
    expect(true, "after a slot was deleted");
    EXPECT_THAT(kvm_vfio.TryRemoveGroup(assigned.group.fd()), IsOk());
    expect(false, "after the group was removed");
    kvm_vfio.AddGroup(assigned.group.fd());
    expect(true, "with the group once more");
  }
  expect(false, "after kvm-vfio is gone");
}

// What theme "memory types" finds with a module that claims to be such a device, with one.
TEST_P(VfioCoherency, ChangesZapWhereTypesDependOnIt) {
  TestVm vm(Config());
  AssignedDevice assigned(pci());
  KvmVfio kvm_vfio(vm.vm());
  MemorySlot slot = vm.AddSlot(kRam, kRamSize);
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  // Since Linux 6.11 memory types are the guest's PAT or nothing, and matter to EPT only.
  const bool depend_on_cd = !KernelIsAtLeast("6.11");
  const bool noncoherent = !assigned.container.EnforcesCoherency();
  const bool matters = noncoherent && CurrentMmuMode() != MmuMode::kShadow &&
                       (depend_on_cd || DetectKvmModule().vendor == "vmx");
  const auto expect = [&](bool zapped, const char* when) {
    const uint64_t faults = vm.FixedFaults();
    ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
    const uint64_t refaults = vm.FixedFaults() - faults;
    // A fault may map neighbours, too.
    if (zapped)
      EXPECT_GE(refaults, slot.range().pages() / 8) << when;
    else
      EXPECT_EQ(refaults, 0u) << kPrecision << when;
  };
  // In shadow mode 6.12 zaps for nothing, see theme "memory types".
  const bool sure = matters || !noncoherent || depend_on_cd;
  kvm_vfio.AddGroup(assigned.group.fd());
  if (sure) expect(matters, "the VM got the device");
  ASSERT_THAT(vm.guest().TouchWrite({slot.range()}), Succeeds());
  ASSERT_THAT(vm.guest().SetCacheDisable(true), Succeeds());
  expect(noncoherent && depend_on_cd, "CR0.CD was set");
  ASSERT_THAT(vm.guest().SetCacheDisable(false), Succeeds());
  expect(noncoherent && depend_on_cd, "CR0.CD was cleared");
  kvm_vfio.RemoveGroup(assigned.group.fd());
  if (sure) expect(matters, "the VM lost the device");
}

SLOTZAP_INSTANTIATE(VfioCoherency);

}  // namespace
}  // namespace slotzap
