// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: locks a directory until the host reboots. Creating a file in it
 * waits until then. If it is in devtmpfs, so does adding a device. The module cannot
 * be unloaded.
 */
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/namei.h>
#include <linux/reboot.h>

#define HOLD_LIMIT	(30 * HZ)

static char *directory;
module_param(directory, charp, 0400);
MODULE_PARM_DESC(directory, "its path");

static struct path path;
static DECLARE_COMPLETION(locked);
static DECLARE_COMPLETION(rebooting);

static int dirlock(void *unused)
{
	inode_lock(d_inode(path.dentry));
	complete(&locked);
	if (!wait_for_completion_timeout(&rebooting, HOLD_LIMIT))
		pr_err("fdbox_dirlock: BUG: the host did not reboot\n");
	inode_unlock(d_inode(path.dentry));
	return 0;
}

static int dirlock_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	complete_all(&rebooting);
	return NOTIFY_DONE;
}

/* Called before the notifier of fdbox.ko, which has priority 0. */
static struct notifier_block dirlock_reboot_nb = {
	.notifier_call = dirlock_reboot,
	.priority = 1,
};

static int __init dirlock_init(void)
{
	struct task_struct *task;
	int err;

	if (!directory)
		return -EINVAL;
	err = kern_path(directory, LOOKUP_DIRECTORY, &path);
	if (err)
		return err;
	err = register_reboot_notifier(&dirlock_reboot_nb);
	if (err)
		goto put_path;
	task = kthread_run(dirlock, NULL, "fdbox_dirlock");
	if (IS_ERR(task)) {
		err = PTR_ERR(task);
		goto unregister;
	}
	wait_for_completion(&locked);
	return 0;

unregister:
	unregister_reboot_notifier(&dirlock_reboot_nb);
put_path:
	path_put(&path);
	return err;
}
module_init(dirlock_init);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The FDBox developers");
MODULE_DESCRIPTION("Has whoever adds a device wait until the host reboots, for tests");
