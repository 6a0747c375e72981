// SPDX-License-Identifier: GPL-2.0
/*
 * KHO reserves preserved memory in memblock, and some of it may have been reserved
 * before. The boot must not initialise the struct page of any preserved page, since
 * KHO has written to it by then, and must initialise all others.
 *
 * Built with mm/memblock.c and the simulator in tools/testing/memblock.
 * kho_reserve_preserved.h is that function, taken from the patched kernel.
 */
#include <stdio.h>
#include <stdlib.h>
#include <linux/seq_file.h>
#include <linux/memblock.h>
#include <linux/slab.h>

#include "kho_reserve_preserved.h"

#define PAGES	8UL

/* Needed by memblock. It allocates nothing here: its arrays hold these few regions. */
bool movable_node_enabled;

void *kmalloc(size_t size, gfp_t gfp)
{
	abort();
}

void kfree(void *p)
{
	abort();
}

/* The reserved region that contains the page, or NULL. */
static struct memblock_region *reserved(unsigned long page)
{
	phys_addr_t at = page << PAGE_SHIFT;
	struct memblock_region *region;

	for_each_reserved_mem_region(region)
		if (region->base <= at && at < region->base + region->size)
			return region;
	return NULL;
}

static bool check(unsigned long page, bool is_reserved, bool is_preserved)
{
	struct memblock_region *region = reserved(page);

	if (!region)
		return !is_reserved && !is_preserved;
	return (is_reserved || is_preserved) && memblock_is_reserved_noinit(region) == is_preserved;
}

/* Pages from @r up to @r_end were reserved before; those from @k up to @k_end are preserved. */
static int try(unsigned long r, unsigned long r_end, unsigned long k, unsigned long k_end)
{
	unsigned long page;
	int bad = 0;

	memblock_reserve(r << PAGE_SHIFT, (r_end - r) << PAGE_SHIFT);
	kho_reserve_preserved(k << PAGE_SHIFT, k_end << PAGE_SHIFT);
	for (page = 0; page < PAGES; page++) {
		if (check(page, r <= page && page < r_end, k <= page && page < k_end))
			continue;
		printf("reserved %lu to %lu, preserved %lu to %lu: page %lu is wrong\n",
		       r, r_end, k, k_end, page);
		bad = 1;
	}
	memblock_phys_free(0, PAGES << PAGE_SHIFT);
	return bad;
}

int main(void)
{
	unsigned long r, r_end, k, k_end;
	int tried = 0, bad = 0;

	for (r = 0; r < PAGES; r++)
		for (r_end = r + 1; r_end <= PAGES; r_end++)
			for (k = 0; k < PAGES; k++)
				for (k_end = k + 1; k_end <= PAGES; k_end++) {
					bad += try(r, r_end, k, k_end);
					tried++;
				}
	printf("%d of %d are wrong\n", bad, tried);
	return bad != 0;
}
