// SPDX-License-Identifier: GPL-2.0
/*
 * Kexec handover: preserve folios and one blob for the next kernel, and take
 * them over from the last one.
 */
#include <linux/err.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/kexec_handover.h>
#include <linux/mm.h>
#include <linux/vmalloc.h>

#include "shim.h"

bool fdbox_shim_kho_enabled(void)
{
	return kho_is_enabled();
}

bool fdbox_shim_kho_boot(void)
{
	return is_kho_boot();
}

/* Of kmod/patches. */
int kho_require(u32 takes) __weak;
void kho_unrequire(u32 takes) __weak;

/* Whether this kernel can refuse a kexec to a kernel that would get no handover. */
bool fdbox_shim_kho_can_refuse(void)
{
	return kho_require && kho_unrequire;
}

/*
 * Makes this kernel refuse it, if it can, until fdbox_shim_kho_unrequire() is
 * called.
 */
int fdbox_shim_kho_require(void)
{
	return fdbox_shim_kho_can_refuse() ? kho_require(0) : 0;
}

void fdbox_shim_kho_unrequire(void)
{
	if (fdbox_shim_kho_can_refuse())
		kho_unrequire(0);
}

/*
 * A large folio is restored by kho_restore_folio(), so it is preserved by
 * kho_preserve_folio(). Memory of the last kernel that was not restored has no
 * folio from which KHO could read the order: its block is preserved as aligned
 * pages.
 */
static int fdbox_kho_preserve_folio(u64 pfn, u32 order)
{
	struct folio *folio = pfn_folio(pfn);

	if (folio_test_large(folio))
		return kho_preserve_folio(folio);
	return kho_preserve_pages(pfn_to_page(pfn), 1UL << order);
}

static void fdbox_kho_unpreserve_folio(u64 pfn, u32 order)
{
	struct folio *folio = pfn_folio(pfn);

	if (folio_test_large(folio))
		kho_unpreserve_folio(folio);
	else
		kho_unpreserve_pages(pfn_to_page(pfn), 1UL << order);
}

/*
 * Runs of order 0 are given to KHO as ranges, so that it keeps one entry per
 * power-of-two block instead of one per page.
 */
int fdbox_shim_kho_preserve(u64 pfn, u64 folios, u32 order)
{
	u64 i;
	int err;

	if (!order)
		return kho_preserve_pages(pfn_to_page(pfn), folios);

	for (i = 0; i < folios; i++) {
		err = fdbox_kho_preserve_folio(pfn + (i << order), order);
		if (err) {
			fdbox_shim_kho_unpreserve(pfn, i, order);
			return err;
		}
	}
	return 0;
}

void fdbox_shim_kho_unpreserve(u64 pfn, u64 folios, u32 order)
{
	u64 i;

	if (!folios)
		return;
	if (!order) {
		kho_unpreserve_pages(pfn_to_page(pfn), folios);
		return;
	}
	for (i = 0; i < folios; i++)
		fdbox_kho_unpreserve_folio(pfn + (i << order), order);
}

/* Of kmod/patches. */
int kho_preserved_order(phys_addr_t phys) __weak;

/*
 * Whether KHO reports which memory is waiting to be restored; otherwise none is
 * checked.
 */
static bool fdbox_kho_tells(void)
{
	return kho_preserved_order;
}

/* The order of the block that starts at @pfn and waits to be restored, or an error. */
static int fdbox_kho_block(u64 pfn)
{
	return kho_preserved_order(PFN_PHYS(pfn));
}

/*
 * Whether KHO has all of these folios. KHO itself only warns about missing
 * ones, and takes the folio's order from its mark. A run of order 0 consists of
 * the blocks that kho_preserve_pages() made of it, which may be split where a
 * NUMA node ends.
 */
bool fdbox_shim_kho_kept(u64 pfn, u64 folios, u32 order)
{
	u64 end = pfn + (folios << order);
	int block;

	for (; fdbox_kho_tells() && pfn < end; pfn += 1ULL << block) {
		block = fdbox_kho_block(pfn);
		if (block < 0 || (order && block != order) ||
		    !IS_ALIGNED(pfn, 1ULL << block) || 1ULL << block > end - pfn)
			return false;
	}
	return true;
}

/*
 * Whether these blocks are the ones that kho_restore_pages() looks for. They
 * are not if a NUMA node ends within them, or if a kernel with another version
 * of this module split the memory differently.
 */
static bool fdbox_kho_regular(u64 pfn, u64 end)
{
	int block;

	for (; pfn < end; pfn += 1ULL << block) {
		block = fdbox_kho_block(pfn);
		if (block != min_t(int, __ffs64(pfn), ilog2(end - pfn)))
			return false;
	}
	return true;
}

/*
 * Each folio then has one reference, which belongs to the caller. The caller
 * has checked with fdbox_shim_kho_kept() that they are there, so all of them
 * can be restored. (If KHO does not report this, it may stop half-way, with a
 * warning; what it has returned by then is lost until the next boot.)
 */
bool fdbox_shim_kho_restore(u64 pfn, u64 folios, u32 order)
{
	u64 end = pfn + (folios << order);
	int block = order;

	if (!order && (!fdbox_kho_tells() || fdbox_kho_regular(pfn, end)))
		return kho_restore_pages(PFN_PHYS(pfn), folios);

	for (; pfn < end; pfn += 1ULL << block) {
		if (order) {
			if (!kho_restore_folio(PFN_PHYS(pfn)))
				return false;
			continue;
		}
		block = fdbox_kho_block(pfn);
		if (block < 0 || !kho_restore_pages(PFN_PHYS(pfn), 1UL << block))
			return false;
	}
	return true;
}

/*
 * Preserves memory of the last kernel that was not restored, in the blocks that
 * KHO has.
 */
