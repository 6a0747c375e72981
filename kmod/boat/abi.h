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
 * A box that the host lends to the boat. The table of leases is behind the page,
 * at an address that stays the same over kexecs of the host. A slot whose holder
 * is the host may be reused for another box. Both kernels change @word, by
 * compare-and-swap; only the host writes the rest, while it is the holder.
 */
struct boat_lease {
	__u8 name[256];			/* of the box, NUL-padded */
	__u64 word;
	__u64 reserved[7];
};

#define BOAT_LEASES		64

/*
 * The word of a lease. The generation changes whenever the host may have changed
 * what is in the box: what the boat has mapped under another one is not valid.
 */
#define BOAT_LEASE_HOLDER	0x3ULL
#define BOAT_HOLDER_HOST	0	/* the boat must not use it */
#define BOAT_HOLDER_SHOWN	1	/* the boat may map it, and not write */
#define BOAT_HOLDER_OFFERED	2	/* whoever takes it first has it */
#define BOAT_HOLDER_BOAT	3
#define BOAT_LEASE_WANTED	0x4ULL	/* the host asks the boat for it */
#define BOAT_LEASE_READY	0x8ULL	/* somebody in the boat waits for it */
#define BOAT_LEASE_GENERATION	8	/* shift */

/*
 * A kernel by which the boat restarts a host that does not come back. It would
 * boot with the handover that the kernel which prepared it has left, and so only as
 * long as no other kernel has taken anything out of that: the record of that
 * kernel has its magic, and so has the root of its boxes.
 */
#define BOAT_RESCUE_MAGIC	0x6373657274616f62ULL	/* "boatresc" */
#define BOAT_RESCUE_CPUS	256
#define BOAT_RESCUE_SEGMENTS	16
#define BOAT_RESCUE_IOAPICS	64
#define BOAT_RESCUE_MASTERS	128

/* What is copied before it starts; the rest of a destination is filled with zeros. */
struct boat_rescue_segment {
	__u64 from;			/* physical address */
	__u64 bytes;
	__u64 to;			/* physical address, below 4 GiB */
	__u64 to_bytes;
};

struct boat_rescue {
	__u64 magic;
	__u32 version;
	__u32 size;			/* of this struct */
	__u64 record;			/* physical address of struct boat_record */
	__u64 low;			/* of the page in which CPUs start */
	__u64 entry;			/* in 64-bit mode */
	__u64 tables;			/* of page tables: identity mappings of 4 GiB */
	__u64 tree;			/* KHO's, whose pages are preserved; 0: not yet */
	__u32 nr_cpus;
	__u32 nr_segments;
	struct boat_rescue_segment segments[BOAT_RESCUE_SEGMENTS];
	/* The host's CPUs. The first is the one that the machine booted on. */
	__u32 apic_ids[BOAT_RESCUE_CPUS];
	__u32 nr_ioapics;
	__u32 nr_masters;
	__u64 ioapics[BOAT_RESCUE_IOAPICS];	/* physical addresses */
	/*
	 * PCI functions of segment 0 that its kexec has left with bus mastering, those
	 * that are handed over among them: bus << 8 | device << 3 | function.
	 */
	__u32 masters[BOAT_RESCUE_MASTERS];
};

/*
 * The page shared by host and boat. Each word has one writer, and words of
 * different writers are in different cache lines. The rest of the page is 0.
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

/* And by the host. */
#define BOAT_HOST_SAYS_NOTHING	0
#define BOAT_HOST_SAYS_PANIC	1

struct boat_page {
	/* Written before the boat starts, except for @rescue, which its host may take back. */
	__u64 magic;
	__u32 version;
	__u32 size;			/* of this struct */
	__u64 region;			/* physical address */
	__u64 region_bytes;
	__u64 silence_ms;
	__u64 leases;			/* physical address; 0: there are none */
	__u64 nr_leases;
	__u64 rescue;			/* physical address of struct boat_rescue; 0: none */

	/* Written by the host. */
	__u64 host_beats;
	__u64 kernels;			/* that have watched the boat */
	__u64 order;
	__u64 root;			/* physical address of the handover's root; 0: none */
	__u64 generation;		/* of the newest lease */
	__u64 handovers;		/* incremented after @root has changed */
	__u64 host_says;		/* the boat clears it when it restarts the host */
	__u64 lent;			/* CPUs that the boat may bring up; 0: all */

	/* Written by the boat. */
	__u64 boat_beats;
	__u64 life;			/* random number of this run; never 0 */
	__u64 says;
	__u64 cpus;			/* number of CPUs to be parked */
	__u64 parked;
	__u64 largest_gap_ns;
	__u64 online;			/* number of its CPUs that are up; 0: it does not say */
	__u64 reserved_boat;
};

#endif /* _FDBOX_BOAT_ABI_H */
