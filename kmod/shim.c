// SPDX-License-Identifier: GPL-2.0
/*
 * Kernel functions that Rust has no binding or no abstraction for: inline
 * functions, macros, and the exported side of the in-kernel API.
 */
#include <linux/capability.h>
#include <linux/crc32.h>
#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/reboot.h>
#include <linux/sort.h>
#include <linux/utsname.h>
#include <linux/fdbox.h>

#include "shim.h"

bool fdbox_shim_capable(void)
{
	return capable(CAP_SYS_ADMIN);
}

bool fdbox_shim_opener_capable(struct file *file)
{
	return file_ns_capable(file, &init_user_ns, CAP_SYS_ADMIN);
}

/* A descriptor of @file for the current task; asks the LSM, as SCM_RIGHTS does. */
int fdbox_shim_receive_fd(struct file *file)
{
	return receive_fd(file, NULL, O_CLOEXEC);
}

/* As close(2) of the current task; false when another thread was quicker. */
bool fdbox_shim_close_fd(unsigned int fd)
{
	struct file *file = file_close_fd(fd);

	if (!file)
		return false;
	filp_close(file, current->files);
	return true;
}

bool fdbox_shim_is_read_write(struct file *file)
{
	const fmode_t both = FMODE_READ | FMODE_WRITE;

	return (file->f_mode & both) == both;
}

void fdbox_shim_inode_lock(struct file *file)
{
	inode_lock(file_inode(file));
}

void fdbox_shim_inode_unlock(struct file *file)
{
	inode_unlock(file_inode(file));
}

const struct file_operations *fdbox_shim_fops(struct file *file)
{
	return file->f_op;
}

bool fdbox_shim_module_get(struct module *owner)
{
	return try_module_get(owner);
}

void fdbox_shim_module_put(struct module *owner)
{
	module_put(owner);
}

/* A box holds the module; the caller holds it by the control node's open file. */
bool fdbox_shim_self_get(void)
{
	return try_module_get(THIS_MODULE);
}

void fdbox_shim_self_put(void)
{
	module_put(THIS_MODULE);
}

static int fdbox_shim_cmp(const void *a, const void *b)
{
	return cmp_int(*(const u64 *)a, *(const u64 *)b);
}

void fdbox_shim_sort(u64 *numbers, size_t nr)
{
	sort_nonatomic(numbers, nr, sizeof(*numbers), fdbox_shim_cmp, NULL);
}

u32 fdbox_shim_crc32(const u8 *data, size_t len)
{
	return ~crc32_le(~0U, data, len);
}

void fdbox_shim_release(u8 *out, size_t len)
{
	strscpy_pad(out, init_utsname()->release, len);
}

static int fdbox_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	/* What kernel_kexec() says, and nobody else. */
	if (action == SYS_RESTART)
		fdbox_rs_reboot(data && !strcmp(data, "kexec reboot"));
	return NOTIFY_DONE;
}

static struct notifier_block fdbox_reboot_nb = { .notifier_call = fdbox_reboot };

int fdbox_shim_reboot_register(void)
{
	return register_reboot_notifier(&fdbox_reboot_nb);
}

void fdbox_shim_reboot_unregister(void)
{
	unregister_reboot_notifier(&fdbox_reboot_nb);
}

/* Not needed to load, but whoever has them wants their kinds: see optional.h. */
MODULE_SOFTDEP("pre: kvm iommufd vfio-pci");

/* The in-kernel API: Rust code cannot export symbols of a module itself. */

int fdbox_register_kind(const struct fdbox_kind *kind)
{
	return fdbox_rs_register_kind(kind);
}
EXPORT_SYMBOL_GPL(fdbox_register_kind);

void fdbox_unregister_kind(const struct fdbox_kind *kind)
{
	fdbox_rs_unregister_kind(kind);
}
EXPORT_SYMBOL_GPL(fdbox_unregister_kind);

struct file *fdbox_fd_file(struct fdbox_fd *fd)
{
	return fdbox_rs_fd_file(fd);
}
EXPORT_SYMBOL_GPL(fdbox_fd_file);

int fdbox_fd_needs(struct fdbox_fd *fd, struct file *file, const char *what)
{
	return fdbox_rs_fd_needs(fd, file, what);
}
EXPORT_SYMBOL_GPL(fdbox_fd_needs);

int fdbox_fd_write(struct fdbox_fd *fd, const void *data, size_t len)
{
	return fdbox_rs_fd_write(fd, data, len);
}
EXPORT_SYMBOL_GPL(fdbox_fd_write);

int fdbox_fd_preserve(struct fdbox_fd *fd, struct folio *folio)
{
	return fdbox_rs_fd_preserve(fd, folio);
}
EXPORT_SYMBOL_GPL(fdbox_fd_preserve);

const void *fdbox_fd_data(struct fdbox_fd *fd, size_t *len)
{
	return fdbox_rs_fd_data(fd, len);
}
EXPORT_SYMBOL_GPL(fdbox_fd_data);

struct folio *fdbox_fd_take_folio(struct fdbox_fd *fd)
{
	return fdbox_rs_fd_take_folio(fd);
}
EXPORT_SYMBOL_GPL(fdbox_fd_take_folio);
