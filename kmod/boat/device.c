// SPDX-License-Identifier: GPL-2.0
/* /dev/fdbox-boat. */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "boat.h"

/* The maximum size of an argument, also of newer callers. */
#define BOAT_MOST_BYTES		4096

/* An open file. */
struct boat_opened {
	u32 reported;			/* the state that STATUS returned last */
};

union boat_argument {
	struct {
		u32 size;
		u32 flags;
	};
	struct fdbox_boat_load load;
	struct fdbox_boat_start start;
	struct fdbox_boat_lend lend;
	struct fdbox_boat_stop stop;
	struct fdbox_boat_status status;
	struct fdbox_boat_check check;
	struct fdbox_boat_message message;
	struct fdbox_boat_restart restart;
};

static DECLARE_WAIT_QUEUE_HEAD(boat_pollers);
static DEFINE_SPINLOCK(boat_refused_lock);
static struct fdbox_boat_message boat_refused;

void boat_device_wake(void)
{
	wake_up_all(&boat_pollers);
}

/* Records why a command fails, for FDBOX_BOAT_MESSAGE; returns @err. */
int boat_refuse(int err, const char *fmt, ...)
{
	char text[FDBOX_BOAT_MESSAGE_LEN];
	va_list args;

	va_start(args, fmt);
	vscnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	pr_notice("fdbox-boat: %s\n", text);
	guard(spinlock)(&boat_refused_lock);
	boat_refused.error = -err;
	strscpy_pad(boat_refused.message, text, sizeof(boat_refused.message));
	return err;
}

static int boat_do_load(struct file *filp, union boat_argument *arg)
{
	return boat_load(&arg->load);
}

static int boat_do_start(struct file *filp, union boat_argument *arg)
{
	return boat_start(&arg->start);
}

static int boat_do_lend(struct file *filp, union boat_argument *arg)
{
	return boat_lend(&arg->lend);
}

static int boat_do_stop(struct file *filp, union boat_argument *arg)
{
	return arg->stop.pad ? -EINVAL : boat_stop(&arg->stop);
}

static int boat_do_status(struct file *filp, union boat_argument *arg)
{
	struct boat_opened *opened = filp->private_data;
	struct fdbox_boat_status status = { .size = arg->size };
	int err = boat_status(&status);

	if (err)
		return err;
	arg->status = status;
	WRITE_ONCE(opened->reported, status.state);
	return 0;
}

static int boat_do_check(struct file *filp, union boat_argument *arg)
{
	return arg->check.pad ? -EINVAL : boat_check(&arg->check);
}

static int boat_do_message(struct file *filp, union boat_argument *arg)
{
	u32 size = arg->size;

	guard(spinlock)(&boat_refused_lock);
	arg->message = boat_refused;
	arg->size = size;
	return 0;
}

static int boat_do_restart(struct file *filp, union boat_argument *arg)
{
	return arg->restart.pad ? -EINVAL : boat_passenger_restart(&arg->restart);
}

static const struct {
	unsigned int cmd;
	size_t size;			/* of the argument in this version */
	size_t first_size;		/* and in the first version */
	int (*act)(struct file *filp, union boat_argument *arg);
	bool has_answer;		/* these are possible in host and boat */
	bool is_boats;			/* in the boat only, the others in a host only */
	u32 flags;			/* those that are defined */
} boat_commands[] = {
	{ FDBOX_BOAT_LOAD, sizeof(struct fdbox_boat_load), 48, boat_do_load,
	  .flags = FDBOX_BOAT_LOAD_RESCUE },
	{ FDBOX_BOAT_START, sizeof(struct fdbox_boat_start), 16, boat_do_start },
	{ FDBOX_BOAT_LEND, sizeof(struct fdbox_boat_lend), 16, boat_do_lend },
	{ FDBOX_BOAT_STOP, sizeof(struct fdbox_boat_stop), 16, boat_do_stop },
	{ FDBOX_BOAT_STATUS, sizeof(struct fdbox_boat_status), 72, boat_do_status, true },
	{ FDBOX_BOAT_CHECK, sizeof(struct fdbox_boat_check), 24, boat_do_check },
	{ FDBOX_BOAT_MESSAGE, sizeof(struct fdbox_boat_message), 272, boat_do_message, true },
	{ FDBOX_BOAT_RESTART, sizeof(struct fdbox_boat_restart), 16, boat_do_restart,
	  .is_boats = true },
};

static long boat_run(struct file *filp, size_t nr, void __user *user)
{
	size_t size = boat_commands[nr].size;
	union boat_argument arg = {};
	u32 their_size;
	int err;

	if (get_user(their_size, (u32 __user *)user))
		return -EFAULT;
	if (their_size < boat_commands[nr].first_size || their_size > BOAT_MOST_BYTES)
		return -EINVAL;
	err = copy_struct_from_user(&arg, size, user, their_size);
	if (err)
		return err;
	if (arg.flags & ~boat_commands[nr].flags)
		return -EINVAL;
	arg.size = their_size;
	err = boat_commands[nr].act(filp, &arg);
	if (err || !boat_commands[nr].has_answer)
		return err;
	return copy_to_user(user, &arg, min_t(size_t, size, their_size)) ? -EFAULT : 0;
}

/* Whether a command is for the other kernel. */
static int boat_is_theirs(size_t nr)
{
	if (boat_commands[nr].has_answer || boat_is_passenger() == boat_commands[nr].is_boats)
		return 0;
	if (boat_is_passenger())
		return boat_refuse(-ENXIO,
				   "this kernel is the boat's: only its host commands it");
	return boat_refuse(-ENXIO, "this kernel is the host's: only its boat restarts it");
}

static long boat_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	size_t i;
	int err;

	for (i = 0; i < ARRAY_SIZE(boat_commands); i++) {
		if (boat_commands[i].cmd != cmd)
			continue;
		if (!capable(CAP_SYS_BOOT))
			return -EPERM;
		err = boat_is_theirs(i);
		return err ?: boat_run(filp, i, (void __user *)arg);
	}
	return -ENOTTY;
}

static int boat_open(struct inode *inode, struct file *filp)
{
	struct boat_opened *opened;

	if (!capable(CAP_SYS_BOOT))
		return -EPERM;
	opened = kzalloc_obj(*opened);
	if (!opened)
		return -ENOMEM;
	opened->reported = boat_state();
	filp->private_data = opened;
	return nonseekable_open(inode, filp);
}

static int boat_release(struct inode *inode, struct file *filp)
{
	kfree(filp->private_data);
	return 0;
}

static __poll_t boat_poll(struct file *filp, poll_table *wait)
{
	struct boat_opened *opened = filp->private_data;

	poll_wait(filp, &boat_pollers, wait);
	return boat_state() == READ_ONCE(opened->reported) ? 0 : EPOLLPRI;
}

static const struct file_operations boat_fops = {
	.owner = THIS_MODULE,
	.open = boat_open,
	.release = boat_release,
	.poll = boat_poll,
	.unlocked_ioctl = boat_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice boat_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fdbox-boat",
	.fops = &boat_fops,
	.mode = 0600,
};

int boat_device_register(void)
{
	return misc_register(&boat_device);
}

void boat_device_unregister(void)
{
	misc_deregister(&boat_device);
}
