/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FDBox for drivers: keep a driver's files in a box and across a kexec.
 *
 * A driver describes its kind of file once, in a struct fdbox_kind, and
 * registers it. From then on such files can be put into a box, and those that
 * the last kernel saved under the same compatible string can be taken out, even
 * if the driver is registered much later.
 *
 * Lifecycle of a file in a box:
 *
 *	PUT_FD -> [seal -> kho_write -> SEALED -> unseal -> thaw] -> GET_FD
 *	                        |
 *	                      kexec
 *	                        |
 *	                    INCOMING -> check -> restore -> GET_FD
 *	                        |
 *	                      carry -> kexec
 *
 * All callbacks run in process context and may sleep. Nobody else works on the
 * box meanwhile, so they must not call into FDBox except through the functions
 * below.
 */
#ifndef _LINUX_FDBOX_H
#define _LINUX_FDBOX_H

#include <linux/types.h>
#include <uapi/linux/fdbox.h>

struct file;
struct file_operations;
struct folio;
struct module;

/* One descriptor of a box, valid for the duration of a callback. */
struct fdbox_fd;

/**
 * struct fdbox_file_ops - callbacks for a file in a box
 * @kho_write: saves what the next kernel needs, with fdbox_fd_write() and
 *	fdbox_fd_preserve(). The rwsem of the file's inode is held exclusively,
 *	unless the inode is an anonymous one (IS_ANON_FILE()): unrelated files
 *	share that, so the driver must use a lock of its own. Called on SEAL, and
 *	only if KHO is on. FDBox undoes what it wrote if it or a later step
 *	fails.
 * @seal: freezes the shape of the file and checks its dependencies with
 *	fdbox_fd_needs(). Optional.
 * @unseal: on UNSEAL, returns whether the file may be given back; must not
 *	change anything. On error no file of the box is thawed, the box stays
 *	sealed, and the caller learns which descriptor refused and, through
 *	fdbox_fd_refuse(), why. SALVAGE ignores the error. Optional.
 * @thaw: the exact inverse of @seal, on UNSEAL once every file has agreed, and
 *	if a SEAL fails later; cannot fail. Optional.
 * @take: returns the file for the taker in the kernel in which it was put in,
 *	with a reference, or an ERR_PTR(). Optional: the file itself.
 * @bytes: returns the bytes of memory that the file holds, for listings; called
 *	at any time. Optional: 0.
 * @seals_last: the file is sealed after all files without this flag, and thawed
 *	before them, because @seal and @kho_write depend on them.
 */
struct fdbox_file_ops {
	int (*kho_write)(struct fdbox_fd *fd);
	int (*seal)(struct fdbox_fd *fd);
	int (*unseal)(struct fdbox_fd *fd);
	void (*thaw)(struct fdbox_fd *fd);
	struct file *(*take)(struct fdbox_fd *fd);
	u64 (*bytes)(struct file *file);
	bool seals_last;
};

/**
 * struct fdbox_kind - a kind of file that can be in a box
 * @owner: THIS_MODULE
 * @compatible: identifies the layout of what @ops->kho_write wrote; at most 47
 *	bytes. A new layout needs a new string.
 * @fops: files with these operations are of this kind
 * @ops: see struct fdbox_file_ops
 * @restore: makes a file from what the last kernel wrote, with fdbox_fd_data()
 *	and fdbox_fd_take_folio(). Returns a file or an ERR_PTR(). After an
 *	error FDBox keeps the saved state and GET_FD may be tried again, so take
 *	folios last, when nothing can fail any more.
 * @check: on UNSEAL of a box from the last kernel, returns whether @restore can
 *	make the file; must not change anything. FDBox checks its folios itself.
 *	An error means that the descriptor is lost, as with @unseal. Optional.
 * @carry: the host leaves, or the box is sealed again, and the descriptor was
 *	not taken out: takes along what goes on besides the saved state, such as
 *	DMA. An error loses the box at this kexec, or fails the SEAL. Optional.
 * @uncarry: the inverse of @carry; cannot fail. Optional.
 * @discard: the descriptor will not be taken out: ends what goes on besides the
 *	saved state. Called before memory of the box is freed; cannot fail.
 *	Optional.
 *
 * In the last five, fdbox_fd_file() is NULL, and fdbox_fd_data() is what was
 * saved.
 */
struct fdbox_kind {
	struct module *owner;
	const char *compatible;
	const struct file_operations *fops;
	const struct fdbox_file_ops *ops;
	struct file *(*restore)(struct fdbox_fd *fd);
	int (*check)(struct fdbox_fd *fd);
	int (*carry)(struct fdbox_fd *fd);
	void (*uncarry)(struct fdbox_fd *fd);
	void (*discard)(struct fdbox_fd *fd);
};

/*
 * Returns 0, -EEXIST if the string is registered, -EINVAL if @kind is
 * incomplete.
 */
int fdbox_register_kind(const struct fdbox_kind *kind);
/* Files of this kind that are in a box stay there. */
void fdbox_unregister_kind(const struct fdbox_kind *kind);

/* The file; NULL in the callbacks for saved state. */
struct file *fdbox_fd_file(struct fdbox_fd *fd);

/*
 * In seal, unseal and check: records why the callback is about to fail with
 * @err, and returns @err. The text is for the caller, and should say what to
 * do.
 */
int fdbox_fd_refuse(struct fdbox_fd *fd, int err, const char *why);

/*
 * In seal: returns 0 if @file is in the same box. Otherwise returns -ENOENT,
 * and the caller of FDBOX_SEAL is told that @what is missing.
 */
int fdbox_fd_needs(struct fdbox_fd *fd, struct file *file, const char *what);

/*
 * In seal and kho_write: gets the name of @file in the box, which may be @fd's
 * or another file; -ENOENT if it is not there. To be saved for fdbox_fd_has().
 */
int fdbox_fd_name(struct fdbox_fd *fd, struct file *file, char name[FDBOX_NAME_LEN]);

/* In check: whether the box has another descriptor called @name. */
bool fdbox_fd_has(struct fdbox_fd *fd, const char *name);

/* In kho_write: appends to the data that restore gets from fdbox_fd_data(). */
int fdbox_fd_write(struct fdbox_fd *fd, const void *data, size_t len);

/*
 * In kho_write: preserves @folio for the next kernel. Folios keep the order in
 * which they are written. The driver must keep the folio until unseal.
 */
int fdbox_fd_preserve(struct fdbox_fd *fd, struct folio *folio);

/*
 * In the callbacks for saved state: what was written; @len is set to its
 * length.
 */
const void *fdbox_fd_data(struct fdbox_fd *fd, size_t *len);

/*
 * In restore: returns the next folio, with one reference that now belongs to
 * the caller, or NULL after the last. Folios that are not taken are freed when
 * restore has returned a file.
 */
struct folio *fdbox_fd_take_folio(struct fdbox_fd *fd);

#endif /* _LINUX_FDBOX_H */
