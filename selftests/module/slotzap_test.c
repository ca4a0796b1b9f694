// SPDX-License-Identifier: GPL-2.0-only
/*
 * Does to a VM what otherwise takes an assigned device: non-coherent DMA, which comes from an IOMMU
 * without snoop control, and a page-track client, such as KVMGT.  Also has KVM zap
 * what is shared of a range of gfns, holds a thread where a race is to be tested, and times how
 * long mmu_lock is held.  For tests only: it belongs on an emulated host, and is never installed.
 */
#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/irqflags.h>
#include <linux/kprobes.h>
#include <linux/ktime.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include <asm/kvm_page_track.h>

#include "slotzap_test.h"

struct slotzap_test {
	/* Serializes the ioctls of one open file. */
	struct mutex lock;
	struct kvm *kvm;
	bool noncoherent;
	bool watching;
	struct kvm_page_track_notifier_node node;
	/* Written under the VM's slots_lock, read by the ioctl. */
	spinlock_t gone_lock;
	struct slotzap_test_slots_gone gone;
	struct kretprobe probe;
	bool probing;
	struct slotzap_test_hold hold;
	/* That it is about, where the vCPU counts. */
	struct kvm_vcpu *hold_vcpu;
	/* That took mmu_lock first, only to compare with. */
	struct task_struct *hold_task;
	/* enum slotzap_test_hold_state */
	atomic_t hold_state;
	struct kretprobe lock_probe;
	struct kretprobe read_lock_probe;
	struct kprobe unlock_probe;
	struct kprobe irq_probe;
	struct kretprobe irq_end_probe;
	bool watching_lock;
	/* Written by who holds mmu_lock for write. */
	struct slotzap_test_lock_stretches stretches;
	u64 locked_at;
	int locked_cpu;
	/* Written by interrupts on that processor, as long as the lock is held. */
	u64 irq_at;
	u64 irq_ns;
};

static long slotzap_test_attach(struct slotzap_test *test, int fd)
{
	struct file *file = fget(fd);
	long r = 0;

	if (!file)
		return -EBADF;

	if (!file_is_kvm(file)) {
		r = -EINVAL;
	} else if (test->kvm) {
		r = -EBUSY;
	} else {
		test->kvm = file->private_data;
		kvm_get_kvm(test->kvm);
	}
	fput(file);
	return r;
}

static long slotzap_test_set_noncoherent(struct slotzap_test *test, bool on)
{
	if (on == test->noncoherent)
		return 0;

	if (on)
		kvm_arch_register_noncoherent_dma(test->kvm);
	else
		kvm_arch_unregister_noncoherent_dma(test->kvm);
	test->noncoherent = on;
	return 0;
}

static void __maybe_unused slotzap_test_region_gone(gfn_t gfn, unsigned long nr_pages,
						    struct kvm_page_track_notifier_node *node)
{
	struct slotzap_test *test = container_of(node, struct slotzap_test, node);

	spin_lock(&test->gone_lock);
	test->gone.count++;
	test->gone.base_gfn = gfn;
	test->gone.npages = nr_pages;
	spin_unlock(&test->gone_lock);
}

#if defined(KVM_PAGE_TRACK_HAS_FLUSH_SLOT)
static void slotzap_test_slot_gone(struct kvm *kvm, struct kvm_memory_slot *slot,
				   struct kvm_page_track_notifier_node *node)
{
	slotzap_test_region_gone(slot->base_gfn, slot->npages, node);
}

static long slotzap_test_register(struct slotzap_test *test)
{
	test->node.track_flush_slot = slotzap_test_slot_gone;
	kvm_page_track_register_notifier(test->kvm, &test->node);
	return 0;
}

static void slotzap_test_unregister(struct slotzap_test *test)
{
	kvm_page_track_unregister_notifier(test->kvm, &test->node);
}
#elif defined(KVM_PAGE_TRACK_HAS_REMOVE_REGION) && defined(CONFIG_KVM_EXTERNAL_WRITE_TRACKING)
static long slotzap_test_register(struct slotzap_test *test)
{
	test->node.track_remove_region = slotzap_test_region_gone;
	return kvm_page_track_register_notifier(test->kvm, &test->node);
}

