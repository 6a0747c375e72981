// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that survives a kexec, and the record by which the next kernel finds
 * it.
 *
 * The region is contiguous, aligned to its size, and belongs only to the boat
 * from LOAD to STOP, in every kernel. The record is a page of its own: KHO
 * still refers to it when the boat is gone, so the kernel that took the boat
 * over marks it as taken and never frees it.
 */
#include <linux/build_bug.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/vmstat.h>

#include <asm/e820/api.h>

#include "boat.h"
#include "record.h"

static unsigned long low = 0x50000;
module_param(low, ulong, 0400);
MODULE_PARM_DESC(low, "where CPUs start, and 124 KiB of RAM for the boat: below 640 KiB, in pages (default 0x50000)");

static_assert(sizeof(struct boat_record) == 320);
static_assert(offsetof(struct boat_record, crc) == 312);
static_assert(sizeof(struct boat_page) == 192);
static_assert(offsetof(struct boat_page, rescue) == 56);
static_assert(sizeof(struct boat_rescue) == 2632);
static_assert(offsetof(struct boat_page, host_beats) == 64);
static_assert(offsetof(struct boat_page, boat_beats) == 128);

/* Linux never allocates from the first MiB, but not all of that must be RAM. */
static int boat_low_is_ram(phys_addr_t low)
{
	static const enum e820_type others[] = {
		E820_TYPE_RESERVED, E820_TYPE_ACPI, E820_TYPE_NVS, E820_TYPE_UNUSABLE,
		E820_TYPE_PMEM,
	};
	phys_addr_t end = low + BOAT_LOW_SIZE;
	bool is_ram = PAGE_ALIGNED(low) && low && end <= 0xa0000 &&
		      e820__mapped_any(low, end, E820_TYPE_RAM);
	size_t i;

	for (i = 0; i < ARRAY_SIZE(others); i++)
		is_ram = is_ram && !e820__mapped_any(low, end, others[i]);
	if (!is_ram)
		return boat_refuse(-ENXIO,
				   "%pa to %pa is not RAM, where CPUs are to start: name another place by the module's parameter low",
				   &low, &end);
	return 0;
}

static int boat_memory_preserve(struct boat *boat)
{
	int err = kho_preserve_pages(pfn_to_page(PHYS_PFN(boat->phys)), boat->nr_pages);

	boat->is_preserved = !err;
	return err;
}

int boat_memory_get(struct boat *boat, u32 mib, gfp_t where)
{
	unsigned long nr_pages = (unsigned long)mib << (20 - PAGE_SHIFT);
	struct page *page;
	int err;

	err = boat_low_is_ram(low);
	if (err)
		return err;
	page = alloc_contig_pages(nr_pages, GFP_KERNEL | __GFP_NOWARN | where, numa_mem_id(), NULL);
	if (!page)
		return boat_refuse(-ENOMEM,
				   "there are no %u MiB in one piece: %lu MiB are free, %lu of them in CMA, where a boat must not be",
				   mib, global_zone_page_state(NR_FREE_PAGES) >> (20 - PAGE_SHIFT),
				   global_zone_page_state(NR_FREE_CMA_PAGES) >> (20 - PAGE_SHIFT));
	boat->low = low;
	boat->region = page_address(page);
	boat->phys = page_to_phys(page);
	boat->nr_pages = nr_pages;
	boat->ram_end = nr_pages << PAGE_SHIFT;
	boat->page = (void *)(boat->region + BOAT_PAGE_OFFSET);
	/* The boat must not see the old content. */
	memset(boat->region, 0, nr_pages << PAGE_SHIFT);
	err = boat_memory_preserve(boat);
	return err ? boat_refuse(err, "KHO does not keep the memory") : 0;
}

/* No CPU of the boat executes anything by now. */
void boat_memory_put(struct boat *boat)
{
	if (!boat->region)
		return;
	if (boat->is_preserved)
		kho_unpreserve_pages(virt_to_page(boat->region), boat->nr_pages);
	free_contig_range(PHYS_PFN(boat->phys), boat->nr_pages);
	boat->region = NULL;
}

