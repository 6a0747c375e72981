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
 *	PUT_FD -> [seal -> kho_write -> SEALED -> unseal -> thaw] -> GET_FD
 *	                        |
 *	                      kexec
 *	                        |
 *	                    INCOMING -> check -> restore -> GET_FD
 *	                        |
 *	                      carry -> kexec
 *
 * All callbacks run in process context and may sleep, and nobody else works on
 * the box meanwhile: they must not call into FDBox but through the functions
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
 * struct fdbox_file_ops - what FDBox asks of a file in a box
 * @kho_write: says with fdbox_fd_write() and fdbox_fd_preserve() what the next
 *	kernel needs. The rwsem of the file's inode is held exclusively, unless
 *	the inode is an anonymous one (IS_ANON_FILE()): files that have nothing
 *	to do with each other share it, so the driver takes a lock of its own.
 *	Called on SEAL, and only where KHO is on. What it wrote is undone by FDBox when
 *	it or a later step fails.
 * @seal: freezes the shape of the file and checks with fdbox_fd_needs() what it
 *	depends on. Optional.
 * @unseal: UNSEAL asks whether the file may be given back; changes nothing. An
 *	error refuses: then no file of the box is thawed, the box stays sealed,
 *	and the caller learns which descriptor it was and, by fdbox_fd_refuse(),
 *	why. SALVAGE does not listen to it. Optional.
 * @thaw: the exact inverse of @seal, on UNSEAL once every file has agreed, and
 *	when a SEAL fails later on; cannot fail. Optional.
 * @take: the file for whoever takes it out in the kernel that it was put in,
 *	with a reference, or an ERR_PTR(). Optional: the file itself.
 * @bytes: bytes of memory that the file holds, for listings; called at any
 *	time. Optional: 0.
 * @seals_last: the file is sealed after all files that do not say so, and thawed
 *	before them, for what @seal and @kho_write look at of others.
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
 * @compatible: names the layout of what @ops->kho_write wrote; at most 47
 *	bytes. Change the layout, change the string.
 * @fops: files with these operations are of this kind
 * @ops: see struct fdbox_file_ops
 * @restore: makes a file from what the last kernel wrote, with fdbox_fd_data()
 *	and fdbox_fd_take_folio(). Returns a file or an ERR_PTR(). After an
 *	error FDBox keeps the saved state and GET_FD may be tried again, so take
 *	folios last, when nothing can fail any more.
 * @check: UNSEAL of a box that came from the last kernel asks whether @restore can
 *	make the file; changes nothing. Its folios FDBox looks after itself. An
 *	error says that it is lost, as with @unseal. Optional.
 * @carry: the host leaves, or the box is sealed again, and nobody has taken the
 *	descriptor out: takes along what goes on beside the saved state, such as
 *	DMA. An error loses the box at this kexec, or fails the SEAL. Optional.
 * @uncarry: the inverse of @carry; cannot fail. Optional.
 * @discard: nobody will take the descriptor out: ends what goes on beside the saved
 *	state. Called before memory of the box is freed; cannot fail. Optional.
 *
 * In the last five fdbox_fd_file() is NULL, and fdbox_fd_data() is what was saved.
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

/* 0, -EEXIST: the compatible string is registered, -EINVAL: incomplete kind. */
int fdbox_register_kind(const struct fdbox_kind *kind);
/* Files of this kind that are waiting in a box stay there. */
void fdbox_unregister_kind(const struct fdbox_kind *kind);

/* The file; NULL in the callbacks of what was saved. */
struct file *fdbox_fd_file(struct fdbox_fd *fd);

/*
 * In seal, unseal and check: says why it is going to fail with @err, which is
 * returned. The text is for whoever called, and tells what to do.
 */
int fdbox_fd_refuse(struct fdbox_fd *fd, int err, const char *why);

/*
 * In seal: 0 when @file is in the same box, otherwise -ENOENT, and the caller
 * of FDBOX_SEAL learns that @what is missing.
 */
int fdbox_fd_needs(struct fdbox_fd *fd, struct file *file, const char *what);

/*
 * In seal and kho_write: the name of @file in the box, which is @fd's or another's;
 * -ENOENT if it is not there. To be saved, for fdbox_fd_has().
 */
int fdbox_fd_name(struct fdbox_fd *fd, struct file *file, char name[FDBOX_NAME_LEN]);

/* In check: whether the box has another descriptor called @name. */
bool fdbox_fd_has(struct fdbox_fd *fd, const char *name);

/* In kho_write: appends to what restore gets from fdbox_fd_data(). */
int fdbox_fd_write(struct fdbox_fd *fd, const void *data, size_t len);

/*
 * In kho_write: keeps @folio for the next kernel. Folios keep their order of
 * writing. The driver makes sure that the folio stays until unseal.
 */
int fdbox_fd_preserve(struct fdbox_fd *fd, struct folio *folio);

/* In restore, check, carry, uncarry, discard: what was written; @len gets its length. */
const void *fdbox_fd_data(struct fdbox_fd *fd, size_t *len);

/*
 * In restore: the next folio, with one reference that now is the caller's, or
 * NULL after the last. Those that nobody has asked for are freed when restore has
 * returned a file.
 */
struct folio *fdbox_fd_take_folio(struct fdbox_fd *fd);

#endif /* _LINUX_FDBOX_H */
