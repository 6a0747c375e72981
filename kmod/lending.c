// SPDX-License-Identifier: GPL-2.0
/*
 * Boxes that a host lends to its boat: the leases, which fdbox-boat.ko keeps, and
 * the host's handover as the boat reads it, where it lies.
 */
#include <linux/err.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/kho/abi/kexec_handover.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/processor.h>

#include "lent.h"
#include "optional.h"
#include "shim.h"

int fdbox_shim_lease(const char *name, enum fdbox_lease_act act, u64 *word)
{
	return fdbox_boat_lease(name, act, word);
}

/* Whether the module that knows of leases is loaded. */
bool fdbox_shim_lease_is_known(void)
{
	return fdbox_has(fdbox_boat_lease);
}

void fdbox_shim_lease_tell_root(u64 root)
{
	fdbox_boat_set_root(root);
}

/* 0 if there is none; see fdbox_boat_root(). */
u64 fdbox_shim_lease_root(u64 *number)
{
	*number = 0;
	return fdbox_boat_root(number);
}

u64 fdbox_shim_phys_of(const void *root)
{
	return virt_to_phys((void *)root);
}

/*
 * Whether memory can be the host's: it exists, and does not belong to this kernel.
 * Whether it is RAM or a device's, this kernel cannot see. But it is given only
 * addresses that the host's kernel has written. Those of RAM: that of the root,
 * from the shared page; that of the body, from a root whose checksum is correct;
 * and those in the body's chunks, see fdbox_shim_host_copy_body(). Those of a
 * device's registers: from a body whose checksum is correct. To distrust that
 * kernel would be in vain: it can write to all memory of this one.
 */
bool fdbox_may_be_hosts(u64 phys, size_t len)
{
	u64 end;

	return phys && len && !check_add_overflow(phys, len - 1, &end) &&
	       !(end >> boot_cpu_data.x86_phys_bits) &&
	       region_intersects(phys, len, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) ==
	       REGION_DISJOINT;
}

/* Copies memory of the host, for which the boat has no struct pages. */
int fdbox_shim_host_copy(u64 phys, void *out, size_t len)
{
	size_t offset = offset_in_page(phys);
	u8 *mapped;

	if (!fdbox_may_be_hosts(phys, len))
		return -EIO;
	mapped = memremap(phys - offset, len + offset, MEMREMAP_WB);
	if (!mapped)
		return -ENOMEM;
	memcpy(out, mapped + offset, len);
	memunmap(mapped);
	return 0;
}

/* Whether the host has not changed its handover since it had this number. */
static bool fdbox_handover_is(u64 number)
{
	u64 now;

	/* What was copied was read before this. */
	smp_rmb();
	fdbox_shim_lease_root(&now);
	return now == number;
}

/*
 * Copies the first @len bytes of the body of the host's handover with this number.
 * The host may free it at any time: the caller checks the bytes. A chunk with
 * addresses is checked before they are used: memory that was freed can contain
 * addresses that a program of the host's has chosen, even those of devices.
 */
int fdbox_shim_host_copy_body(const u8 descriptor[16], u64 number, void *out, size_t len)
{
	struct kho_vmalloc_chunk *chunk __free(kfree) = kmalloc(sizeof(*chunk), GFP_KERNEL);
	struct kho_vmalloc vm;
	size_t piece, here;
	u64 phys;
	int i, err;

	if (!chunk)
		return -ENOMEM;
	memcpy(&vm, descriptor, sizeof(vm));
	if (vm.order > MAX_PAGE_ORDER)
		return -EIO;
	piece = PAGE_SIZE << vm.order;

	for (phys = vm.first.phys; len; phys = chunk->hdr.next.phys) {
		err = fdbox_shim_host_copy(phys, chunk, sizeof(*chunk));
		if (!err && !fdbox_handover_is(number))
			err = -EIO;
		if (err)
			return err;
		for (i = 0; len && i < ARRAY_SIZE(chunk->phys); i++) {
			here = min(len, piece);
			err = fdbox_shim_host_copy(chunk->phys[i], out, here);
			if (err)
				return err;
			out += here;
			len -= here;
		}
		cond_resched();
	}
	return 0;
}