static void boat_record_write(struct boat *boat, struct boat_record *record)
{
	u32 i;

	*record = (struct boat_record) {
		.magic = BOAT_RECORD_MAGIC,
		.version = BOAT_ABI_VERSION,
		.size = sizeof(*record),
		.region = boat->phys,
		.region_bytes = boat->nr_pages << PAGE_SHIFT,
		.page = boat->phys + BOAT_PAGE_OFFSET,
		.low = boat->low,
		.silence_ms = boat->silence_ms,
		.nr_cpus = boat->nr_cpus,
	};
	for (i = 0; i < boat->nr_cpus; i++)
		record->apic_ids[i] = boat_cpu_apic_id(boat->cpus[i]);
	record->crc = boat_record_crc(record);
}

static int boat_record_publish(struct boat *boat)
{
	int err = kho_add_subtree(BOAT_SUBTREE, boat->record, sizeof(*boat->record));

	if (err) {
		kho_unpreserve_free(boat->record);
		boat->record = NULL;
		return boat_refuse(err, "KHO does not take the boat's record");
	}
	return 0;
}

/* From here on the next kernel finds the boat. */
int boat_publish(struct boat *boat)
{
	struct boat_record *record = kho_alloc_preserve(sizeof(*record));

	if (IS_ERR(record))
		return boat_refuse(PTR_ERR(record), "KHO has no memory for the boat's record");
	boat->record = record;
	boat_record_write(boat, record);
	return boat_record_publish(boat);
}

void boat_withdraw(struct boat *boat)
{
	if (!boat->record)
		return;
	kho_remove_subtree(boat->record);
	kho_unpreserve_free(boat->record);
	boat->record = NULL;
}

/* The record of the last kernel, or NULL. A taken record is of a boat that was stopped. */
static struct boat_record *boat_record_find(void)
{
	struct boat_record *record;
	phys_addr_t phys;
	size_t len;
	int err;

	if (kho_retrieve_subtree(BOAT_SUBTREE, &phys, &len))
		return NULL;
	record = phys_to_virt(phys);
	if (len >= sizeof(*record) && record->magic == BOAT_RECORD_TAKEN)
		return NULL;
	err = boat_record_check(record, len);
	if (err) {
		pr_err("fdbox-boat: the last kernel left a boat, and a record that %s. Its CPUs and its memory stay as they are, until the machine is reset\n",
		       err == -EPROTO ? "this module does not read: load that of another version" :
		       "is damaged");
		return ERR_PTR(err);
	}
	return record;
}

/*
 * Takes over the memory of a boat that the last kernel left, for this kernel
 * and the next one. -ENOENT: there is none.
 */
int boat_adopt(struct boat *boat)
{
	struct boat_record *arrived = boat_record_find();
	int err;

	if (IS_ERR_OR_NULL(arrived))
		return arrived ? PTR_ERR(arrived) : -ENOENT;
	boat->record = kho_alloc_preserve(sizeof(*boat->record));
	if (IS_ERR(boat->record))
		return PTR_ERR(boat->record);
	if (!kho_restore_pages(arrived->region, arrived->region_bytes >> PAGE_SHIFT)) {
		kho_unpreserve_free(boat->record);
		return -EIO;
	}
	boat->arrived = arrived;
	boat->low = arrived->low;
	boat->phys = arrived->region;
	boat->region = phys_to_virt(arrived->region);
	boat->nr_pages = arrived->region_bytes >> PAGE_SHIFT;
	boat->page = phys_to_virt(arrived->page);
	boat->silence_ms = arrived->silence_ms;
	boat->nr_cpus = arrived->nr_cpus;
	*boat->record = *arrived;
	arrived->magic = BOAT_RECORD_TAKEN;
	err = boat_memory_preserve(boat);
	return err ?: boat_record_publish(boat);
}
