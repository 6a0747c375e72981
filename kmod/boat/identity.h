/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page tables that map memory to itself, for a CPU that is about to enter a kernel.
 * Tests build this file in user space.
 */
#ifndef _FDBOX_BOAT_IDENTITY_H
#define _FDBOX_BOAT_IDENTITY_H

#include <linux/types.h>

#define BOAT_IDENTITY_PAGE	4096
#define BOAT_IDENTITY_ENTRIES	512
/* Enough for four GiBs below 512 GiB, or for one of these and any other one. */
#define BOAT_IDENTITY_PAGES	6
/* Present and writable; and in the second case a page of 2 MiB. */
#define BOAT_IDENTITY_TABLE	0x03
#define BOAT_IDENTITY_LEAF	0x83

/* The tables, the first of which is the root. */
struct boat_identity {
	__u64 *tables;
	__u64 phys;
	__u32 used;
};

static inline struct boat_identity boat_identity_begin(__u64 *tables, __u64 phys)
{
	__u32 i;

	for (i = 0; i < BOAT_IDENTITY_PAGES * BOAT_IDENTITY_ENTRIES; i++)
		tables[i] = 0;
	return (struct boat_identity) { .tables = tables, .phys = phys, .used = 1 };
}

/* The table that an entry refers to: the next one, if it refers to none. */
static inline __u64 *boat_identity_below(struct boat_identity *identity, __u64 *entry)
{
	if (!*entry) {
		*entry = identity->phys + identity->used * BOAT_IDENTITY_PAGE;
		*entry |= BOAT_IDENTITY_TABLE;
		identity->used++;
	}
	return identity->tables +
	       (*entry - identity->phys) / BOAT_IDENTITY_PAGE * BOAT_IDENTITY_ENTRIES;
}

/* Maps the GiB that this address is in. */
static inline void boat_identity_map(struct boat_identity *identity, __u64 at)
{
	__u64 *pud = boat_identity_below(identity, &identity->tables[(at >> 39) & 511]);
	__u64 *pmd = boat_identity_below(identity, &pud[(at >> 30) & 511]);
	__u64 i;

	for (i = 0; i < BOAT_IDENTITY_ENTRIES; i++)
		pmd[i] = (at >> 30 << 30) | (i << 21) | BOAT_IDENTITY_LEAF;
}

#endif /* _FDBOX_BOAT_IDENTITY_H */
