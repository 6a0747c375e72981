/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FDBox for drivers: let files of your own ride in a box and across a kexec.
 *
 * A driver describes its kind of file once, in a struct fdbox_kind, and
 * registers it. From then on such a file can be put into a box, and one that
 * came from the last kernel under the same compatible string, however long
 * before, can be taken out.
 *
 * Lifecycle of a file in a box:
 *
 *	PUT_FD -> [seal -> kho_write -> SEALED -> unseal] -> GET_FD
 *	                        |
 *	                      kexec
 *	                        |
 *	                     INCOMING -> restore -> GET_FD
 *
 * All callbacks run in process context and may sleep, and nobody else works on
 * the box meanwhile: they must not call into FDBox but through the functions
 * below.
 */
#ifndef _LINUX_FDBOX_H
#define _LINUX_FDBOX_H

#include <linux/types.h>

struct file;
struct file_operations;
struct folio;
struct module;

/* One descriptor of a box, valid for the duration of a callback. */
struct fdbox_fd;

/**
 * struct fdbox_file_ops - what FDBox asks of a file in a box
 * @kho_write: says with fdbox_fd_write() and fdbox_fd_preserve() what the next
 *	kernel needs. The rwsem of the file's inode is held exclusively, unless
 *	the inode is an anonymous one (IS_ANON_FILE()): files that have nothing
 *	to do with each other share it, so the driver takes a lock of its own.
 *	Called on SEAL, and only where KHO is on. What it wrote is undone by FDBox when
 *	it or a later step fails.
 * @seal: freezes the shape of the file and checks with fdbox_fd_needs() what it
 *	depends on. Optional.
 * @unseal: the exact inverse of @seal; cannot fail. Optional.
 */
struct fdbox_file_ops {
	int (*kho_write)(struct fdbox_fd *fd);
	int (*seal)(struct fdbox_fd *fd);
	void (*unseal)(struct fdbox_fd *fd);
};

/**
 * struct fdbox_kind - a kind of file that can be in a box
 * @owner: THIS_MODULE
 * @compatible: names the layout of what @ops->kho_write wrote; at most 47
 *	bytes. Change the layout, change the string.
 * @fops: files with these operations are of this kind
 * @ops: see struct fdbox_file_ops
 * @restore: makes a file from what the last kernel wrote, with fdbox_fd_data()
 *	and fdbox_fd_take_folio(). Returns a file or an ERR_PTR(). After an
 *	error FDBox keeps the saved state and GET_FD may be tried again, so take
 *	folios last, when nothing can fail any more.
 */
struct fdbox_kind {
	struct module *owner;
	const char *compatible;
	const struct file_operations *fops;
	const struct fdbox_file_ops *ops;
	struct file *(*restore)(struct fdbox_fd *fd);
};

/* 0, -EEXIST: the compatible string is registered, -EINVAL: incomplete kind. */
int fdbox_register_kind(const struct fdbox_kind *kind);
/* Files of this kind that are waiting in a box stay there. */
void fdbox_unregister_kind(const struct fdbox_kind *kind);

/* The file; NULL in a restore callback. */
struct file *fdbox_fd_file(struct fdbox_fd *fd);

/*
 * In seal: 0 when @file is in the same box, otherwise -ENOENT, and the caller
 * of FDBOX_SEAL learns that @what is missing.
 */
int fdbox_fd_needs(struct fdbox_fd *fd, struct file *file, const char *what);

/* In kho_write: appends to what restore gets from fdbox_fd_data(). */
int fdbox_fd_write(struct fdbox_fd *fd, const void *data, size_t len);

/*
 * In kho_write: keeps @folio for the next kernel. Folios keep their order of
 * writing. The driver makes sure that the folio stays until unseal.
 */
int fdbox_fd_preserve(struct fdbox_fd *fd, struct folio *folio);

/* In restore: what was written; @len gets its length. */
const void *fdbox_fd_data(struct fdbox_fd *fd, size_t *len);

/*
 * In restore: the next folio, with one reference that now is the caller's, or
 * NULL after the last. Those that nobody has asked for are freed when restore has
 * returned a file.
 */
struct folio *fdbox_fd_take_folio(struct fdbox_fd *fd);

#endif /* _LINUX_FDBOX_H */
