// SPDX-License-Identifier: GPL-2.0
/*
 * Boxes that a host lends to its boat: the leases, which fdbox-boat.ko keeps, and
 * the host's handover as the boat reads it, where it lies.
 */
#include <linux/err.h>
#include <linux/io.h>
#include <linux/kho/abi/kexec_handover.h>
#include <linux/mm.h>

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

u64 fdbox_shim_lease_root(void)
{
	return fdbox_boat_root();
}

u64 fdbox_shim_phys_of(const void *root)
{
	return virt_to_phys((void *)root);
}

/* Copies memory of the host, for which the boat has no struct pages. */
int fdbox_shim_host_copy(u64 phys, void *out, size_t len)
{
	size_t offset = offset_in_page(phys);
	u8 *mapped;

	if (!phys || phys + len < phys)
		return -EIO;
	mapped = memremap(phys - offset, len + offset, MEMREMAP_WB);
	if (!mapped)
		return -ENOMEM;
	memcpy(out, mapped + offset, len);
	memunmap(mapped);
	return 0;
}

/*
 * Copies the first @len bytes of a body of the host's. The host may free it at any
 * time: the caller checks what it has got.
 */
int fdbox_shim_host_copy_body(const u8 descriptor[16], void *out, size_t len)
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
