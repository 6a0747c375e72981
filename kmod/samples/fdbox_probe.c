// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: calls every function of <linux/fdbox.h>, also where it may not
 * be called, and registers what may not be registered. The parameter "wrong"
 * counts the answers that are not those of docs/uapi.md; the log has them.
 */
#include <linux/anon_inodes.h>
#include <linux/completion.h>
#include <linux/fdbox.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define COMPATIBLE	"fdbox,probe-v1"
#define ANOTHER		"fdbox,probe-v2"
#define BUILT_IN	"fdbox,memfd-v1"
#define TOO_MUCH	(SZ_1M + 1)

#define HOLD_LIMIT	(30 * HZ)

static bool hold;
static DECLARE_COMPLETION(rebooting);
static DECLARE_COMPLETION(may_go);

/* The callback that is held up the next time it is called, if one is to be. */
enum { HOLD_NONE, HOLD_SEAL, HOLD_WRITE };
static int hold_at;
static int held_err;
static DECLARE_COMPLETION(held);
static DECLARE_COMPLETION(let_go);

static unsigned int seals;
module_param(seals, uint, 0400);
MODULE_PARM_DESC(seals, "calls of seal so far");

static unsigned int wrong;
module_param(wrong, uint, 0400);
MODULE_PARM_DESC(wrong, "answers that were wrong so far");

/* How often the callbacks were called; what was taken back counts no more. */
static unsigned int taken, carried, discarded;
module_param(taken, uint, 0400);
module_param(carried, uint, 0400);
module_param(discarded, uint, 0400);

static void expect(const char *what, long answer, long expected)
{
	if (answer == expected)
		return;
	pr_err("fdbox_probe: %s: %ld, not %ld\n", what, answer, expected);
	wrong++;
}

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

/* Waits for "let-go" or "fail", if this is the callback that is to be held up. */
static int hold_up(int here)
{
	if (cmpxchg(&hold_at, here, HOLD_NONE) != here)
		return 0;
	complete(&held);
	if (!wait_for_completion_timeout(&let_go, HOLD_LIMIT))
		pr_err("fdbox_probe: BUG: nobody let a callback go on\n");
	return xchg(&held_err, 0);
}

/*
 * "hold" has the next reboot wait once fdbox.ko has heard of it, until "go" is
 * written; read() waits for that reboot. "seal" and "write" hold up the next
 * callback seal or kho_write, whichever file it is for, until "let-go" or, for
 * it to fail, "fail"; "await" returns when one is held up.
 */
