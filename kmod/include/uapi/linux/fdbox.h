/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * FDBox: hand named file descriptors to the kernel, which keeps them after the
 * program has exited and across a kexec.
 *
 * The control node is /dev/fdbox/fdbox; every box is /dev/fdbox/NAME. Opening
 * a box needs CAP_SYS_ADMIN in the initial user namespace, EPERM otherwise. A
 * process that is passed the descriptor can use this box, and only this one,
 * whatever its own capabilities.
 *
 * Errors that all ioctls share, each with one meaning:
 *
 *   EFAULT      the argument is not readable or writable memory
 *   EINVAL      a flag or pad is set, a size is wrong, or a name is invalid
 *               (empty, ".", "..", with "/", or without a NUL in its array)
 *   ENODEV      the box was deleted while this descriptor was open
 *   ENOMEM      out of memory; nothing changed
 *   ENOTTY      unknown command for this node
 *   EPERM       on the control node: the caller lacks CAP_SYS_ADMIN; on a box:
 *               whoever opened it lacked it
 *
 * Additional errors are listed with each ioctl. A failed call changes nothing.
 */
#ifndef _UAPI_LINUX_FDBOX_H
#define _UAPI_LINUX_FDBOX_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define FDBOX_TYPE		'.'
#define FDBOX_BASE		0

/* Bytes in a name, including its terminating NUL. */
#define FDBOX_NAME_LEN		256
/* Bytes in a compatible string, including its terminating NUL. */
#define FDBOX_COMPATIBLE_LEN	48
/* Bytes in the message of struct fdbox_seal_error, including its NUL. */
#define FDBOX_MESSAGE_LEN	256

/* On the control node. */

/*
 * Creates /dev/fdbox/NAME. EEXIST: the name is taken ("fdbox" always is).
 * ENOSPC: the module's limit on boxes is reached.
 */
#define FDBOX_CREATE_BOX	_IO(FDBOX_TYPE, FDBOX_BASE + 0)
struct fdbox_create_box {
	__u64 flags;			/* none defined: must be 0 */
	__u8 name[FDBOX_NAME_LEN];
};

/*
 * Deletes a box and drops the descriptors still in it. ENOENT: no such box.
 * EBUSY: the box is sealed or in use.
 */
#define FDBOX_DELETE_BOX	_IO(FDBOX_TYPE, FDBOX_BASE + 1)
struct fdbox_delete_box {
	__u64 flags;			/* none defined: must be 0 */
	__u8 name[FDBOX_NAME_LEN];
};

/* On a box. */

/*
 * Moves a descriptor from the caller into the box. EBADF: no such descriptor.
 * EOPNOTSUPP: the kind of file is not supported. EBUSY: the box is sealed.
 * EEXIST: the name is taken in this box. ENOSPC: the module's limit on
 * descriptors in a box is reached.
 */
#define FDBOX_PUT_FD		_IO(FDBOX_TYPE, FDBOX_BASE + 2)
struct fdbox_put_fd {
	__u64 flags;			/* none defined: must be 0 */
	__u32 fd;
	__u32 pad;			/* must be 0 */
	__u8 name[FDBOX_NAME_LEN];
};

/*
 * Moves a descriptor out of the box; returns its number, close-on-exec. With
 * FDBOX_GET_KEEP the box also keeps the file under the same name: a caller that
 * is killed, even during this call, has lost nothing. ENOENT: no such name.
 * EBUSY: the box is sealed. EMFILE: no free descriptor number. EOPNOTSUPP: it
 * came from another kernel and nothing here restores its kind yet. EIO: its
 * saved state cannot be restored. EAGAIN: it depends on files that are still in
 * the box: take them out first; or it came from the last kernel, and the host
 * is about to leave for the next one. EHWPOISON: its memory broke, and this
 * kernel could not keep it out of use. EACCES: the LSM does not let the caller
 * have it; the box keeps it.
 */
#define FDBOX_GET_FD		_IO(FDBOX_TYPE, FDBOX_BASE + 3)
struct fdbox_get_fd {
	__u64 flags;			/* FDBOX_GET_* */
	__u8 name[FDBOX_NAME_LEN];
};

#define FDBOX_GET_KEEP			(1ULL << 0)

/*
 * Freezes the shape of what is in the box, checks dependencies and, if KHO is
 * on, registers it for the next kernel. Content may still change. EBUSY:
 * already sealed; one of the files is held by another sealed box or by LUO; or
 * a page that must move is held by something else. EHWPOISON: the memory of a
 * page is broken. EINTR: the caller was killed. ENOMEM: the host does not have
 * the memory that SEAL needs. ENOENT: something that a descriptor depends on is
 * not in the box. EOPNOTSUPP: a descriptor is in a state that its kind cannot
 * carry. EFBIG: too large. EIO: something from the last kernel is no longer as
 * it was saved. EAGAIN: a handover of another version is being carried through
 * this kernel, or the host is about to leave for the next one. FDBOX_SEAL_ERROR
 * has the descriptor and the reason.
 */
#define FDBOX_SEAL		_IO(FDBOX_TYPE, FDBOX_BASE + 4)