static void slotzap_test_unregister(struct slotzap_test *test)
{
	kvm_page_track_unregister_notifier(test->kvm, &test->node);
}
#else
static long slotzap_test_register(struct slotzap_test *test)
{
	return -EOPNOTSUPP;
}

static void slotzap_test_unregister(struct slotzap_test *test)
{
}
#endif

static long slotzap_test_watch(struct slotzap_test *test)
{
	long r;

	if (test->watching)
		return -EBUSY;

	r = slotzap_test_register(test);
	test->watching = !r;
	return r;
}

static long slotzap_test_slots_gone(struct slotzap_test *test, void __user *to)
{
	struct slotzap_test_slots_gone gone;

	spin_lock(&test->gone_lock);
	gone = test->gone;
	spin_unlock(&test->gone_lock);
	return copy_to_user(to, &gone, sizeof(gone)) ? -EFAULT : 0;
}

#ifdef KVM_HAS_ZAP_SHARED_GFN_RANGE
static long slotzap_test_zap_shared(struct slotzap_test *test, void __user *from)
{
	struct slotzap_test_gfn_range range;

	if (copy_from_user(&range, from, sizeof(range)))
		return -EFAULT;

	if (range.start >= range.end)
		return -EINVAL;

	kvm_zap_shared_gfn_range(test->kvm, range.start, range.end);
	return 0;
}
#else
static long slotzap_test_zap_shared(struct slotzap_test *test, void __user *from)
{
	return -EOPNOTSUPP;
}
#endif

static struct slotzap_test *slotzap_test_of(struct kretprobe_instance *ri)
{
	return container_of(get_kretprobe(ri), struct slotzap_test, probe);
}

/*
 * Holds this thread, the first one that comes here.  By way of ftrace, a probe leaves interrupts
 * on; without that, other processors might wait in vain for this one to answer theirs.
 */
static void slotzap_test_hold_here(struct slotzap_test *test)
{
	ktime_t end = ktime_add_ms(ktime_get(), SLOTZAP_TEST_HOLD_LIMIT_MS);

	if (atomic_cmpxchg(&test->hold_state, SLOTZAP_TEST_WAITING, SLOTZAP_TEST_HELD) !=
	    SLOTZAP_TEST_WAITING)
		return;

	while (atomic_read(&test->hold_state) == SLOTZAP_TEST_HELD) {
		if (irqs_disabled() || ktime_after(ktime_get(), end))
			atomic_cmpxchg(&test->hold_state, SLOTZAP_TEST_HELD,
				       SLOTZAP_TEST_GIVEN_UP);
		cpu_relax();
	}
}

/* At the beginning of kvm_faultin_pfn(vcpu, ...).  0: its end is of interest. */
static int slotzap_test_faultin(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = slotzap_test_of(ri);

	return (struct kvm_vcpu *)regs_get_kernel_argument(regs, 0) != test->hold_vcpu;
}

/* At the beginning of kvm_mmu_memory_cache_alloc(cache), for the header of a page table. */
static int slotzap_test_alloc(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = slotzap_test_of(ri);

	return (void *)regs_get_kernel_argument(regs, 0) !=
	       &test->hold_vcpu->arch.mmu_page_header_cache;
}

/* At the beginning of kvm_arch_flush_shadow_memslot(kvm, ...). */
static int slotzap_test_zap(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = slotzap_test_of(ri);

	if ((struct kvm *)regs_get_kernel_argument(regs, 0) != test->kvm)
		return 1;

	if (test->hold.place == SLOTZAP_TEST_BEFORE_ZAP)
		slotzap_test_hold_here(test);
	return test->hold.place != SLOTZAP_TEST_AFTER_ZAP;
}

/* At the beginning of _raw_write_lock(lock). */
static int slotzap_test_lock_again(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = slotzap_test_of(ri);

	if ((void *)regs_get_kernel_argument(regs, 0) != (void *)&test->kvm->mmu_lock)
		return 1;

	if (!cmpxchg(&test->hold_task, NULL, current))
		return 0;

	if (READ_ONCE(test->hold_task) == current)
		slotzap_test_hold_here(test);
	return 1;
}

