// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: makes a VM look like one of a type that the emulated machine
 * does not support. Write "FD TYPE PROTECTED" to the device.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

static ssize_t vmtype_write(struct file *unused, const char __user *text, size_t len,
			    loff_t *pos)
{
	unsigned int fd, type, protected;
	char words[32] = {};
	struct kvm *kvm;

	if (len >= sizeof(words))
		return -EINVAL;
	if (copy_from_user(words, text, len))
		return -EFAULT;
	if (sscanf(words, "%u %u %u", &fd, &type, &protected) != 3)
		return -EINVAL;

	CLASS(fd, vm)(fd);
	if (fd_empty(vm))
		return -EBADF;
	/* The tests only use it with files of VMs. */
	kvm = fd_file(vm)->private_data;
	kvm->arch.vm_type = type;
	kvm->arch.has_protected_state = protected;
	return len;
}

static const struct file_operations vmtype_fops = {
	.owner = THIS_MODULE,
	.write = vmtype_write,
};

static struct miscdevice vmtype_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fdbox_vmtype",
	.fops = &vmtype_fops,
	.mode = 0600,
};

module_misc_device(vmtype_device);

MODULE_DESCRIPTION("A VM that looks like an encrypted one, for the tests of FDBox");
MODULE_LICENSE("GPL");
