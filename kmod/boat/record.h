/* SPDX-License-Identifier: GPL-2.0 */
/* Whether a record can be used: fdbox.ko may have to carry it on without fdbox-boat.ko. */
#ifndef _FDBOX_BOAT_RECORD_H
#define _FDBOX_BOAT_RECORD_H

#include <linux/crc32.h>
#include <linux/errno.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/stddef.h>

#include "boat.h"

static inline u32 boat_record_crc(const struct boat_record *record)
{
	return ~crc32_le(~0, (const u8 *)record, offsetof(struct boat_record, crc));
}

/* Whether a record is intact, and describes memory that is usable for a boat. */
static inline int boat_record_check(const struct boat_record *record, size_t len)
{
	u64 end;

	if (len < sizeof(*record) || record->magic != BOAT_RECORD_MAGIC ||
	    record->size < sizeof(*record) || record->crc != boat_record_crc(record))
		return -EIO;
	if (record->version != BOAT_ABI_VERSION)
		return -EPROTO;
	if (!PAGE_ALIGNED(record->region) || !PAGE_ALIGNED(record->region_bytes) ||
	    check_add_overflow(record->region, record->region_bytes, &end) ||
	    record->region_bytes <= BOAT_RAM_OFFSET ||
	    record->page != record->region + BOAT_PAGE_OFFSET ||
	    !record->nr_cpus || record->nr_cpus > BOAT_RECORD_CPUS)
		return -EIO;
	return 0;
}

#endif /* _FDBOX_BOAT_RECORD_H */
