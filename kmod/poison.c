// SPDX-License-Identifier: GPL-2.0
/*
 * Broken pages of memory (hwpoison).
 */
#include <linux/mm.h>
#include <linux/page-flags.h>

#include "room.h"

/* Whether a page of @folio is broken; @index is set to the index in its file of the first. */
bool fdbox_is_poisoned(struct folio *folio, u64 *index)
{
	long i;

	if (likely(!folio_contain_hwpoisoned_page(folio)))
		return false;
	for (i = 0; i < folio_nr_pages(folio) - 1; i++) {
		if (PageHWPoison(folio_page(folio, i)))
			break;
	}
	*index = folio->index + i;
	return true;
}
