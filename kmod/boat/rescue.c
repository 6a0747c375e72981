// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel by which the boat restarts a host that does not come back.
 *
 * The host loads it by kexec_file_load(2), like any next kernel, which places it
 * in KHO's scratch memory and tells it of the handover. The module copies it
 * to the end of the boat's region, and user space loads the kernel that is
 * to come next. Both would be started with the same handover.
 *
 * It can be started as long as no module of the next kernel has taken anything
 * out of that handover. What KHO keeps is left alone until then, but not the
 * pages of the tree that says what it is: KHO reads that tree when a kernel boots,
 * and never again. So these are preserved as well, as late as possible.
 */
#include <linux/cleanup.h>
#include <linux/efi.h>
#include <linux/io.h>
#include <linux/kexec.h>
#include <linux/kexec_handover.h>
#include <linux/kho_radix_tree.h>
#include <linux/module.h>
#include <linux/syscore_ops.h>

#include "boat.h"
#include "identity.h"
#include "rescue.h"

/* Patch 23 adds them. */
int kexec_with_image(int (*act)(const struct kimage *image, void *data), void *data);
struct kho_radix_tree *kho_out_tree(void);

static_assert(sizeof(struct boat_rescue) <= PAGE_SIZE);

/* The boat whose rescue kernel has to outlive a kexec, or NULL. */
static struct boat *boat_rescued;

static struct boat_rescue *boat_rescue_of(struct boat *boat)
{
	return (void *)(boat->region + boat->ram_end);
}

/* Bytes of a segment that are not zero. */
static u64 boat_segment_bytes(const struct kexec_segment *segment)
{
	return min_t(u64, segment->bufsz, segment->memsz);
}

/* Makes room at the end of the region: for the struct, the page tables, and the segments. */
static int boat_rescue_place(struct boat *boat, const struct kimage *image)
{
	u64 room = (boat->nr_pages << PAGE_SHIFT) - BOAT_RAM_OFFSET;
	u64 bytes = (1 + BOAT_IDENTITY_PAGES) * PAGE_SIZE;
	unsigned long i;

	if (!image->kho.fdt || image->preserve_context)
		return boat_refuse(-ENOEXEC,
				   "the loaded kernel is not told of the handover: load the rescue kernel by kexec_file_load(2)");
	for (i = 0; i < image->nr_segments; i++) {
		const struct kexec_segment *segment = &image->segment[i];

		if (segment->mem + segment->memsz > SZ_4G)
			return boat_refuse(-EOPNOTSUPP,
					   "the rescue kernel is placed above 4 GiB: give KHO more low scratch memory (kho_scratch=)");
		bytes += PAGE_ALIGN(boat_segment_bytes(segment));
	}
	if (bytes > room)
		return boat_refuse(-EFBIG,
				   "the rescue kernel has %llu KiB, which is more than the boat's %lu MiB",
				   bytes >> 10, boat->nr_pages >> (20 - PAGE_SHIFT));
	boat->ram_end = ALIGN_DOWN((boat->nr_pages << PAGE_SHIFT) - bytes, SZ_2M);
	return 0;
}

/* All segments are below 4 GiB. */
static void boat_rescue_map(u64 *tables, u64 phys)
{
	struct boat_identity identity = boat_identity_begin(tables, phys);
	u64 at;

	for (at = 0; at < SZ_4G; at += SZ_1G)
		boat_identity_map(&identity, at);
}

/* Copies a page of the image to where the segment has it, unless it is zero anyway. */
static void boat_rescue_page(struct boat *boat, struct boat_rescue *rescue, u64 to,
			     const void *page)
{
	u32 i;

	for (i = 0; i < rescue->nr_segments; i++) {
		struct boat_rescue_segment *segment = &rescue->segments[i];
		u64 offset = to - segment->to;

		if (to < segment->to || offset >= segment->bytes)
			continue;
		memcpy(boat->region + (segment->from - boat->phys) + offset, page,
		       min_t(u64, segment->bytes - offset, PAGE_SIZE));
		return;
	}
}

/* The pages of an image are in a list of entries, which kernel/kexec_core.c explains. */
static void boat_rescue_copy(struct boat *boat, struct boat_rescue *rescue,
			     const struct kimage *image)
{
	const kimage_entry_t *at = &image->head;
	kimage_entry_t entry;
	u64 to = 0;

	while ((entry = *at) && !(entry & IND_DONE)) {
		const void *page = boot_phys_to_virt(entry & PAGE_MASK);

		at++;
		if (entry & IND_INDIRECTION)
			at = page;
		if (entry & IND_DESTINATION)
			to = entry & PAGE_MASK;
		if (entry & IND_SOURCE) {
			boat_rescue_page(boat, rescue, to, page);
			to += PAGE_SIZE;
		}
	}
}

/* The host's CPUs. The first is the one that the machine booted on. */
static int boat_rescue_cpus(struct boat *boat, struct boat_rescue *rescue)
{
	u32 cpu, i;

	for_each_present_cpu(cpu) {
		for (i = 0; i < boat->nr_cpus && boat->cpus[i] != cpu; i++)
			;
		if (i < boat->nr_cpus)
			continue;
		if (rescue->nr_cpus == BOAT_RESCUE_CPUS)
			return boat_refuse(-EOPNOTSUPP,
					   "a host with more than %u CPUs cannot be restarted",
					   BOAT_RESCUE_CPUS);
		rescue->apic_ids[rescue->nr_cpus++] = boat_cpu_apic_id(cpu);
	}
	return 0;
}

