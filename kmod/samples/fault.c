// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: makes calls of another module to the kernel fail. A test changes
 * the image of that module before it loads it, so that the module calls a slot here
 * instead of the function. The slot counts the call, and either passes it on or
 * returns an error. Writing to the device assigns a function to a slot.
 */
#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "fault.h"

/* One write(2) sets one slot. */
struct fault_setting {
	u64 slot;
	/* Address of the function. */
	u64 function;
	/* Which call fails, counted from 1 since this write; 0 for none. */
	u64 nth;
	/* What that call returns. */
	u64 value;
};

/* What read(2) returns. */
static struct {
	/* Address of the first slot, and the distance between two slots. */
	u64 slots;
	u64 stride;
	/* Calls through each slot since it was set. */
	atomic64_t calls[FAULT_SLOTS];
} fault_report = { .stride = FAULT_STRIDE };

static struct fault_setting fault_settings[FAULT_SLOTS];

u64 fault_value;

asmlinkage u64 fault_called(unsigned int slot)
{
	const struct fault_setting *setting = &fault_settings[slot];

	if (atomic64_inc_return(&fault_report.calls[slot]) != setting->nth)
		return setting->function;
	fault_value = setting->value;
	return 0;
}

static ssize_t fault_write(struct file *unused, const char __user *buf, size_t len,
			   loff_t *pos)
{
	struct fault_setting setting;

	if (len != sizeof(setting))
		return -EINVAL;
	if (copy_from_user(&setting, buf, len))
		return -EFAULT;
	if (setting.slot >= FAULT_SLOTS || !setting.function)
		return -EINVAL;
	fault_settings[setting.slot] = setting;
	atomic64_set(&fault_report.calls[setting.slot], 0);
	return len;
}

static ssize_t fault_read(struct file *unused, char __user *buf, size_t len, loff_t *pos)
{
	fault_report.slots = (unsigned long)fault_slots;
	return simple_read_from_buffer(buf, len, pos, &fault_report, sizeof(fault_report));
}

static const struct file_operations fault_fops = {
	.owner = THIS_MODULE,
	.read = fault_read,
	.write = fault_write,
};

static struct miscdevice fault_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fdbox_fault",
	.fops = &fault_fops,
	.mode = 0600,
};

module_misc_device(fault_device);

MODULE_DESCRIPTION("Makes calls of another module fail, for the tests of FDBox");
MODULE_LICENSE("GPL");
