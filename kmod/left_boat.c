// SPDX-License-Identifier: GPL-2.0
/* A boat that runs in memory of the last kernel, and that no module of this one has taken over. */
#include <linux/err.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/mm.h>

#include "boat/record.h"
#include "shim.h"

static const struct boat_record *fdbox_left_boat(void)
{
	const struct boat_record *record;
	phys_addr_t phys;
	size_t len;

	if (kho_retrieve_subtree(BOAT_SUBTREE, &phys, &len))
		return NULL;
	record = phys_to_virt(phys);
	return len >= sizeof(*record) && record->magic == BOAT_RECORD_TAKEN ? NULL : record;
}

bool fdbox_shim_boat_is_left(void)
{
	return fdbox_left_boat();
}

/*
 * Hands it on to the next kernel, which would otherwise use its memory. Called at
 * reboot.
 */
int fdbox_shim_boat_carry(void)
{
	const struct boat_record *left = fdbox_left_boat();
	struct boat_record *record;
	int err;

	if (!left)
		return 0;
	err = boat_record_check(left, sizeof(*left));
	if (err)
		return err;
	if (!fdbox_shim_kho_kept(PHYS_PFN(left->region), PHYS_PFN(left->region_bytes), 0))
		return -EIO;
	err = fdbox_shim_kho_preserve(PHYS_PFN(left->region), PHYS_PFN(left->region_bytes), 0);
	if (err)
		return err;
	/* Never freed: this kernel is about to end. */
	record = kho_alloc_preserve(sizeof(*record));
	if (IS_ERR(record))
		return PTR_ERR(record);
	*record = *left;
	return kho_add_subtree(BOAT_SUBTREE, record, sizeof(*record));
}
