// SPDX-License-Identifier: GPL-2.0
/*
 * In the boat: starts a host that does not come back, in the rescue kernel that
 * it was given (rescue.c).
 *
 * The host's memory has no struct pages here. All of its CPUs are stopped before
 * any of that memory is written.
 */
#include <linux/errno.h>
#include <linux/io.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "boat.h"
#include "kick.h"
#include "rescue.h"

/* The root of the host's boxes, as long as no kernel has taken them: kmod/abi/mod.rs. */
#define BOAT_ROOT_MAGIC		0x4f484b584f424446ULL	/* "FDBOXKHO" */

/* Whether memory of the host's starts with this magic. */
static bool boat_begins(u64 at, u64 magic)
{
	u64 *begin = memremap(at, sizeof(*begin), MEMREMAP_WB);
	bool does = begin && *begin == magic;

	if (begin)
		memunmap(begin);
	return does;
}

/* Whether nobody has taken anything yet of what the rescue kernel is to take. */
static int boat_is_untaken(const struct boat_page *page, const struct boat_rescue *rescue)
{
	u64 root = READ_ONCE(page->root);

	if (boat_begins(rescue->record, BOAT_RECORD_MAGIC) && root &&
	    boat_begins(root, BOAT_ROOT_MAGIC))
		return 0;
	return boat_refuse(-ESTALE,
			   "the host's next kernel has taken over what the rescue kernel needs");
}

/* A segment is where it has to be, or part of it. */
static int boat_segment_copy(const struct boat_rescue_segment *segment)
{
	void *from, *to;

	if (!segment->to_bytes)
		return 0;
	if (segment->bytes > segment->to_bytes || segment->to >= SZ_4G ||
	    segment->to_bytes > SZ_4G - segment->to)
		return boat_refuse(-EIO, "the rescue kernel is damaged");
	to = memremap(segment->to, segment->to_bytes, MEMREMAP_WB);
	if (!to)
		return -ENOMEM;
	if (segment->bytes) {
		from = memremap(segment->from, segment->bytes, MEMREMAP_WB);
		if (!from) {
			memunmap(to);
			return -ENOMEM;
		}
		memcpy(to, from, segment->bytes);
		memunmap(from);
	}
	memset(to + segment->bytes, 0, segment->to_bytes - segment->bytes);
	memunmap(to);
	return 0;
}

/* After this, no CPU of the host executes anything of it. */
static int boat_host_stop(const struct boat_rescue *rescue)
{
	int err;
	u32 i;

	for (i = 1; i < rescue->nr_cpus; i++)
		boat_init_cpu(rescue->apic_ids[i]);
	err = boat_warm_reset_set(rescue->low);
	if (!err && !boat_kick(rescue->low, rescue->apic_ids[0], NULL))
		err = -EIO;
	if (err)
		return boat_refuse(err,
				   "the host's first CPU does not answer an INIT: its firmware does not give it back");
	return 0;
}

static int boat_host_start(const struct boat_rescue *rescue)
{
	const struct boat_jump jump = {
		.entry = rescue->entry,
		.page_table = rescue->tables,
	};
	int err;
	u32 i;

	for (i = 0; i < rescue->nr_segments; i++) {
		err = boat_segment_copy(&rescue->segments[i]);
		if (err)
			return err;
	}
	err = boat_warm_reset_set(rescue->low);
	if (!err && !boat_kick(rescue->low, rescue->apic_ids[0], &jump))
		err = boat_refuse(-EIO, "the host's first CPU does not start");
	return err;
}

static int boat_rescue_start(const struct boat_page *page, const struct boat_rescue *rescue)
{
	int err;

	if (rescue->magic != BOAT_RESCUE_MAGIC || rescue->version != BOAT_ABI_VERSION ||
	    rescue->size < sizeof(*rescue) || !rescue->nr_cpus ||
	    rescue->nr_cpus > BOAT_RESCUE_CPUS || rescue->nr_segments > BOAT_RESCUE_SEGMENTS ||
	    rescue->nr_ioapics > BOAT_RESCUE_IOAPICS || rescue->nr_masters > BOAT_RESCUE_MASTERS)
		return boat_refuse(-ENOENT, "this module does not read the rescue kernel");
	err = boat_is_untaken(page, rescue);
	if (err)
		return err;
	pr_notice("fdbox-boat: stopping the host's CPUs\n");
	err = boat_host_stop(rescue);
	if (!err)
		err = boat_ioapics_mask(rescue);
	if (err)
		return err;
	boat_masters_end(rescue);
	/* It may have taken it until then. */
	err = boat_is_untaken(page, rescue);
	if (err)
		return err;
	pr_notice("fdbox-boat: starting the host in the rescue kernel\n");
	return boat_host_start(rescue);
}

int boat_restart(const struct boat_page *page)
{
	u64 at = READ_ONCE(page->rescue);
	struct boat_rescue *rescue;
	int err;

	if (!at)
		return boat_refuse(-ENOENT,
				   "the host has prepared no rescue kernel, or has taken it back");
	rescue = memremap(at, PAGE_SIZE, MEMREMAP_WB);
	if (!rescue)
		return -ENOMEM;
	err = boat_rescue_start(page, rescue);
	memunmap(rescue);
	return err;
}
