// SPDX-License-Identifier: GPL-2.0-only
// The test module slotzap_test.ko, which does to a VM what otherwise takes an assigned device, and
// sees of KVM what nothing else shows.
#pragma once

#include <fcntl.h>

#include <cstdint>
#include <string>

#include "base/file_descriptor.h"
#include "kvm/status.h"
#include "kvm/vm.h"
#include "module/slotzap_test.h"

namespace slotzap {

// Acts on one VM from construction to destruction.
class TestDevice {
 public:
  // Why there is none, or an empty string.
  static std::string Unavailable() {
    return FileExists(kPath) ? "" : "needs the test module slotzap_test, which is not loaded";
  }

  explicit TestDevice(const Vm& vm) : fd_(FileDescriptor::Open(kPath, O_RDWR)) {
    SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_ATTACH, static_cast<unsigned long>(vm.fd())).OrThrow();
  }

  // Whether the VM has a device whose DMA is not coherent with the CPU caches.
  void SetNoncoherentDma(bool on) {
    SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_NONCOHERENT, static_cast<unsigned long>(on)).OrThrow();
  }

  // Whether KVM knows of a device that is assigned to the VM, and of one whose DMA is not coherent.
  bool HasAssignedDevice() const { return (Devices() & SLOTZAP_TEST_HAS_DEVICE) != 0; }
  bool HasNoncoherentDma() const { return (Devices() & SLOTZAP_TEST_HAS_NONCOHERENT_DMA) != 0; }

  // From now on, counts the slots of which KVM tells its page-track clients that they go.
  // EOPNOTSUPP if this KVM has none.
  void WatchSlots() { TryWatchSlots().OrThrow(); }
  KvmStatus TryWatchSlots() { return SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_WATCH_SLOTS, 0); }
  slotzap_test_slots_gone SlotsGone() const {
    slotzap_test_slots_gone gone = {};
    SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_SLOTS_GONE, &gone, "").OrThrow();
    return gone;
  }

  // kvm_zap_shared_gfn_range(): what KVM does to gfns from `start` up to, not including, `end` when
  // memory types or the APIC's page change.  EOPNOTSUPP if this KVM has no such function.
  KvmStatus TryZapSharedGfnRange(Gfn start, Gfn end) {
    const slotzap_test_gfn_range range = {.start = start, .end = end};
    return SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_ZAP_SHARED, &range,
                         "gfns " + Hex(start) + " to " + Hex(end));
  }

  // Holds the next thread that comes to this place in KVM for this VM (`vcpu` counts only for
  // SLOTZAP_TEST_PAGE_FOUND and _TABLE_ALLOCATED).  It keeps a processor busy, so that everybody
  // else has to be on another.  EOPNOTSUPP if there is none, or KVM can't be probed there.
  KvmStatus TryHold(slotzap_test_place place, unsigned vcpu = 0) {
    const slotzap_test_hold hold = {.place = place, .vcpu_id = vcpu};
    return SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_HOLD, &hold,
                         "place " + std::to_string(place) + ", vCPU " + std::to_string(vcpu));
  }
  void Release() { SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_RELEASE, 0).OrThrow(); }
  slotzap_test_hold_state HoldState() const {
    return static_cast<slotzap_test_hold_state>(
        SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_HOLD_STATE, 0).OrThrow());
  }

  // Begins to time for how long KVM holds the VM's mmu_lock for write, with each chance to yield
  // being taken, and ends it.  No vCPU should run meanwhile.  EOPNOTSUPP if the kernel's locks
  // can't be probed.
  KvmStatus TryWatchLock() { return SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_WATCH_LOCK, 1); }
  slotzap_test_lock_stretches StopWatchingLock() {
    SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_WATCH_LOCK, 0).OrThrow();
    slotzap_test_lock_stretches stretches = {};
    SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_LOCK_STRETCHES, &stretches, "").OrThrow();
    return stretches;
  }

 private:
  int Devices() const { return SLOTZAP_IOCTL(fd_.get(), SLOTZAP_TEST_DEVICES, 0).OrThrow(); }

  static constexpr char kPath[] = "/dev/" SLOTZAP_TEST_NAME;
  FileDescriptor fd_;
};

}  // namespace slotzap
