// SPDX-License-Identifier: GPL-2.0
/*
 * Memory for SEAL: how much is available, how much a file needs, and how to
 * allocate it without the OOM killer.
 *
 * Pages cannot be pinned in CMA, which includes KHO's scratch area, and in
 * ZONE_MOVABLE. So free memory there cannot be used, and pages of files that
 * are there have to be migrated.
 */
#include <linux/fs.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/vmstat.h>
#include <linux/xarray.h>

#include "room.h"
#include "shim.h"

/* What is left for other users: 1/64 of the host's memory, within bounds. */
#define FDBOX_LEAST_MARGIN	(SZ_16M >> PAGE_SHIFT)
#define FDBOX_MOST_MARGIN	(SZ_128M >> PAGE_SHIFT)

/*
 * Whether all pages of a pageblock must be movable. The function that returns the
 * type of a pageblock is not exported.
 */
static bool fdbox_in_movable_block(unsigned long pfn)
{
#if defined(CONFIG_CMA) && defined(CONFIG_SPARSEMEM)
	unsigned long at, word;

	at = ((pfn & (PAGES_PER_SECTION - 1)) >> pageblock_order) * NR_PAGEBLOCK_BITS;
	word = READ_ONCE(section_to_usemap(__pfn_to_section(pfn))[at / BITS_PER_LONG]);
	word >>= at % BITS_PER_LONG;
	return (word & PAGEBLOCK_ISO_MASK) ||
	       (word & PAGEBLOCK_MIGRATETYPE_MASK) == MIGRATE_CMA;
#else
	return false;
#endif
}

/*
 * Like folio_is_longterm_pinnable(). No reference is needed: if the page has
 * been reused, the result is wrong but harmless.
 */
bool fdbox_is_pinnable(struct folio *folio)
{
	return !fdbox_in_movable_block(folio_pfn(folio)) && !folio_is_zone_movable(folio);
}

/*
 * Number of pages in CMA. KHO's area has its type but is not in any counter, so
 * the pageblocks are counted once: they do not change after boot.
 */
static u64 fdbox_cma_pages(void)
{
	static u64 counted = U64_MAX;
	u64 pages = READ_ONCE(counted);
	unsigned long pfn;
	int nid;

	if (pages != U64_MAX)
		return pages;

	pages = 0;
	for_each_online_node(nid) {
		pfn = pageblock_start_pfn(node_start_pfn(nid));
		for (; pfn < node_end_pfn(nid); pfn += pageblock_nr_pages) {
			struct page *page = pfn_to_online_page(pfn);

			if (page && page_to_nid(page) == nid && fdbox_in_movable_block(pfn))
				pages += pageblock_nr_pages;
			if (need_resched())
				cond_resched();
		}
	}
	WRITE_ONCE(counted, pages);
	return pages;
}

/*
 * Number of pages in areas where nothing can be pinned: all of them, and the
 * free ones.
 */
static void fdbox_unpinnable(u64 *all, u64 *free)
{
	struct zone *zone;
	int nid, at;

	*all = fdbox_cma_pages();
	*free = 0;
	for_each_online_node(nid) {
		for (at = 0; at < MAX_NR_ZONES; at++) {
			zone = &NODE_DATA(nid)->node_zones[at];
			if (!populated_zone(zone))
				continue;
			if (at == ZONE_MOVABLE) {
				*all += zone_managed_pages(zone);
				*free += zone_page_state(zone, NR_FREE_PAGES);
			} else {
				*free += zone_page_state(zone, NR_FREE_CMA_PAGES);
			}
		}
	}
}

static u64 fdbox_margin(void)
{
	u64 margin = totalram_pages() / 64;

	return clamp_t(u64, margin, FDBOX_LEAST_MARGIN, FDBOX_MOST_MARGIN);
}

static u64 fdbox_room_beyond(u64 margin)
{
	u64 available = max(si_mem_available(), 0L);
	u64 all, free;

	fdbox_unpinnable(&all, &free);
	margin += free;
	return available > margin ? available - margin : 0;
}

