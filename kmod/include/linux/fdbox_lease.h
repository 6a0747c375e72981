/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Boxes that a host lends to its boat: what fdbox.ko calls in fdbox-boat.ko, in
 * the host's kernel and in the boat's. See docs/lifeboat.md.
 */
#ifndef _LINUX_FDBOX_LEASE_H
#define _LINUX_FDBOX_LEASE_H

#include <linux/types.h>

enum fdbox_lease_act {
	/* In the host. */
	FDBOX_LEASE_SHOW,	/* the boat may map it */
	FDBOX_LEASE_OFFER,	/* the boat may have it */
	FDBOX_LEASE_RECALL,	/* it is the host's again, or is asked for */
	FDBOX_LEASE_KEEP,	/* the same, but it is not asked for */
	/* In the boat. */
	FDBOX_LEASE_READY,	/* somebody waits for it */
	FDBOX_LEASE_TAKE,
	FDBOX_LEASE_RETURN,
	/* In both. */
	FDBOX_LEASE_LOOK,
};

/* Only in the word that the host's module gets: the boat is lost. */
#define FDBOX_LEASE_LOST	0x10ULL

/*
 * Acts on the lease of a box. @word is the lease's word afterwards, or 0 if there
 * is none; READY, TAKE and RETURN require its generation to be that of @word
 * before.
 *
 * -ENXIO: there is no boat, or the act is not for this kernel. -ENOSPC: too many
 * boxes are lent. -EBUSY: the boat has it. -EAGAIN: it is shown, not offered.
 * -ESTALE: it is not lent, or was lent again since.
 */
int fdbox_boat_lease(const char *name, enum fdbox_lease_act act, u64 *word);

/*
 * The physical address of the handover's root, 0 if there is none: the host sets
 * it, before it frees the last handover; the boat reads it. What the boat has
 * read through a root is what the host wrote if the number is the same afterwards.
 */
void fdbox_boat_set_root(u64 root);
u64 fdbox_boat_root(u64 *number);

#endif /* _LINUX_FDBOX_LEASE_H */