static ssize_t probe_write(struct file *file, const char __user *text, size_t len,
			   loff_t *pos)
{
	char word[8] = {};
	int err = 0;

	if (copy_from_user(word, text, min(len, sizeof(word) - 1)))
		return -EFAULT;
	if (!strcmp(word, "hold")) {
		hold = true;
	} else if (!strcmp(word, "go")) {
		complete_all(&may_go);
	} else if (!strcmp(word, "seal")) {
		hold_at = HOLD_SEAL;
	} else if (!strcmp(word, "write")) {
		hold_at = HOLD_WRITE;
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

static int probe_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	complete_all(&rebooting);
	if (hold && !wait_for_completion_timeout(&may_go, HOLD_LIMIT))
		pr_err("fdbox_probe: BUG: nobody let the reboot go on\n");
	return NOTIFY_DONE;
}

/* After fdbox.ko, whose priority is 0. */
static struct notifier_block probe_reboot_nb = {
	.notifier_call = probe_reboot,
	.priority = -1,
};

static struct file *probe_anonymous(struct folio *folio);

/* Any ioctl: another such file, with an anonymous inode. */
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

static const struct file_operations probe_fops = {
	.owner = THIS_MODULE,
	.open = probe_open,
	.release = probe_release,
	.read = probe_read,
	.write = probe_write,
	.unlocked_ioctl = probe_ioctl,
};

static struct file *probe_anonymous(struct folio *folio)
{
	struct file *file = anon_inode_getfile("fdbox_probe", &probe_fops, NULL, O_RDWR);

	if (!IS_ERR(file))
		file->private_data = folio;
	return file;
}

static void no_write(const char *where, struct fdbox_fd *fd)
{
	expect(where, fdbox_fd_write(fd, "x", 1), -EINVAL);
	expect(where, fdbox_fd_preserve(fd, NULL), -EINVAL);
}

static void no_restore(const char *where, struct fdbox_fd *fd)
{
	size_t len = 1;

	fdbox_fd_data(fd, &len);
	expect(where, len, 0);
	expect(where, !fdbox_fd_take_folio(fd), true);
}

static void no_needs(const char *where, struct fdbox_fd *fd)
{
	expect(where, fdbox_fd_needs(fd, fdbox_fd_file(fd), "it"), -EINVAL);
}

static void no_refuse(const char *where, struct fdbox_fd *fd)
{
	expect(where, fdbox_fd_refuse(fd, -EBUSY, "it"), -EINVAL);
}

static void no_name(const char *where, struct fdbox_fd *fd)
{
	char name[FDBOX_NAME_LEN];

	expect(where, fdbox_fd_name(fd, fdbox_fd_file(fd), name), -EINVAL);
}

/* The box has the probe under a name that begins so, and no other file under that one. */
static void is_probe(const char *where, struct fdbox_fd *fd)
{
	char name[FDBOX_NAME_LEN] = {};

	expect(where, fdbox_fd_name(fd, fdbox_fd_file(fd), name), 0);
	expect(where, strncmp(name, "probe", strlen("probe")), 0);
	expect(where, fdbox_fd_has(fd, name), false);
}

static int probe_seal(struct fdbox_fd *fd)
{
	seals++;
	expect("file in seal", !fdbox_fd_file(fd), false);
	is_probe("name in seal", fd);
	expect("no error in refuse", fdbox_fd_refuse(fd, 0, "it"), -EINVAL);
	no_write("write in seal", fd);
	no_restore("restore in seal", fd);
	return hold_up(HOLD_SEAL);
}

static int probe_kho_write(struct fdbox_fd *fd)
{
	struct file *file = fdbox_fd_file(fd);
	void *data = kvzalloc(TOO_MUCH, GFP_KERNEL);
	int err = hold_up(HOLD_WRITE);

	if (err || !data) {
		kvfree(data);
		return err ?: -ENOMEM;
	}
	no_needs("needs in kho_write", fd);
	no_refuse("refuse in kho_write", fd);
	is_probe("name in kho_write", fd);
	no_restore("restore in kho_write", fd);
	expect("nothing in kho_write", fdbox_fd_write(fd, NULL, 0), 0);
	expect("too much in kho_write", fdbox_fd_write(fd, data, TOO_MUCH), -EFBIG);
	kvfree(data);
	/* In two parts: the second is appended. */
	err = fdbox_fd_write(fd, "pro", 3) ?: fdbox_fd_write(fd, "be", 2);
	return err ?: fdbox_fd_preserve(fd, file->private_data);
}

static int probe_unseal(struct fdbox_fd *fd)
{
	expect("file in unseal", !fdbox_fd_file(fd), false);
	no_needs("needs in unseal", fd);
	no_name("name in unseal", fd);
	no_write("write in unseal", fd);
	no_restore("restore in unseal", fd);
	return 0;
}

static void probe_thaw(struct fdbox_fd *fd)
{
	expect("file in thaw", !fdbox_fd_file(fd), false);
	no_needs("needs in thaw", fd);
	no_refuse("refuse in thaw", fd);
	no_name("name in thaw", fd);
	no_write("write in thaw", fd);
	no_restore("restore in thaw", fd);
}

/* The same file: there is nothing that a taker could not do with it. */
static struct file *probe_take(struct fdbox_fd *fd)
{
	no_refuse("refuse in take", fd);
	no_write("write in take", fd);
	taken++;
	return get_file(fdbox_fd_file(fd));
}

/* What can be read of what was saved, and what else a callback for it may not do. */
static void is_saved(const char *where, struct fdbox_fd *fd)
{
	const void *data;
	size_t len;

	expect(where, !fdbox_fd_file(fd), true);
	no_write(where, fd);
	data = fdbox_fd_data(fd, &len);
	expect(where, len == 5 && !memcmp(data, "probe", len), true);
}

static int probe_check(struct fdbox_fd *fd)
{
	is_saved("check", fd);
	expect("the probe in check", fdbox_fd_has(fd, "probe"), true);
	expect("no such name in check", fdbox_fd_has(fd, "none"), false);
	expect("a folio in check", !fdbox_fd_take_folio(fd), true);
	return 0;
}

static int probe_carry(struct fdbox_fd *fd)
{
	is_saved("carry", fd);
	no_refuse("refuse in carry", fd);
	carried++;
	return 0;
}

static void probe_uncarry(struct fdbox_fd *fd)
{
	is_saved("uncarry", fd);
	carried--;
}

static void probe_discard(struct fdbox_fd *fd)
{
	is_saved("discard", fd);
	discarded++;
}

static struct file *probe_restore(struct fdbox_fd *fd)
{
	struct file *file;

	is_saved("restore", fd);
	no_refuse("refuse in restore", fd);

	file = probe_anonymous(NULL);
	if (IS_ERR(file))
		return file;
	file->private_data = fdbox_fd_take_folio(fd);
	expect("the folio", !file->private_data, false);
	expect("no further folio", !fdbox_fd_take_folio(fd), true);
	return file;
}

static const struct fdbox_file_ops probe_ops = {
	.kho_write = probe_kho_write,
	.seal = probe_seal,
	.unseal = probe_unseal,
	.thaw = probe_thaw,
	.take = probe_take,
};

static const struct fdbox_kind probe_kind = {
	.owner = THIS_MODULE,
	.compatible = COMPATIBLE,
	.fops = &probe_fops,
	.ops = &probe_ops,
	.restore = probe_restore,
	.check = probe_check,
	.carry = probe_carry,
	.uncarry = probe_uncarry,
	.discard = probe_discard,
};

static void refused(const char *what, struct fdbox_kind kind, int err)
{
	/* Only the refusal is wanted: what is on the stack must not stay. */
	int answer = fdbox_register_kind(&kind);

	expect(what, answer, err);
	if (!answer)
		fdbox_unregister_kind(&kind);
}

static void refused_but_for(void)
{
	static const char too_long[] = "fdbox,probe-0123456789-0123456789-0123456789-012";
	struct fdbox_kind kind = probe_kind;

	static_assert(sizeof(too_long) == 49);
	refused("a string that is taken", kind, -EEXIST);
	kind.compatible = BUILT_IN;
	refused("a string of a built-in kind", kind, -EEXIST);
	kind.compatible = too_long;
	refused("a string of 48 bytes", kind, -EINVAL);
	kind.compatible = "";
	refused("an empty string", kind, -EINVAL);
	kind.compatible = NULL;
	refused("no string", kind, -EINVAL);
	kind.compatible = ANOTHER;
	kind.fops = NULL;
	refused("no fops", kind, -EINVAL);
	kind.fops = &probe_fops;
	kind.ops = NULL;
	refused("no ops", kind, -EINVAL);
	kind.ops = &probe_ops;
	kind.restore = NULL;
	refused("no restore", kind, -EINVAL);
	expect("no kind", fdbox_register_kind(NULL), -EINVAL);
}

static struct miscdevice probe_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fdbox_probe",
	.fops = &probe_fops,
	.mode = 0600,
};

static int __init probe_init(void)
{
	int err;

	/* Forgotten, it can be registered again. */
	expect("the first time", fdbox_register_kind(&probe_kind), 0);
	fdbox_unregister_kind(&probe_kind);
	err = fdbox_register_kind(&probe_kind);
	if (err)
		return err;
	refused_but_for();
	err = register_reboot_notifier(&probe_reboot_nb);
	if (err)
		goto unregister;
	err = misc_register(&probe_device);
	if (!err)
		return 0;
	unregister_reboot_notifier(&probe_reboot_nb);
unregister:
	fdbox_unregister_kind(&probe_kind);
	return err;
}
module_init(probe_init);

static void __exit probe_exit(void)
{
	misc_deregister(&probe_device);
	unregister_reboot_notifier(&probe_reboot_nb);
	fdbox_unregister_kind(&probe_kind);
}
module_exit(probe_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The FDBox developers");
MODULE_DESCRIPTION("Tries the API of FDBox for drivers, for tests");
