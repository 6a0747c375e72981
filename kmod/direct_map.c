// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's direct map, in the boat: memory of the host that is added to it.
 *
 * Memory in a section (128 MiB) in which the boat has some of its own counts as
 * valid, with struct pages, though the boat's memory map does not have it: KVM uses
 * pages of such memory (kvmclock, gfn_to_pfn_cache) through the direct map, which
 * does not have it either. So it is added there. It stays: both kernels map it
 * write-back, and after a revoke nobody in the boat uses the addresses.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/mutex.h>

#include "direct_map.h"

/* Where the direct map has an entry for @addr, or could have one; NULL without memory. */
static pte_t *fdbox_direct_map_entry(unsigned long addr)
{
	pgd_t *pgd = (pgd_t *)__va(read_cr3_pa()) + pgd_index(addr);
	p4d_t *p4d = p4d_offset(pgd, addr);
	pud_t *pud = pud_offset(p4d, addr);
	pmd_t *pmd = pmd_offset(pud, addr);
	unsigned long table;

	if (pmd_none(*pmd)) {
		table = get_zeroed_page(GFP_KERNEL);
		if (!table)
			return NULL;
		set_pmd(pmd, __pmd(__pa(table) | _KERNPG_TABLE));
	}
	return pte_offset_kernel(pmd, addr);
}

/* Whether the direct map has a large page at @addr. The boat has memory in the same GiB. */
static bool fdbox_direct_map_is_large(unsigned long addr)
{
	pgd_t *pgd = (pgd_t *)__va(read_cr3_pa()) + pgd_index(addr);
	pud_t *pud = pud_offset(p4d_offset(pgd, addr), addr);

	return pud_leaf(*pud) || pmd_leaf(*pmd_offset(pud, addr));
}

/* Adds memory of the host: pages that count as valid and have no entry. */
int fdbox_direct_map_add(u64 pfn, u64 pages)
{
	static DEFINE_MUTEX(lock);
	unsigned long addr;
	pte_t *pte;
	u64 end = pfn + pages;

	guard(mutex)(&lock);
	for (; pfn < end; pfn++) {
		if (!pfn_valid(pfn))
			continue;
		addr = (unsigned long)__va(PFN_PHYS(pfn));
		if (fdbox_direct_map_is_large(addr))
			continue;
		pte = fdbox_direct_map_entry(addr);
		if (!pte)
			return -ENOMEM;
		if (pte_none(*pte))
			set_pte(pte, pfn_pte(pfn, PAGE_KERNEL));
	}
	return 0;
}