static int slotzap_test_returns(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = slotzap_test_of(ri);

	if (test->hold.place == SLOTZAP_TEST_MMU_LOCK_AGAIN) {
		set_tsk_need_resched(current);
		set_preempt_need_resched();
		return 0;
	}

	/* Not if kvm_faultin_pfn() found none; RET_PF_CONTINUE is 0. */
	if (test->hold.place != SLOTZAP_TEST_PAGE_FOUND || !(int)regs_return_value(regs))
		slotzap_test_hold_here(test);
	return 0;
}

static long slotzap_test_hold(struct slotzap_test *test, void __user *from)
{
	struct slotzap_test_hold hold;
	long r;

	if (copy_from_user(&hold, from, sizeof(hold)))
		return -EFAULT;

	if (hold.place > SLOTZAP_TEST_MMU_LOCK_AGAIN)
		return -EINVAL;

	if (test->probing)
		return -EBUSY;

	if (num_online_cpus() < 2)
		return -EOPNOTSUPP;

	if (hold.place == SLOTZAP_TEST_PAGE_FOUND || hold.place == SLOTZAP_TEST_TABLE_ALLOCATED) {
		test->hold_vcpu = kvm_get_vcpu_by_id(test->kvm, hold.vcpu_id);
		if (!test->hold_vcpu)
			return -EINVAL;
	}

	test->hold = hold;
	test->hold_task = NULL;
	atomic_set(&test->hold_state, SLOTZAP_TEST_WAITING);
	memset(&test->probe, 0, sizeof(test->probe));
	test->probe.handler = slotzap_test_returns;
	if (hold.place == SLOTZAP_TEST_PAGE_FOUND) {
		test->probe.kp.symbol_name = "kvm_faultin_pfn";
		test->probe.entry_handler = slotzap_test_faultin;
	} else if (hold.place == SLOTZAP_TEST_TABLE_ALLOCATED) {
		test->probe.kp.symbol_name = "kvm_mmu_memory_cache_alloc";
		test->probe.entry_handler = slotzap_test_alloc;
	} else if (hold.place == SLOTZAP_TEST_MMU_LOCK_AGAIN) {
		test->probe.kp.symbol_name = "_raw_write_lock";
		test->probe.entry_handler = slotzap_test_lock_again;
	} else {
		test->probe.kp.symbol_name = "kvm_arch_flush_shadow_memslot";
		test->probe.entry_handler = slotzap_test_zap;
	}
	r = register_kretprobe(&test->probe);
	if (r) {
		atomic_set(&test->hold_state, SLOTZAP_TEST_NOT_ASKED_FOR);
		return -EOPNOTSUPP;
	}
	test->probing = true;
	return 0;
}

/* Whoever is held goes on; nobody will be held any more. */
static long slotzap_test_release_hold(struct slotzap_test *test)
{
	if (!test->probing)
		return 0;

	if (atomic_cmpxchg(&test->hold_state, SLOTZAP_TEST_HELD, SLOTZAP_TEST_RELEASED) ==
	    SLOTZAP_TEST_WAITING)
		atomic_cmpxchg(&test->hold_state, SLOTZAP_TEST_WAITING,
			       SLOTZAP_TEST_NOT_ASKED_FOR);
	unregister_kretprobe(&test->probe);
	test->probing = false;
	return 0;
}

/* At the beginning of _raw_write_lock(lock).  0: its end is of interest. */
static int slotzap_test_lock(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = container_of(get_kretprobe(ri), struct slotzap_test,
						 lock_probe);

	return (void *)regs_get_kernel_argument(regs, 0) != (void *)&test->kvm->mmu_lock;
}

static int slotzap_test_locked(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = container_of(get_kretprobe(ri), struct slotzap_test,
						 lock_probe);

	if (test->stretches.count == SLOTZAP_TEST_LOCK_STRETCHES_MAX)
		return 0;

	/* Neither an interrupt nor preemption takes this back as long as the lock is held. */
	set_tsk_need_resched(current);
	set_preempt_need_resched();
	test->locked_cpu = raw_smp_processor_id();
	test->irq_at = 0;
	test->irq_ns = 0;
	test->locked_at = ktime_get_mono_fast_ns();
	return 0;
}

