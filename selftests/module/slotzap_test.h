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
