// SPDX-License-Identifier: GPL-2.0
/*
 * Poisoned pages (hwpoison). A kernel marks them in its struct pages, which the
 * next kernel does not see.
 */
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/page-flags.h>

#include "room.h"
#include "shim.h"

bool fdbox_shim_poison_supported(void)
{
	return IS_ENABLED(CONFIG_MEMORY_FAILURE);
}

/* Number of memory failures that this kernel has handled. */
u64 fdbox_shim_poison_events(void)
{
	u64 events = 0;
#ifdef CONFIG_MEMORY_FAILURE
	int nid;

	for_each_online_node(nid)
		events += READ_ONCE(NODE_DATA(nid)->mf_stats.total);
#endif
	return events;
}

/* The first poisoned page from @pfn on and before @end; @end if there is none. */
u64 fdbox_shim_poison_find(u64 pfn, u64 end)
{
	for (; pfn < end; pfn++) {
		struct page *page = pfn_to_online_page(pfn);

		if (page && PageHWPoison(page))
			break;
		if (!(pfn % PTRS_PER_PTE))
			cond_resched();
	}
	return pfn;
}

/*
 * Marks a page that was just restored. An access to it in a file is SIGBUS or
 * EIO. The page allocator does not take a single page that is marked; a large
 * folio is kept from it by a reference that is never dropped.
 */
void fdbox_shim_poison_mark(u64 pfn)
{
	struct page *page = pfn_to_page(pfn);
	struct folio *folio = page_folio(page);

	SetPageHWPoison(page);
	if (folio_test_large(folio)) {
		folio_set_has_hwpoisoned(folio);
		folio_get(folio);
	}
}

/* Whether a page of @folio is poisoned; @index is set to the first one's index in its file. */
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