/* At the beginning of _raw_read_lock(lock).  0: its end is of interest. */
static int slotzap_test_read_lock(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = container_of(get_kretprobe(ri), struct slotzap_test,
						 read_lock_probe);

	return (void *)regs_get_kernel_argument(regs, 0) != (void *)&test->kvm->mmu_lock;
}

static int slotzap_test_read_locked(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	set_tsk_need_resched(current);
	set_preempt_need_resched();
	return 0;
}

/* At the beginning of _raw_write_unlock(lock). */
static int slotzap_test_unlock(struct kprobe *probe, struct pt_regs *regs)
{
	struct slotzap_test *test = container_of(probe, struct slotzap_test, unlock_probe);
	struct slotzap_test_lock_stretches *stretches = &test->stretches;
	u64 held;

	if ((void *)regs_get_kernel_argument(regs, 0) != (void *)&test->kvm->mmu_lock)
		return 0;

	/* Taken before it was watched. */
	if (!test->locked_at)
		return 0;

	held = ktime_get_mono_fast_ns() - test->locked_at - test->irq_ns;
	stretches->count++;
	stretches->total_ns += held;
	stretches->longest_ns = max(stretches->longest_ns, held);
	test->locked_at = 0;
	return 0;
}

/*
 * At the beginning of irq_enter_rcu(), and at the end of irq_exit_rcu(), which runs softirqs: what
 * interrupts whoever holds the lock is none of KVM's time.  One may interrupt softirqs, too.
 */
static int slotzap_test_irq(struct kprobe *probe, struct pt_regs *regs)
{
	struct slotzap_test *test = container_of(probe, struct slotzap_test, irq_probe);

	if (test->locked_at && test->locked_cpu == raw_smp_processor_id() && !test->irq_at)
		test->irq_at = ktime_get_mono_fast_ns();
	return 0;
}

static int slotzap_test_irq_end(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct slotzap_test *test = container_of(get_kretprobe(ri), struct slotzap_test,
						 irq_end_probe);

	if (test->irq_at && test->locked_cpu == raw_smp_processor_id() &&
	    !in_serving_softirq()) {
		test->irq_ns += ktime_get_mono_fast_ns() - test->irq_at;
		test->irq_at = 0;
	}
	return 0;
}

static void slotzap_test_unwatch_lock(struct slotzap_test *test)
{
	if (!test->watching_lock)
		return;

	unregister_kprobe(&test->unlock_probe);
	unregister_kretprobe(&test->read_lock_probe);
	unregister_kretprobe(&test->lock_probe);
	unregister_kretprobe(&test->irq_end_probe);
	unregister_kprobe(&test->irq_probe);
	test->watching_lock = false;
}

static long slotzap_test_watch_lock(struct slotzap_test *test, bool on)
{
	slotzap_test_unwatch_lock(test);
	if (!on)
		return 0;

	memset(&test->lock_probe, 0, sizeof(test->lock_probe));
	test->lock_probe.kp.symbol_name = "_raw_write_lock";
	test->lock_probe.entry_handler = slotzap_test_lock;
	test->lock_probe.handler = slotzap_test_locked;
	memset(&test->read_lock_probe, 0, sizeof(test->read_lock_probe));
	test->read_lock_probe.kp.symbol_name = "_raw_read_lock";
	test->read_lock_probe.entry_handler = slotzap_test_read_lock;
	test->read_lock_probe.handler = slotzap_test_read_locked;
	memset(&test->unlock_probe, 0, sizeof(test->unlock_probe));
	test->unlock_probe.symbol_name = "_raw_write_unlock";
	test->unlock_probe.pre_handler = slotzap_test_unlock;
	memset(&test->irq_probe, 0, sizeof(test->irq_probe));
	test->irq_probe.symbol_name = "irq_enter_rcu";
	test->irq_probe.pre_handler = slotzap_test_irq;
	memset(&test->irq_end_probe, 0, sizeof(test->irq_end_probe));
	test->irq_end_probe.kp.symbol_name = "irq_exit_rcu";
	test->irq_end_probe.handler = slotzap_test_irq_end;
	memset(&test->stretches, 0, sizeof(test->stretches));
	test->locked_at = 0;
	if (register_kprobe(&test->irq_probe))
		return -EOPNOTSUPP;

	if (register_kretprobe(&test->irq_end_probe))
		goto no_irq_end;

	if (register_kretprobe(&test->lock_probe))
		goto no_lock;

	if (register_kretprobe(&test->read_lock_probe))
		goto no_read_lock;

	if (register_kprobe(&test->unlock_probe))
		goto no_unlock;

	test->watching_lock = true;
	return 0;

no_unlock:
	unregister_kretprobe(&test->read_lock_probe);
no_read_lock:
	unregister_kretprobe(&test->lock_probe);
no_lock:
	unregister_kretprobe(&test->irq_end_probe);
no_irq_end:
	unregister_kprobe(&test->irq_probe);
	return -EOPNOTSUPP;
}

