/* SPDX-License-Identifier: GPL-2.0 */
/* The I/O APICs in a MADT. Tests build this file in user space. */
#ifndef _FDBOX_BOAT_MADT_H
#define _FDBOX_BOAT_MADT_H

#include <linux/types.h>

/* Before the first entry. */
#define BOAT_MADT_HEADER	44
/* An entry that tells of an I/O APIC. */
#define BOAT_MADT_IOAPIC	1
#define BOAT_MADT_IOAPIC_BYTES	12
#define BOAT_MADT_IOAPIC_AT	4

/*
 * Writes down their physical addresses. Returns how many there are, or -1 if the
 * table is damaged or has more than there is room for.
 */
static inline int boat_madt_ioapics(const __u8 *madt, __u32 bytes, __u64 *found, __u32 room)
{
	__u32 nr = 0, at, len, i;
	const __u8 *entry;

	for (at = BOAT_MADT_HEADER; at < bytes; at += len) {
		entry = madt + at;
		len = bytes - at < 2 ? 0 : entry[1];
		if (len < 2 || len > bytes - at)
			return -1;
		if (entry[0] != BOAT_MADT_IOAPIC)
			continue;
		if (len < BOAT_MADT_IOAPIC_BYTES || nr == room)
			return -1;
		found[nr] = 0;
		for (i = 0; i < 4; i++)
			found[nr] |= (__u64)entry[BOAT_MADT_IOAPIC_AT + i] << (8 * i);
		nr++;
	}
	return nr;
}

#endif /* _FDBOX_BOAT_MADT_H */