/* Number of pages of @file in the page cache. */
u64 fdbox_shim_cached_pages(struct file *file)
{
	return READ_ONCE(file->f_mapping->nrpages);
}

/* Number of pages that SEAL may take and leave the host enough. */
u64 fdbox_shim_room(void)
{
	return fdbox_room_beyond(fdbox_margin());
}

/*
 * Number of used pages where nothing can be pinned: no file has more that must
 * move.
 */
u64 fdbox_shim_unpinnable_in_use(void)
{
	u64 all, free;

	fdbox_unpinnable(&all, &free);
	return all > free ? all - free : 0;
}

/* Finds the poisoned page of @folio, if @xas still points to that folio. */
static void fdbox_survey_poisoned(struct xa_state *xas, struct folio *folio,
				  struct fdbox_survey *survey)
{
	if (!folio_try_get(folio))
		return;
	if (folio == xas_reload(xas))
		survey->poisoned = fdbox_is_poisoned(folio, &survey->poisoned_at);
	folio_put(folio);
}

/*
 * For pages @first to @last of @file: how many are cached, and how many of
 * these must move.
 */
void fdbox_shim_survey(struct file *file, u64 first, u64 last, struct fdbox_survey *survey)
{
	XA_STATE(xas, &file->f_mapping->i_pages, first);
	struct folio *folio;

	*survey = (struct fdbox_survey) {};
	rcu_read_lock();
	xas_for_each(&xas, folio, last) {
		u64 pages;

		if (xas_retry(&xas, folio) || xa_is_value(folio))
			continue;
		pages = 1ULL << xas_get_order(&xas);
		survey->cached += pages;
		if (!fdbox_is_pinnable(folio))
			survey->moves += pages;
		if (folio_contain_hwpoisoned_page(folio) && !survey->poisoned)
			fdbox_survey_poisoned(&xas, folio, survey);
		if (need_resched()) {
			xas_pause(&xas);
			rcu_read_unlock();
			cond_resched();
			rcu_read_lock();
		}
	}
	rcu_read_unlock();
}

/*
 * Checks that this number of pages can be allocated outside of CMA and within
 * the limits of the caller's memory cgroup, by allocating and freeing them.
 * Used before calls that would invoke the OOM killer. Returns -ENOMEM if not.
 */
static int fdbox_probe(u64 pages)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	struct page *page, *next;
	LIST_HEAD(taken);
	int err = 0;

	while (pages-- && !err) {
		page = alloc_page(gfp);
		if (page)
			list_add(&page->lru, &taken);
		else
			err = -ENOMEM;
		if (fatal_signal_pending(current))
			err = -EINTR;
	}
	list_for_each_entry_safe(page, next, &taken, lru)
		__free_page(page);
	return err;
}

/* Also checks that the host keeps a margin. */
int fdbox_may_take(u64 pages, bool probe)
{
	if (fatal_signal_pending(current))
		return -EINTR;
	if (!pages)
		return 0;
	if (fdbox_room_beyond(fdbox_margin() / 2) < pages)
		return -ENOMEM;
	return probe ? fdbox_probe(pages) : 0;
}

/*
 * Another kernel may write to the pages of a frozen file, which this one does not
 * see. So none of them counts as unused, to be cleared or given back, or as clean,
 * to be reclaimed, any more. All of them have content: SEAL has cleared what was
 * never used.
 */
void fdbox_shim_use_pages(struct file *file)
{
	struct folio_batch batch;
	pgoff_t start = 0;
	unsigned int i;

	folio_batch_init(&batch);
	while (filemap_get_folios(file->f_mapping, &start, ULONG_MAX, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			folio_lock(folio);
			if (!folio_test_uptodate(folio))
				folio_mark_uptodate(folio);
			folio_mark_dirty(folio);
			folio_unlock(folio);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
}

/*
 * Frees memory that SEAL filled holes with and that was not used: unmapped
 * clean pages, which can only be pages that were never written.
 */
void fdbox_shim_memfd_give_back(struct file *file)
{
	invalidate_mapping_pages(file->f_mapping, 0, ULONG_MAX);
}
