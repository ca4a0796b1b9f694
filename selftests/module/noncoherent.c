// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes KVM believe that a VM has a device whose DMA is not coherent with the CPU caches, which
 * otherwise takes a device assigned through an IOMMU without snoop control.  For tests only: it
 * belongs on an emulated host, and is never installed.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "noncoherent.h"

static long noncoherent_attach(struct file *filp, int fd)
{
	struct fd f = fdget(fd);
	struct kvm *kvm;
	long r = 0;

	if (!f.file)
		return -EBADF;

	if (!file_is_kvm(f.file)) {
		r = -EINVAL;
		goto out;
	}

	kvm = f.file->private_data;
	/* Two threads may call at the same time, one of them is first. */
	if (cmpxchg(&filp->private_data, NULL, kvm)) {
		r = -EBUSY;
		goto out;
	}

	kvm_get_kvm(kvm);
	kvm_arch_register_noncoherent_dma(kvm);
out:
	fdput(f);
	return r;
}

static long noncoherent_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	return cmd == SLOTZAP_NONCOHERENT_ATTACH ? noncoherent_attach(filp, arg) : -ENOTTY;
}

static int noncoherent_open(struct inode *inode, struct file *filp)
{
	/* misc_open() left the device there. */
	filp->private_data = NULL;
	return 0;
}

static int noncoherent_release(struct inode *inode, struct file *filp)
{
	struct kvm *kvm = filp->private_data;

	if (kvm) {
		kvm_arch_unregister_noncoherent_dma(kvm);
		kvm_put_kvm(kvm);
	}
	return 0;
}

static const struct file_operations noncoherent_fops = {
	.owner = THIS_MODULE,
	.open = noncoherent_open,
	.release = noncoherent_release,
	.unlocked_ioctl = noncoherent_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice noncoherent_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = SLOTZAP_NONCOHERENT_NAME,
	.fops = &noncoherent_fops,
	.mode = 0600,
};

module_misc_device(noncoherent_device);

MODULE_DESCRIPTION("Test module: a VM with non-coherent DMA, without a device");
MODULE_LICENSE("GPL");
