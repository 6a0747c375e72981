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
#include <linux/ratelimit.h>
#include <linux/reboot.h>
#include <linux/sched/signal.h>
#include <linux/sort.h>
#include <linux/utsname.h>
#include <linux/wait_bit.h>
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

/* Gives the current task a descriptor of @file, if the LSM allows it, as SCM_RIGHTS does. */
int fdbox_shim_receive_fd(struct file *file)
{
	return receive_fd(file, NULL, O_CLOEXEC);
}

/*
 * Closes @fd as close(2) does, if it still refers to @file, of which the caller
 * has a reference. After the slot is cleared the number is reserved, as one that
 * get_unused_fd_flags() has returned, until put_unused_fd() frees it.
 */
void fdbox_shim_close_fd(unsigned int fd, struct file *file)
{
	struct files_struct *files = current->files;
	struct fdtable *fdt;
	bool is;

	spin_lock(&files->file_lock);
	is = files_lookup_fd_locked(files, fd) == file;
	if (is) {
		fdt = files_fdtable(files);
		rcu_assign_pointer(fdt->fd[fd], NULL);
	}
	spin_unlock(&files->file_lock);
	if (!is)
		return;

	put_unused_fd(fd);
	filp_close(file, files);
}

bool fdbox_shim_killed(void)
{
	return fatal_signal_pending(current);
}

static bool fdbox_is_zero(const u32 *count)
{
	/* Pairs with the fully ordered operation that made it 0, before fdbox_shim_wake(). */
	return !smp_load_acquire(count);
}

/* Sleeps until *@count is 0 or the time has passed; returns whether it is 0. */
bool fdbox_shim_wait_for_zero(const u32 *count, u32 limit_ms)
{
	return wait_var_event_timeout((void *)count, fdbox_is_zero(count),
				      msecs_to_jiffies(limit_ms));
}

/* The same without a limit; returns -EINTR if the task is killed. */
int fdbox_shim_wait_for_zero_killable(const u32 *count)
{
	return wait_var_event_killable((void *)count, fdbox_is_zero(count)) ? -EINTR : 0;
}

/* After *@count has become 0 by a fully ordered operation. */
void fdbox_shim_wake(const u32 *count)
{
	wake_up_var((void *)count);
}

bool fdbox_shim_is_read_write(struct file *file)
{
	const fmode_t both = FMODE_READ | FMODE_WRITE;

	return (file->f_mode & both) == both;
}

/* For comparison. */
const void *fdbox_shim_inode(struct file *file)
{
	return file_inode(file);
}

int fdbox_shim_inode_lock(struct file *file)
{
	struct inode *inode = file_inode(file);

	return IS_ANON_FILE(inode) ? 0 : inode_lock_killable(inode);
}

void fdbox_shim_inode_unlock(struct file *file)
{
	struct inode *inode = file_inode(file);

	if (!IS_ANON_FILE(inode))
		inode_unlock(inode);
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

/*
 * Takes a reference to this module; the caller has one through the open control
 * node.
 */
bool fdbox_shim_self_get(void)
{
	return try_module_get(THIS_MODULE);
}

void fdbox_shim_self_put(void)
{
	module_put(THIS_MODULE);
}

/*
 * For log messages that a caller can cause: a burst of 50, and 10 per second.
 */
bool fdbox_shim_may_log(void)
{
	static DEFINE_RATELIMIT_STATE(state, 5 * HZ, 50);

	return __ratelimit(&state);
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
	/* Only kernel_kexec() passes this string. */
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

/* Not needed to load this module, but to support their kinds: see optional.h. */
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

int fdbox_fd_refuse(struct fdbox_fd *fd, int err, const char *why)
{
	return fdbox_rs_fd_refuse(fd, err, why);
}
EXPORT_SYMBOL_GPL(fdbox_fd_refuse);

int fdbox_fd_name(struct fdbox_fd *fd, struct file *file, char name[FDBOX_NAME_LEN])
{
	return fdbox_rs_fd_name(fd, file, name);
}
EXPORT_SYMBOL_GPL(fdbox_fd_name);

bool fdbox_fd_has(struct fdbox_fd *fd, const char *name)
{
	return fdbox_rs_fd_has(fd, name);
}
EXPORT_SYMBOL_GPL(fdbox_fd_has);

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
