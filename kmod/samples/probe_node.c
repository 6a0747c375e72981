// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: the device node of fdbox_probe. Through it a test delays a callback
 * of the driver or a reboot. Its open files are the files of the driver.
 */
#include <linux/anon_inodes.h>
#include <linux/completion.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/reboot.h>
#include <linux/uaccess.h>

#include "probe.h"

#define HOLD_LIMIT	(30 * HZ)

/* Delays a reboot before the notifier of fdbox.ko is called, and after. */
static bool hold_first, hold;
static DECLARE_COMPLETION(begun);
static DECLARE_COMPLETION(may_start);
static DECLARE_COMPLETION(rebooting);
static DECLARE_COMPLETION(may_go);

/* The callback whose next call is delayed. */
static int hold_at;
static int held_err;
static DECLARE_COMPLETION(held);
static DECLARE_COMPLETION(let_go);

static int probe_open(struct inode *inode, struct file *file)
{
	file->private_data = folio_alloc(GFP_KERNEL | __GFP_ZERO, 0);
	return file->private_data ? 0 : -ENOMEM;
}

static int probe_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		folio_put(file->private_data);
	return 0;
}

/* Waits for "let-go" or "fail" if this callback is to be delayed. */
int probe_hold_up(int here)
{
	if (cmpxchg(&hold_at, here, PROBE_HOLD_NONE) != here)
		return 0;
	complete(&held);
	if (!wait_for_completion_timeout(&let_go, HOLD_LIMIT))
		pr_err("fdbox_probe: BUG: nobody let a callback go on\n");
	return xchg(&held_err, 0);
}

/*
 * "early" delays the next reboot before the notifier of fdbox.ko is called, until
 * "start" is written; "begun" returns when the reboot waits. "hold" delays it after
 * that notifier, until "go" is written; read() returns when the reboot waits.
 *
 * "seal", "write", "restore" and "discard" delay the next call of that callback, for
 * any file, until "let-go" is written, or "fail", which makes it fail. "await"
 * returns when a callback waits.
 */
static ssize_t probe_write(struct file *file, const char __user *text, size_t len,
			   loff_t *pos)
{
	char word[8] = {};
	int err = 0;

	if (copy_from_user(word, text, min(len, sizeof(word) - 1)))
		return -EFAULT;
	if (!strcmp(word, "early")) {
		hold_first = true;
	} else if (!strcmp(word, "begun")) {
		err = wait_for_completion_killable(&begun);
	} else if (!strcmp(word, "start")) {
		complete_all(&may_start);
	} else if (!strcmp(word, "hold")) {
		hold = true;
	} else if (!strcmp(word, "go")) {
		complete_all(&may_go);
	} else if (!strcmp(word, "seal")) {
		hold_at = PROBE_HOLD_SEAL;
	} else if (!strcmp(word, "write")) {
		hold_at = PROBE_HOLD_WRITE;
	} else if (!strcmp(word, "restore")) {
		hold_at = PROBE_HOLD_RESTORE;
	} else if (!strcmp(word, "discard")) {
		hold_at = PROBE_HOLD_DISCARD;
	} else if (!strcmp(word, "await")) {
		err = wait_for_completion_killable(&held);
	} else {
		held_err = strcmp(word, "fail") ? 0 : -EREMOTEIO;
		complete(&let_go);
	}
	return err ?: len;
}

static ssize_t probe_read(struct file *file, char __user *text, size_t len, loff_t *pos)
{
	int err = wait_for_completion_killable(&rebooting);

	return err ?: put_user('r', text) ?: 1;
}

static void wait_until(struct completion *event)
{
	if (!wait_for_completion_timeout(event, HOLD_LIMIT))
		pr_err("fdbox_probe: BUG: nobody let the reboot go on\n");
}

static int probe_reboot_first(struct notifier_block *nb, unsigned long action, void *data)
{
	complete_all(&begun);
	if (hold_first)
		wait_until(&may_start);
	return NOTIFY_DONE;
}

static int probe_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	complete_all(&rebooting);
	if (hold)
		wait_until(&may_go);
	return NOTIFY_DONE;
}

/* Called before the notifier of fdbox.ko, which has priority 0. */
static struct notifier_block probe_reboot_first_nb = {
	.notifier_call = probe_reboot_first,
	.priority = 1,
};

/* Called after it. */
static struct notifier_block probe_reboot_nb = {
	.notifier_call = probe_reboot,
	.priority = -1,
};

/* Any ioctl returns another file of the driver, with an anonymous inode. */
static long probe_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct folio *folio = folio_alloc(GFP_KERNEL | __GFP_ZERO, 0);
	struct file *new;
	int fd;

	if (!folio)
		return -ENOMEM;
	new = probe_anonymous(folio);
	if (IS_ERR(new)) {
		folio_put(folio);
		return PTR_ERR(new);
	}
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		fput(new);
	else
		fd_install(fd, new);
	return fd;
}

const struct file_operations probe_fops = {
	.owner = THIS_MODULE,
	.open = probe_open,
	.release = probe_release,
	.read = probe_read,
	.write = probe_write,
	.unlocked_ioctl = probe_ioctl,
};

struct file *probe_anonymous(struct folio *folio)
{
	struct file *file = anon_inode_getfile("fdbox_probe", &probe_fops, NULL, O_RDWR);

	if (!IS_ERR(file))
		file->private_data = folio;
	return file;
}

static struct miscdevice probe_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fdbox_probe",
	.fops = &probe_fops,
	.mode = 0600,
};

int probe_node_register(void)
{
	int err = register_reboot_notifier(&probe_reboot_first_nb);

	if (err)
		return err;
	err = register_reboot_notifier(&probe_reboot_nb);
	if (err)
		goto unregister_first;
	err = misc_register(&probe_device);
	if (!err)
		return 0;
	unregister_reboot_notifier(&probe_reboot_nb);
unregister_first:
	unregister_reboot_notifier(&probe_reboot_first_nb);
	return err;
}

void probe_node_unregister(void)
{
	misc_deregister(&probe_device);
	unregister_reboot_notifier(&probe_reboot_nb);
	unregister_reboot_notifier(&probe_reboot_first_nb);
}