/*
 * The inverse of FDBOX_SEAL. For descriptors from the last kernel, checks that
 * none was lost in transit. EINVAL: the box is not sealed. EAGAIN: the host is
 * about to leave for the next kernel, which gets the box; or the last kernel left
 * a boat, which may have the box, and fdbox-boat.ko is not loaded. EBUSY: the boat
 * has it. ENODATA: descriptors
 * are lost, or their drivers refuse; the box stays sealed, FDBOX_NEXT_LOST
 * lists each one with the reason, and FDBOX_SALVAGE opens the box anyway.
 */
#define FDBOX_UNSEAL		_IO(FDBOX_TYPE, FDBOX_BASE + 5)

/*
 * Growable structs: the caller sets @size to the size it knows. A kernel that
 * knows less accepts a larger struct if the rest is zero (E2BIG otherwise); one
 * that knows more fills in what fits.
 */

/* On the control node: what this kernel and module can do. */
#define FDBOX_INFO		_IO(FDBOX_TYPE, FDBOX_BASE + 6)
struct fdbox_info {
	__u32 size;
	__u32 flags;			/* none defined: must be 0 */
	__u32 uapi_version;		/* FDBOX_UAPI_VERSION of the module */
	__u32 handover_version;		/* major version of the handover ABI */
	__u64 features;			/* FDBOX_FEATURE_* */
	__u64 boxes;			/* number of boxes */
	__u64 handover_bytes;		/* size of the blob for the next kernel */
	__u64 handover_extents;		/* page extents that blob keeps */
	__u64 handover_pages;		/* 4 KiB pages in those extents */
};

#define FDBOX_UAPI_VERSION		1

#define FDBOX_FEATURE_KHO		(1ULL << 0) /* SEAL reaches the next kernel */
#define FDBOX_FEATURE_KHO_BOOT		(1ULL << 1) /* this kernel came by handover */
#define FDBOX_FEATURE_MEMFD		(1ULL << 2)
#define FDBOX_FEATURE_KVM_VM		(1ULL << 3)
#define FDBOX_FEATURE_GUEST_MEMFD	(1ULL << 4)
#define FDBOX_FEATURE_IOMMUFD		(1ULL << 6)
#define FDBOX_FEATURE_VFIO_PCI		(1ULL << 7)
#define FDBOX_FEATURE_HUGETLB		(1ULL << 8)
/* A handover arrived and was refused: see the kernel log. */
#define FDBOX_FEATURE_REFUSED		(1ULL << 5)

/*
 * On the control node: the first box whose cursor is @cursor or greater.
 * ENOENT: there is none.
 */
#define FDBOX_NEXT_BOX		_IO(FDBOX_TYPE, FDBOX_BASE + 7)
struct fdbox_next_box {
	__u32 size;
	__u32 flags;			/* none defined: must be 0 */
	__u64 cursor;			/* in: 0 to start; out: where to go on */
	__u32 state;			/* FDBOX_STATE_* */
	__u32 fds;			/* descriptors in the box */
	__u8 name[FDBOX_NAME_LEN];
};

#define FDBOX_STATE_OPEN		0
#define FDBOX_STATE_SEALED		1

/*
 * On a box: the first descriptor whose cursor is @cursor or greater. ENOENT:
 * there is none.
 */
#define FDBOX_NEXT_FD		_IO(FDBOX_TYPE, FDBOX_BASE + 8)
struct fdbox_next_fd {
	__u32 size;
	__u32 flags;			/* none defined: must be 0 */
	__u64 cursor;			/* in: 0 to start; out: where to go on */
	__u32 state;			/* FDBOX_FD_* */
	__u32 pad;			/* must be 0 */
	__u64 bytes;			/* of memory it holds; 0 if it holds none */
	__u8 name[FDBOX_NAME_LEN];
	__u8 compatible[FDBOX_COMPATIBLE_LEN];	/* its kind */
};

#define FDBOX_FD_LIVE			0 /* an open file of this kernel */
#define FDBOX_FD_INCOMING		1 /* from the last kernel, restored by GET_FD */
#define FDBOX_FD_UNKNOWN		2 /* from the last kernel, of a kind not registered */

/*
 * On a box: why the last FDBOX_SEAL of this box failed. ENOENT: it did not.
 */
#define FDBOX_SEAL_ERROR	_IO(FDBOX_TYPE, FDBOX_BASE + 9)
struct fdbox_seal_error {
	__u32 size;
	__u32 flags;			/* none defined: must be 0 */
	__s32 error;			/* the errno, positive */
	__u32 reason;			/* FDBOX_REASON_* */
	__u8 name[FDBOX_NAME_LEN];	/* the descriptor that could not be sealed, or empty */
	__u8 message[FDBOX_MESSAGE_LEN]; /* what is missing and what to do, English */
};

#define FDBOX_REASON_OTHER		0
#define FDBOX_REASON_MISSING_DEPENDENCY	1
#define FDBOX_REASON_SHARED_FILE	2
#define FDBOX_REASON_UNSUPPORTED_STATE	3
#define FDBOX_REASON_NO_MEMORY		4

