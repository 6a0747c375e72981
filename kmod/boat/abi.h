/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What kernels say to each other about a boat: the host's, the boat's, and the
 * one that the host kexecs into. Each may be of another version. It builds in user
 * space as well, for tests. docs/lifeboat.md has the tables.
 *
 * All numbers are little-endian. A version that changes what is here has another
 * number; one that adds to the end of a struct has not, and says so by its size.
 */
#ifndef _FDBOX_BOAT_ABI_H
#define _FDBOX_BOAT_ABI_H

#include <linux/types.h>

#define BOAT_ABI_VERSION	1

/* From a host's kernel to the next one: a subtree of KHO. */
#define BOAT_SUBTREE		"fdbox-boat"
#define BOAT_RECORD_MAGIC	0x74616f62786f6266ULL	/* "fboxboat" */
/* In place of the magic, when a kernel has taken over what the record tells of. */
#define BOAT_RECORD_TAKEN	0x6e656b6174616f62ULL	/* "boataken" */
#define BOAT_RECORD_CPUS	64

struct boat_record {
	__u64 magic;
	__u32 version;
	__u32 size;			/* of this struct */
	__u64 region;			/* physical address */
	__u64 region_bytes;
	__u64 page;			/* physical address of struct boat_page */
	__u64 low;			/* that of the memory below 1 MiB */
	__u32 silence_ms;
	__u32 nr_cpus;
	__u32 apic_ids[BOAT_RECORD_CPUS];
	__u32 crc;			/* CRC-32 of all before it */
	__u32 pad;
};

/* To the boat: an ACPI table of this name, with the physical address behind its header. */
#define BOAT_ACPI_SIGNATURE	"BOAT"

/*
 * The page that host and boat share. Each word has one writer, and those of one
 * writer are in cache lines of their own. What is not named here is 0, and is for
 * the words that say who owns a guest.
 */
#define BOAT_PAGE_MAGIC		0x6567617074616f62ULL	/* "boatpage" */

/* What the host wants. */
#define BOAT_ORDER_NONE		0
#define BOAT_ORDER_PARK		1

/* What the boat is. */
#define BOAT_SAYS_NOTHING	0
#define BOAT_SAYS_ABOARD	1	/* its lines are masked, and it beats */
#define BOAT_SAYS_PARKING	2	/* every CPU counts itself in @parked, then halts */
#define BOAT_SAYS_PANIC		3

struct boat_page {
	/* Written before the boat starts. */
	__u64 magic;
	__u32 version;
	__u32 size;			/* of this struct */
	__u64 region;			/* physical address */
	__u64 region_bytes;
	__u64 silence_ms;
	__u64 reserved_setup[3];

	/* The host's. */
	__u64 host_beats;
	__u64 kernels;			/* how many have watched the boat */
	__u64 order;
	__u64 reserved_host[5];

	/* The boat's. */
	__u64 boat_beats;
	__u64 life;			/* drawn when it began; never 0 */
	__u64 says;
	__u64 cpus;			/* that are to be parked */
	__u64 parked;
	__u64 largest_gap_ns;
	__u64 reserved_boat[2];
};

#endif /* _FDBOX_BOAT_ABI_H */
