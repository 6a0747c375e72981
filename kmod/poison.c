// SPDX-License-Identifier: GPL-2.0
/*
 * Broken pages of memory (hwpoison). The flag by which a kernel keeps them out
 * of use is in its own struct pages, so the next kernel knows nothing of it.
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

/* How many times this kernel has heard of a broken page. */
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

/* The first page from @pfn on, and before @end, that is broken; @end if none is. */
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
 * Says of a page that was just restored that it is broken. Whoever touches it
 * in a file gets SIGBUS or EIO, and no allocator takes it: of a single page it
 * sees to that itself, of a large folio only by a reference that is never
 * dropped.
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