/*
 * On a box: the first descriptor whose cursor is @cursor or greater, out of
 * those that the last FDBOX_UNSEAL or FDBOX_SALVAGE found to be lost and that
 * are still in the box. ENOENT: there is none.
 */
#define FDBOX_NEXT_LOST		_IO(FDBOX_TYPE, FDBOX_BASE + 10)
struct fdbox_next_lost {
	__u32 size;
	__u32 flags;			/* none defined: must be 0 */
	__u64 cursor;			/* in: 0 to start; out: where to go on */
	__s32 error;			/* the errno, positive */
	__u32 reason;			/* FDBOX_LOST_* */
	__u8 name[FDBOX_NAME_LEN];
	__u8 compatible[FDBOX_COMPATIBLE_LEN];	/* its kind */
	__u8 message[FDBOX_MESSAGE_LEN]; /* what is missing and what to do, English */
};

#define FDBOX_LOST_OTHER		0
#define FDBOX_LOST_UNKNOWN_KIND		1 /* nothing here restores its kind */
#define FDBOX_LOST_MEMORY		2 /* the last kernel did not keep its memory */
#define FDBOX_LOST_DEPENDENCY		3 /* what it depends on is not in the box */
#define FDBOX_LOST_DATA			4 /* what was saved of it cannot be read */
#define FDBOX_LOST_REFUSED		5 /* its driver refuses */

/*
 * On a box: like FDBOX_UNSEAL, even if descriptors are lost. The others can be
 * taken out; the lost ones stay in the box, listed by FDBOX_NEXT_LOST, until
 * they are taken out or the box is deleted. EINVAL: the box is not sealed.
 * EAGAIN and EBUSY: as for FDBOX_UNSEAL.
 */
#define FDBOX_SALVAGE		_IO(FDBOX_TYPE, FDBOX_BASE + 11)
struct fdbox_salvage {
	__u32 size;
	__u32 flags;			/* none defined: must be 0 */
	__u64 lost;			/* out: how many descriptors are lost */
};

/*
 * On the control node, in the kernel of a lifeboat: creates a box of the host's
 * that the host lends, under the same name. It counts as sealed. FDBOX_GET_FD with
 * FDBOX_GET_KEEP makes files of it that can be mapped, for the time when the boat
 * has the box: until then nothing may be written there. FDBOX_UNSEAL takes the
 * box. FDBOX_SEAL gives it back: its files are revoked, and the box is empty then.
 * ENXIO: this kernel has no host. ENOENT: the host lends no such box. EEXIST: there
 * is a box of that name. EAGAIN: what the host hands over is changing. EPROTO: it
 * is of another version.
 *
 * docs/lifeboat.md has the errors of other commands on such a box.
 */
#define FDBOX_BORROW		_IO(FDBOX_TYPE, FDBOX_BASE + 12)
struct fdbox_borrow {
	__u32 size;
	__u32 flags;			/* none defined: must be 0 */
	__u8 name[FDBOX_NAME_LEN];
};

/*
 * On a box, in the host: lends it to the boat. ENXIO: there is no boat.
 *
 * FDBOX_LEND_LOOK only returns who has the box, in the boat as well. For SHOW and
 * OFFER the box must be sealed, EINVAL otherwise, and handed over, EOPNOTSUPP.
 * FDBOX_LEND_SHOW lets the boat map it. FDBOX_LEND_OFFER lets the boat take it.
 * FDBOX_LEND_RECALL ends that, and FDBOX_UNSEAL does, too. EBUSY: the boat has it;
 * RECALL asks the boat for it. ENOSPC: 64 boxes are lent.
 *
 * FDBOX_LEND_READY, in the boat, tells the host that somebody there has mapped the
 * box and waits for it. EINVAL: the box is not one of the host's, or was taken.
 * ESTALE: the host has ended this lease.
 */
#define FDBOX_LEND		_IO(FDBOX_TYPE, FDBOX_BASE + 13)
struct fdbox_lend {
	__u32 size;
	__u32 flags;			/* none defined: must be 0 */
	__u32 act;			/* FDBOX_LEND_* */
	__u32 holder;			/* out: FDBOX_HOLDER_* */
	__u32 wanted;			/* out: 1 if the host asks the boat for it */
	__u32 ready;			/* out: 1 if somebody in the boat waits for it */
	__u64 generation;		/* out: increases when it is lent anew */
	__u32 lost;			/* out: 1 if the boat is lost, in the host */
	__u32 pad;
};

#define FDBOX_LEND_LOOK			0
#define FDBOX_LEND_SHOW			1
#define FDBOX_LEND_OFFER		2
#define FDBOX_LEND_RECALL		3
#define FDBOX_LEND_READY		4

#define FDBOX_HOLDER_HOST		0 /* the boat must not use it */
#define FDBOX_HOLDER_SHOWN		1 /* the host's; the boat may map it */
#define FDBOX_HOLDER_OFFERED		2 /* of whoever takes it first */
#define FDBOX_HOLDER_BOAT		3

#endif /* _UAPI_LINUX_FDBOX_H */