static long slotzap_test_lock_stretches(struct slotzap_test *test, void __user *to)
{
	return copy_to_user(to, &test->stretches, sizeof(test->stretches)) ? -EFAULT : 0;
}

static long slotzap_test_devices(struct slotzap_test *test)
{
	return (kvm_arch_has_assigned_device(test->kvm) ? SLOTZAP_TEST_HAS_DEVICE : 0) |
	       (kvm_arch_has_noncoherent_dma(test->kvm) ? SLOTZAP_TEST_HAS_NONCOHERENT_DMA : 0);
}

static long slotzap_test_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct slotzap_test *test = filp->private_data;
	long r;

	mutex_lock(&test->lock);
	if (cmd == SLOTZAP_TEST_ATTACH)
		r = slotzap_test_attach(test, arg);
	else if (!test->kvm)
		r = -ENXIO;
	else if (cmd == SLOTZAP_TEST_NONCOHERENT)
		r = slotzap_test_set_noncoherent(test, arg);
	else if (cmd == SLOTZAP_TEST_WATCH_SLOTS)
		r = slotzap_test_watch(test);
	else if (cmd == SLOTZAP_TEST_SLOTS_GONE)
		r = slotzap_test_slots_gone(test, (void __user *)arg);
	else if (cmd == SLOTZAP_TEST_ZAP_SHARED)
		r = slotzap_test_zap_shared(test, (void __user *)arg);
	else if (cmd == SLOTZAP_TEST_HOLD)
		r = slotzap_test_hold(test, (void __user *)arg);
	else if (cmd == SLOTZAP_TEST_RELEASE)
		r = slotzap_test_release_hold(test);
	else if (cmd == SLOTZAP_TEST_HOLD_STATE)
		r = atomic_read(&test->hold_state);
	else if (cmd == SLOTZAP_TEST_WATCH_LOCK)
		r = slotzap_test_watch_lock(test, arg);
	else if (cmd == SLOTZAP_TEST_LOCK_STRETCHES)
		r = slotzap_test_lock_stretches(test, (void __user *)arg);
	else if (cmd == SLOTZAP_TEST_DEVICES)
		r = slotzap_test_devices(test);
	else
		r = -ENOTTY;
	mutex_unlock(&test->lock);
	return r;
}

static int slotzap_test_open(struct inode *inode, struct file *filp)
{
	struct slotzap_test *test = kzalloc(sizeof(*test), GFP_KERNEL);

	if (!test)
		return -ENOMEM;

	mutex_init(&test->lock);
	spin_lock_init(&test->gone_lock);
	filp->private_data = test;
	return 0;
}

static int slotzap_test_release(struct inode *inode, struct file *filp)
{
	struct slotzap_test *test = filp->private_data;

	slotzap_test_release_hold(test);
	slotzap_test_unwatch_lock(test);
	if (test->kvm) {
		slotzap_test_set_noncoherent(test, false);
		if (test->watching)
			slotzap_test_unregister(test);
		kvm_put_kvm(test->kvm);
	}
	kfree(test);
	return 0;
}

static const struct file_operations slotzap_test_fops = {
	.owner = THIS_MODULE,
	.open = slotzap_test_open,
	.release = slotzap_test_release,
	.unlocked_ioctl = slotzap_test_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice slotzap_test_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = SLOTZAP_TEST_NAME,
	.fops = &slotzap_test_fops,
	.mode = 0600,
};

module_misc_device(slotzap_test_device);

MODULE_DESCRIPTION("Tests of KVM's memslots: a VM as if it had an assigned device");
MODULE_LICENSE("GPL");
