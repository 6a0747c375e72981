// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: calls every function of <linux/fdbox.h>, also where that is not
 * allowed, and tries to register invalid kinds. The parameter "wrong" counts the
 * results that differ from docs/uapi.md. They are also logged.
 */
#include <linux/fdbox.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

#include "probe.h"

#define COMPATIBLE	"fdbox,probe-v1"
#define ANOTHER		"fdbox,probe-v2"
#define BUILT_IN	"fdbox,memfd-v1"
#define TOO_MUCH	(SZ_1M + 1)

static unsigned int seals;
module_param(seals, uint, 0400);
MODULE_PARM_DESC(seals, "calls of seal so far");

static unsigned int restores;
module_param(restores, uint, 0400);
MODULE_PARM_DESC(restores, "calls of restore so far");

static unsigned int wrong;
module_param(wrong, uint, 0400);
MODULE_PARM_DESC(wrong, "answers that were wrong so far");

/* Number of calls of take, of carry without those that were undone, and of discard. */
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

/* The name of the file begins with "probe", and the box has no other file of that name. */
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
	return probe_hold_up(PROBE_HOLD_SEAL);
}

static int probe_kho_write(struct fdbox_fd *fd)
{
	struct file *file = fdbox_fd_file(fd);
	void *data = kvzalloc(TOO_MUCH, GFP_KERNEL);
	int err = probe_hold_up(PROBE_HOLD_WRITE);

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
	/* In two parts, the second of which is appended. */
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

/* Returns the same file, which any process can use. */
static struct file *probe_take(struct fdbox_fd *fd)
{
	no_refuse("refuse in take", fd);
	no_write("write in take", fd);
	taken++;
	return get_file(fdbox_fd_file(fd));
}

/* Checks the saved data, and that nothing but reading it is allowed. */
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
	probe_hold_up(PROBE_HOLD_DISCARD);
	discarded++;
}

static struct file *probe_restore(struct fdbox_fd *fd)
{
	struct file *file;
	int err;

	restores++;
	is_saved("restore", fd);
	no_refuse("refuse in restore", fd);
	err = probe_hold_up(PROBE_HOLD_RESTORE);
	if (err)
		return ERR_PTR(err);

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
	/* @kind is on the stack, so it must not stay registered. */
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

static int __init probe_init(void)
{
	int err;

	/* A kind can be registered again after it was unregistered. */
	expect("the first time", fdbox_register_kind(&probe_kind), 0);
	fdbox_unregister_kind(&probe_kind);
	err = fdbox_register_kind(&probe_kind);
	if (err)
		return err;
	refused_but_for();
	err = probe_node_register();
	if (err)
		fdbox_unregister_kind(&probe_kind);
	return err;
}
module_init(probe_init);

static void __exit probe_exit(void)
{
	probe_node_unregister();
	fdbox_unregister_kind(&probe_kind);
}
module_exit(probe_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The FDBox developers");
MODULE_DESCRIPTION("Tries the API of FDBox for drivers, for tests");
