/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What kernels tell each other about a boat: the host's, the boat's, and the
 * one that the host kexecs into. Each may have another version of the module.
 * Tests build this file in user space. docs/lifeboat.md has the tables.
 *
 * All numbers are little-endian. A version with an incompatible layout has
 * another number; one that only appends to a struct has the same number and a
 * larger size.
 */
#ifndef _FDBOX_BOAT_ABI_H
#define _FDBOX_BOAT_ABI_H

#include <linux/types.h>

#define BOAT_ABI_VERSION	1

/* From a host's kernel to the next one: a KHO subtree. */
#define BOAT_SUBTREE		"fdbox-boat"
#define BOAT_RECORD_MAGIC	0x74616f62786f6266ULL	/* "fboxboat" */
/* Replaces the magic once a kernel has taken over the boat. */
#define BOAT_RECORD_TAKEN	0x6e656b6174616f62ULL	/* "boataken" */
#define BOAT_RECORD_CPUS	64

struct boat_record {
	__u64 magic;
	__u32 version;
	__u32 size;			/* of this struct */
	__u64 region;			/* physical address */
	__u64 region_bytes;
	__u64 page;			/* physical address of struct boat_page */
	__u64 low;			/* of the memory below 1 MiB */
	__u32 silence_ms;
	__u32 nr_cpus;
	__u32 apic_ids[BOAT_RECORD_CPUS];
	__u32 crc;			/* CRC-32 of everything before it */
	__u32 pad;
};

/* For the boat: an ACPI table with the page's physical address after its header. */
#define BOAT_ACPI_SIGNATURE	"BOAT"

/*
 * The page shared by host and boat. Each word has one writer, and words of
 * different writers are in different cache lines. The rest of the page is 0,
 * and reserved for the words that say who owns a guest.
 */
#define BOAT_PAGE_MAGIC		0x6567617074616f62ULL	/* "boatpage" */

/* Orders of the host. */
#define BOAT_ORDER_NONE		0
#define BOAT_ORDER_PARK		1

/* States reported by the boat. */
#define BOAT_SAYS_NOTHING	0
#define BOAT_SAYS_ABOARD	1	/* its lines are masked, and it sends beats */
#define BOAT_SAYS_PARKING	2	/* every CPU increments @parked, then halts */
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

	/* Written by the host. */
	__u64 host_beats;
	__u64 kernels;			/* that have watched the boat */
	__u64 order;
	__u64 reserved_host[5];

	/* Written by the boat. */
	__u64 boat_beats;
	__u64 life;			/* random number of this run; never 0 */
	__u64 says;
	__u64 cpus;			/* number of CPUs to be parked */
	__u64 parked;
	__u64 largest_gap_ns;
	__u64 reserved_boat[2];
};

#endif /* _FDBOX_BOAT_ABI_H */