int fdbox_shim_kho_pass_on(u64 pfn, u64 folios, u32 order)
{
	u64 end = pfn + (folios << order);
	int block, err;

	if (!fdbox_kho_tells())
		return -EOPNOTSUPP;
	if (!fdbox_shim_kho_kept(pfn, folios, order))
		return -EIO;

	for (; pfn < end; pfn += 1ULL << block) {
		block = fdbox_kho_block(pfn);
		err = kho_preserve_pages(pfn_to_page(pfn), 1UL << block);
		if (err)
			return err;
	}
	return 0;
}

/*
 * How many of these folios, starting with the first, are on the node of page
 * @other: what is added to the page cache at once must be on one node, because
 * statistics are per node.
 */
u64 fdbox_shim_on_node_of(u64 other, u64 pfn, u64 folios, u32 order, bool down)
{
	u64 i;

	for (i = 0; IS_ENABLED(CONFIG_NUMA) && i < folios; i++) {
		u64 next = down ? pfn - (i << order) : pfn + (i << order);

		if (page_to_nid(pfn_to_page(next)) != page_to_nid(pfn_to_page(other)))
			return i;
	}
	return folios;
}

void fdbox_shim_get_folios(u64 pfn, u64 folios, u32 order)
{
	u64 i;

	for (i = 0; i < folios; i++)
		folio_get(pfn_folio(pfn + (i << order)));
	cond_resched();
}

void fdbox_shim_put_folios(u64 pfn, u64 folios, u32 order)
{
	u64 i;

	for (i = 0; i < folios; i++) {
		folio_put(pfn_folio(pfn + (i << order)));
		cond_resched();
	}
}

struct folio *fdbox_shim_folio_at(u64 pfn)
{
	return pfn_folio(pfn);
}

void *fdbox_shim_vmalloc(size_t len)
{
	return vmalloc(len);
}

void fdbox_shim_vfree(void *body)
{
	vfree(body);
}

int fdbox_shim_kho_publish(const char *subtree, void *root, size_t len)
{
	return kho_add_subtree(subtree, root, len);
}

void fdbox_shim_kho_withdraw(void *root)
{
	kho_remove_subtree(root);
}

void *fdbox_shim_kho_alloc_root(void)
{
	void *root = kho_alloc_preserve(PAGE_SIZE);

	return IS_ERR(root) ? NULL : root;
}

void fdbox_shim_kho_free_root(void *root)
{
	kho_unpreserve_free(root);
}

static_assert(sizeof(struct kho_vmalloc) == 16);

int fdbox_shim_kho_preserve_body(void *body, u8 descriptor[16])
{
	struct kho_vmalloc vm = {};
	int err = kho_preserve_vmalloc(body, &vm);

	memcpy(descriptor, &vm, sizeof(vm));
	return err;
}

void fdbox_shim_kho_unpreserve_body(const u8 descriptor[16])
{
	struct kho_vmalloc vm;

	memcpy(&vm, descriptor, sizeof(vm));
	kho_unpreserve_vmalloc(&vm);
}

/*
 * The page frame number of memory that the last kernel preserved, or 0 if it
 * was not.
 */
static u64 fdbox_kho_kept_pfn(u64 phys)
{
	u64 pfn = PHYS_PFN(phys);

	if (!pfn || !PAGE_ALIGNED(phys) || !pfn_to_online_page(pfn))
		return 0;
	return !fdbox_kho_tells() || fdbox_kho_block(pfn) >= 0 ? pfn : 0;
}

/*
 * Copies the first @len bytes of a body, which still belongs to KHO: if
 * kho_restore_vmalloc() or anything after it failed, the body would be lost.
 */
int fdbox_shim_kho_copy_body(const u8 descriptor[16], void *out, size_t len)
{
	const struct kho_vmalloc_chunk *chunk;
	struct kho_vmalloc vm;
	size_t piece, here;
	u64 phys, pfn;
	int i;

	memcpy(&vm, descriptor, sizeof(vm));
	if (vm.order > MAX_PAGE_ORDER)
		return -EIO;
	piece = PAGE_SIZE << vm.order;

	for (phys = vm.first.phys; len; phys = chunk->hdr.next.phys) {
		pfn = fdbox_kho_kept_pfn(phys);
		if (!pfn)
			return -EIO;
		chunk = pfn_to_kaddr(pfn);
		for (i = 0; len && i < ARRAY_SIZE(chunk->phys); i++) {
			pfn = fdbox_kho_kept_pfn(chunk->phys[i]);
			if (!pfn)
				return -EIO;
			here = min(len, piece);
			memcpy(out, pfn_to_kaddr(pfn), here);
			out += here;
			len -= here;
		}
		cond_resched();
	}
	return 0;
}

void *fdbox_shim_kho_restore_body(const u8 descriptor[16])
{
	struct kho_vmalloc vm;

	memcpy(&vm, descriptor, sizeof(vm));
	return kho_restore_vmalloc(&vm);
}

/*
 * The subtree of the last kernel with this name, which stays KHO's; NULL if
 * there is none, or an error if KHO has an entry for it that cannot be read.
 */
const void *fdbox_shim_kho_subtree(const char *subtree, size_t *len)
{
	phys_addr_t phys;
	int err;

	err = kho_retrieve_subtree(subtree, &phys, len);
	if (err)
		return err == -ENOENT ? NULL : ERR_PTR(err);
	return phys_to_virt(phys);
}

/*
 * KHO keeps returning the root, also to this module when it is loaded again. So
 * the page stays reserved, and is marked as consumed.
 */
void fdbox_shim_kho_mark_incoming(const void *root, const u8 *mark, size_t len)
{
	memcpy((void *)root, mark, len);
}