static int boat_rescue_write(const struct kimage *image, void *data)
{
	struct boat *boat = data;
	int err = boat_rescue_place(boat, image);
	struct boat_rescue *rescue;
	u64 at;
	u32 i;

	if (err)
		return err;
	rescue = boat_rescue_of(boat);
	at = boat->phys + boat->ram_end + PAGE_SIZE;
	*rescue = (struct boat_rescue) {
		.magic = BOAT_RESCUE_MAGIC,
		.version = BOAT_ABI_VERSION,
		.size = sizeof(*rescue),
		.low = boat->low,
		.entry = image->start,
		.tables = at,
	};
	boat_rescue_map((void *)rescue + PAGE_SIZE, at);
	at += BOAT_IDENTITY_PAGES * PAGE_SIZE;
	for (i = 0; i < image->nr_segments; i++) {
		const struct kexec_segment *segment = &image->segment[i];

		rescue->segments[i] = (struct boat_rescue_segment) {
			.from = at,
			.bytes = boat_segment_bytes(segment),
			.to = segment->mem,
			.to_bytes = segment->memsz,
		};
		at += PAGE_ALIGN(rescue->segments[i].bytes);
	}
	rescue->nr_segments = image->nr_segments;
	boat_rescue_copy(boat, rescue, image);
	err = boat_ioapics_find(rescue);
	return err ?: boat_rescue_cpus(boat, rescue);
}

/* Whether another kernel could be started with this one's handover, after the next one. */
int boat_rescue_check(void)
{
	__auto_type with_image = symbol_get(kexec_with_image);
	int has_live_update = boat_has_live_update();

	if (!with_image)
		return boat_refuse(-EOPNOTSUPP,
				   "this kernel does not let a module keep the loaded image: it lacks patch 0023");
	symbol_put(kexec_with_image);
	if (has_live_update < 0)
		return has_live_update;
	if (has_live_update)
		return boat_refuse(-EOPNOTSUPP,
				   "with liveupdate=on the next kernel frees what the rescue kernel needs: boot this one with liveupdate=off");
	if (efi_enabled(EFI_BOOT))
		return boat_refuse(-EOPNOTSUPP,
				   "this host's firmware is UEFI: only a BIOS is known to give the first CPU to the boat");
	return 0;
}

/* Copies the kernel that is loaded. Nothing of it is in the boat's RAM. */
int boat_rescue_take(struct boat *boat)
{
	__auto_type with_image = symbol_get(kexec_with_image);
	int err;

	if (!with_image)
		return -EOPNOTSUPP;
	err = with_image(boat_rescue_write, boat);
	symbol_put(kexec_with_image);
	if (err == -ENOENT)
		return boat_refuse(err,
				   "no kernel is loaded: load the rescue kernel by kexec_file_load(2) first");
	return err == -EBUSY ? boat_refuse(err, "a kernel is being loaded") : err;
}

/* The boat can start it from now on. Its record is there. */
void boat_rescue_publish(struct boat *boat)
{
	struct boat_rescue *rescue = boat_rescue_of(boat);

	if (boat->ram_end == boat->nr_pages << PAGE_SHIFT)
		return;
	rescue->record = virt_to_phys(boat->record);
	WRITE_ONCE(boat->page->rescue, virt_to_phys(rescue));
	WRITE_ONCE(boat_rescued, boat);
}

/* There is none any more. */
void boat_rescue_forget(void)
{
	WRITE_ONCE(boat_rescued, NULL);
}

/* At a kexec, when the devices are shut down. */
static void boat_rescue_leave(void *data)
{
	struct boat *boat = READ_ONCE(boat_rescued);
	__auto_type out_tree = symbol_get(kho_out_tree);
	int err = -EOPNOTSUPP;

	if (boat && out_tree)
		err = boat_tree_preserve(out_tree());
	if (boat && !err)
		err = boat_masters_note(boat_rescue_of(boat));
	if (boat && !err) {
		boat_rescue_of(boat)->tree = virt_to_phys(out_tree()->root);
	} else if (boat) {
		WRITE_ONCE(boat->page->rescue, 0);
		pr_err("fdbox-boat: the host cannot be restarted if the next kernel fails (error %d)\n",
		       err);
	}
	if (out_tree)
		symbol_put(kho_out_tree);
}

/*
 * In the next kernel, which has taken over the boat: there is no way back to the
 * handover that the rescue kernel needs.
 */
void boat_rescue_end(struct boat *boat)
{
	struct boat_rescue *rescue;
	u64 at = boat->page->rescue;

	if (at <= boat->phys || at - boat->phys >= boat->nr_pages << PAGE_SHIFT)
		return;
	WRITE_ONCE(boat->page->rescue, 0);
	rescue = phys_to_virt(at);
	/* Otherwise there was another kernel in between, which kept no tree. */
	if (rescue->tree && rescue->record == virt_to_phys(boat->arrived))
		boat_tree_free(rescue->tree);
}

static const struct syscore_ops boat_rescue_ops = {
	.shutdown = boat_rescue_leave,
};

static struct syscore boat_rescue_syscore = {
	.ops = &boat_rescue_ops,
};

void boat_rescue_init(void)
{
	register_syscore(&boat_rescue_syscore);
}

void boat_rescue_exit(void)
{
	unregister_syscore(&boat_rescue_syscore);
}
