/* SPDX-License-Identifier: GPL-2.0-only */
/* The interface of the test module slotzap_test.c.  Compiled into the kernel and into the tests. */
#pragma once

#include <linux/ioctl.h>
#include <linux/types.h>

#define SLOTZAP_TEST_NAME "slotzap-test"

/* Each open file of the device acts on one VM, until it is closed, which undoes everything. */

/* Which VM: the argument is its file descriptor.  Once per open file. */
#define SLOTZAP_TEST_ATTACH _IO('Z', 0)

/* The argument is 1 if the VM is to have non-coherent DMA, 0 if not (any more). */
#define SLOTZAP_TEST_NONCOHERENT _IO('Z', 1)

/*
 * Become a page-track client of the VM, and count the slots that KVM says are going away.  Fails
 * with EOPNOTSUPP if KVM is built without CONFIG_KVM_EXTERNAL_WRITE_TRACKING (Linux 6.6 and later).
 */
#define SLOTZAP_TEST_WATCH_SLOTS _IO('Z', 2)

struct slotzap_test_slots_gone {
	__u64 count;
	/* Of the last one. */
	__u64 base_gfn;
	__u64 npages;
};

#define SLOTZAP_TEST_SLOTS_GONE _IOR('Z', 3, struct slotzap_test_slots_gone)

/*
 * Zap the VM's shared SPTEs of a range, by kvm_zap_shared_gfn_range(), which KVM does when memory
 * types change.  Fails with EOPNOTSUPP if KVM has no such function: it is this project's series for
 * Linux 6.12 that adds it.
 */
struct slotzap_test_gfn_range {
	__u64 start;
	/* Exclusive. */
	__u64 end;
};

#define SLOTZAP_TEST_ZAP_SHARED _IOW('Z', 4, struct slotzap_test_gfn_range)

/*
 * Hold a thread that works for the VM at a certain place in KVM, once, until it is released, but
 * for no longer than SLOTZAP_TEST_HOLD_LIMIT_MS.  It spins there, without being preempted: whoever
 * is to do something meanwhile has to run on another processor.  Fails with EOPNOTSUPP if there is
 * no other one or KVM can't be probed at this place, with EBUSY if this open file was asked before
 * and not told to release.
 */
enum slotzap_test_place {
	/* A vCPU found the page that it faulted on, and is about to take mmu_lock and map it. */
	SLOTZAP_TEST_PAGE_FOUND,
	/* A memslot is marked invalid, who uses it as valid is gone, nothing is zapped yet. */
	SLOTZAP_TEST_BEFORE_ZAP,
	/* It is zapped, and still marked invalid. */
	SLOTZAP_TEST_AFTER_ZAP,
	/*
	 * A vCPU found no page table of the TDP MMU where it needs one, and has a new one, which
	 * it is about to put there.
	 */
	SLOTZAP_TEST_TABLE_ALLOCATED,
	/*
	 * Whoever took mmu_lock for write first, and then found that it should be rescheduled,
	 * gave it up, and is about to take it again.
	 */
	SLOTZAP_TEST_MMU_LOCK_AGAIN,
};

struct slotzap_test_hold {
	/* enum slotzap_test_place */
	__u32 place;
	/* Which vCPU, by its id; for SLOTZAP_TEST_PAGE_FOUND and SLOTZAP_TEST_TABLE_ALLOCATED. */
	__u32 vcpu_id;
};

#define SLOTZAP_TEST_HOLD_LIMIT_MS 5000

#define SLOTZAP_TEST_HOLD _IOW('Z', 5, struct slotzap_test_hold)

#define SLOTZAP_TEST_RELEASE _IO('Z', 6)

/* What became of it; returned by SLOTZAP_TEST_HOLD_STATE. */
enum slotzap_test_hold_state {
	SLOTZAP_TEST_NOT_ASKED_FOR,
	SLOTZAP_TEST_WAITING,
	SLOTZAP_TEST_HELD,
	SLOTZAP_TEST_RELEASED,
	/* The time was over, or nobody may spin there: what was to be tested wasn't. */
	SLOTZAP_TEST_GIVEN_UP,
};

#define SLOTZAP_TEST_HOLD_STATE _IO('Z', 7)

/*
 * The stretches for which the VM's mmu_lock is held for write while KVM has every reason to give
 * it up: from now on, whoever takes it, be it for read, finds that it should be rescheduled, so
 * that each place where KVM looks whether to yield is one where it does.  No vCPU should run
 * meanwhile: a stretch is timed from the lock's being had to its being released, without the
 * interrupts that come in between.  What comes after
 * the first SLOTZAP_TEST_LOCK_STRETCHES_MAX of them is left alone.  The argument is 1 to begin,
 * which forgets what was before, and 0 to end.  Fails with EOPNOTSUPP if the kernel's locks can't
 * be probed.
 */
#define SLOTZAP_TEST_LOCK_STRETCHES_MAX 0x100000

#define SLOTZAP_TEST_WATCH_LOCK _IO('Z', 8)

struct slotzap_test_lock_stretches {
	/* SLOTZAP_TEST_LOCK_STRETCHES_MAX: that many, or more. */
	__u64 count;
	__u64 longest_ns;
	__u64 total_ns;
};

#define SLOTZAP_TEST_LOCK_STRETCHES _IOR('Z', 9, struct slotzap_test_lock_stretches)

/* What KVM makes of the devices that are assigned to the VM; returned by SLOTZAP_TEST_DEVICES. */
enum slotzap_test_devices {
	/* kvm_arch_has_assigned_device() */
	SLOTZAP_TEST_HAS_DEVICE = 1,
	/* kvm_arch_has_noncoherent_dma() */
	SLOTZAP_TEST_HAS_NONCOHERENT_DMA = 2,
};

#define SLOTZAP_TEST_DEVICES _IO('Z', 10)
