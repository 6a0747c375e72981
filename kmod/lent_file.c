// SPDX-License-Identifier: GPL-2.0
/*
 * A file of memory that belongs to the host, in the boat. The boat has no struct
 * pages for it, so it is mapped by page frame number, in pages as large as memory
 * and mapping allow, and cannot be pinned (direct I/O, DMA).
 *
 * All of its memory is mapped in the kernel as well, write-back: for read() and
 * write(), and because on x86 a page frame without such a mapping would be mapped
 * uncached in user space (lookup_memtype()).
 *
 * When the box goes back to the host the file is revoked: mappings are removed,
 * KVM's among them, and accesses raise SIGBUS from then on.
 */
#include <linux/anon_inodes.h>
#include <linux/bsearch.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "direct_map.h"
#include "lent.h"
#include "shim.h"

/* Encoded as in abi/extent.rs, which has decoded each of them once. */
struct fdbox_lent_run {
	u64 start;		/* in the file, in pages */
	u64 pages;
	u64 pfn;		/* of the first folio */
	u32 order;
	bool down;
};

/* Adjacent memory, in the order of its address. */
struct fdbox_lent_range {
	u64 pfn;
	u64 pages;
	void *mapped;
};

struct fdbox_lent {
	size_t nr_runs;
	size_t nr_ranges;
	struct fdbox_lent_range *ranges;
	/* Protected by the mapping's invalidate lock. */
	bool is_revoked;
	struct fdbox_lent_run runs[] __counted_by(nr_runs);
};

static struct fdbox_lent_run fdbox_lent_decode(u64 raw, u64 start)
{
	struct fdbox_lent_run run = {
		.start = start,
		.pfn = raw & GENMASK_ULL(39, 0),
		.order = (raw >> 58) & 0x1f,
		.down = raw >> 63,
	};

	run.pages = (((raw >> 40) & GENMASK_ULL(17, 0)) + 1) << run.order;
	return run;
}

static int fdbox_lent_cmp_run(const void *key, const void *elt)
{
	const struct fdbox_lent_run *run = elt;
	u64 index = *(const u64 *)key;

	return index < run->start ? -1 : index >= run->start + run->pages;
}

static int fdbox_lent_cmp_range(const void *key, const void *elt)
{
	const struct fdbox_lent_range *range = elt;
	u64 pfn = *(const u64 *)key;

	return pfn < range->pfn ? -1 : pfn >= range->pfn + range->pages;
}

/*
 * The page frame of page @index, if that many pages from there on, a power of two,
 * can be mapped at once; otherwise 0.
 */
static u64 fdbox_lent_pfn(const struct fdbox_lent *lent, u64 index, u64 pages)
{
	const struct fdbox_lent_run *run = bsearch(&index, lent->runs, lent->nr_runs,
						   sizeof(*run), fdbox_lent_cmp_run);
	u64 offset, in_folio, pfn;

	if (!run)
		return 0;
	offset = index - run->start;
	in_folio = offset & ((1ULL << run->order) - 1);
	pfn = run->down ? run->pfn - (offset - in_folio) + in_folio : run->pfn + offset;
	if (offset + pages > run->pages || !IS_ALIGNED(pfn, pages) ||
	    (run->down && pages > 1ULL << run->order))
		return 0;
	return pfn;
}

/* Where the kernel has mapped a page. */
static void *fdbox_lent_at(const struct fdbox_lent *lent, u64 index)
{
	const struct fdbox_lent_range *range;
	u64 pfn = fdbox_lent_pfn(lent, index, 1);

	range = bsearch(&pfn, lent->ranges, lent->nr_ranges, sizeof(*range),
			fdbox_lent_cmp_range);
	return range ? range->mapped + PFN_PHYS(pfn - range->pfn) : NULL;
}

static vm_fault_t fdbox_lent_insert(struct vm_fault *vmf, unsigned int order)
{
	const struct fdbox_lent *lent = vmf->vma->vm_file->private_data;
	unsigned long addr = ALIGN_DOWN(vmf->address, PAGE_SIZE << order);
	struct vm_area_struct *vma = vmf->vma;
	u64 index, pfn;

	if (lent->is_revoked)
		return VM_FAULT_SIGBUS;
	if (addr < vma->vm_start || addr + (PAGE_SIZE << order) > vma->vm_end)
		return VM_FAULT_FALLBACK;
	index = ((addr - vma->vm_start) >> PAGE_SHIFT) + vma->vm_pgoff;
	pfn = fdbox_lent_pfn(lent, index, 1ULL << order);
	if (!order)
		return pfn ? vmf_insert_pfn(vma, addr, pfn) : VM_FAULT_SIGBUS;
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	if (pfn && order == PMD_ORDER)
		return vmf_insert_pfn_pmd(vmf, pfn, vmf->flags & FAULT_FLAG_WRITE);
#ifdef CONFIG_HAVE_ARCH_TRANSPARENT_HUGEPAGE_PUD
	if (pfn && order == PUD_ORDER)
		return vmf_insert_pfn_pud(vmf, pfn, vmf->flags & FAULT_FLAG_WRITE);
#endif
#endif
	return VM_FAULT_FALLBACK;
}

static vm_fault_t fdbox_lent_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct address_space *mapping = vmf->vma->vm_file->f_mapping;
	vm_fault_t result;

	filemap_invalidate_lock_shared(mapping);
	result = fdbox_lent_insert(vmf, order);
	filemap_invalidate_unlock_shared(mapping);
	return result;
}

static vm_fault_t fdbox_lent_fault(struct vm_fault *vmf)
{
	return fdbox_lent_huge_fault(vmf, 0);
}

static const struct vm_operations_struct fdbox_lent_vm_ops = {
	.fault = fdbox_lent_fault,
	.huge_fault = fdbox_lent_huge_fault,
};

static int fdbox_lent_mmap(struct file *file, struct vm_area_struct *vma)
{
	u64 pages = DIV_ROUND_UP_ULL(i_size_read(file_inode(file)), PAGE_SIZE);

	/* A copy would need struct pages. */
	if (!(vma->vm_flags & VM_SHARED) || vma->vm_pgoff > pages ||
	    vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
	vm_flags_set(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &fdbox_lent_vm_ops;
	return 0;
}

/* Copies within a page, unless the file was revoked. */
static int fdbox_lent_move(struct file *file, u64 pos, u8 *page, size_t len, bool writes)
{
	const struct fdbox_lent *lent = file->private_data;
	u8 *at = fdbox_lent_at(lent, pos >> PAGE_SHIFT);
	bool may;

	filemap_invalidate_lock_shared(file->f_mapping);
	may = at && !lent->is_revoked;
	if (may && writes)
		memcpy(at + offset_in_page(pos), page, len);
	else if (may)
		memcpy(page, at + offset_in_page(pos), len);
	filemap_invalidate_unlock_shared(file->f_mapping);
	return may ? 0 : -EIO;
}

/*
 * Reads or writes through @page: memory of the caller's may be a mapping of this
 * file, whose faults take the lock.
 */
static ssize_t fdbox_lent_copy(struct kiocb *iocb, struct iov_iter *iter, u8 *page, bool writes)
{
	u64 size = i_size_read(file_inode(iocb->ki_filp));
	size_t done = 0, len, copied;
	int err;

	while (iov_iter_count(iter) && iocb->ki_pos < size) {
		len = min3((u64)iov_iter_count(iter), size - iocb->ki_pos,
			   (u64)PAGE_SIZE - offset_in_page(iocb->ki_pos));
		copied = writes ? copy_from_iter(page, len, iter) : len;
		err = fdbox_lent_move(iocb->ki_filp, iocb->ki_pos, page, copied, writes);
		if (!err && !writes)
			copied = copy_to_iter(page, len, iter);
		if (err || !copied)
			return done ?: err ?: -EFAULT;
		done += copied;
		iocb->ki_pos += copied;
	}
	return done;
}

static ssize_t fdbox_lent_transfer(struct kiocb *iocb, struct iov_iter *iter, bool writes)
{
	u8 *page = (u8 *)__get_free_page(GFP_KERNEL);
	ssize_t done;

	if (!page)
		return -ENOMEM;
	done = fdbox_lent_copy(iocb, iter, page, writes);
	free_page((unsigned long)page);
	return done;
}

static ssize_t fdbox_lent_read(struct kiocb *iocb, struct iov_iter *iter)
{
	return fdbox_lent_transfer(iocb, iter, false);
}

static ssize_t fdbox_lent_write(struct kiocb *iocb, struct iov_iter *iter)
{
	ssize_t done = fdbox_lent_transfer(iocb, iter, true);

	/* Like a memfd that must not grow. */
	return done || !iov_iter_count(iter) ? done : -EPERM;
}

static void fdbox_lent_free(struct fdbox_lent *lent)
{
	size_t i;

	for (i = 0; i < lent->nr_ranges; i++) {
		if (lent->ranges[i].mapped)
			memunmap(lent->ranges[i].mapped);
	}
	kvfree(lent->ranges);
	kvfree(lent);
}

static int fdbox_lent_release(struct inode *inode, struct file *file)
{
	fdbox_lent_free(file->private_data);
	return 0;
}

static loff_t fdbox_lent_llseek(struct file *file, loff_t offset, int whence)
{
	return generic_file_llseek_size(file, offset, whence, MAX_LFS_FILESIZE,
					i_size_read(file_inode(file)));
}

static const struct file_operations fdbox_lent_fops = {
	.owner = THIS_MODULE,
	.mmap = fdbox_lent_mmap,
	.get_unmapped_area = thp_get_unmapped_area,
	.read_iter = fdbox_lent_read,
	.write_iter = fdbox_lent_write,
	.llseek = fdbox_lent_llseek,
	.release = fdbox_lent_release,
};

static int fdbox_lent_map(struct fdbox_lent *lent, const u64 *kept, size_t nr_kept)
{
	struct fdbox_lent_run run;
	size_t i;

	lent->ranges = kvcalloc(nr_kept, sizeof(*lent->ranges), GFP_KERNEL);
	if (!lent->ranges)
		return -ENOMEM;
	lent->nr_ranges = nr_kept;
	for (i = 0; i < nr_kept; i++) {
		struct fdbox_lent_range *range = &lent->ranges[i];

		run = fdbox_lent_decode(kept[i], 0);
		range->pfn = run.down ? run.pfn - run.pages + (1ULL << run.order) : run.pfn;
		range->pages = run.pages;
		range->mapped = memremap(PFN_PHYS(range->pfn), PFN_PHYS(range->pages),
					 MEMREMAP_WB);
		if (!range->mapped || fdbox_direct_map_add(range->pfn, range->pages))
			return -ENOMEM;
		cond_resched();
	}
	return 0;
}

static struct fdbox_lent *fdbox_lent_new(const u64 *extents, size_t nr_extents,
					 const u64 *kept, size_t nr_kept)
{
	struct fdbox_lent *lent;
	u64 start = 0;
	size_t i;

	lent = kvzalloc_flex(*lent, runs, nr_extents);
	if (!lent)
		return ERR_PTR(-ENOMEM);
	lent->nr_runs = nr_extents;
	for (i = 0; i < nr_extents; i++) {
		lent->runs[i] = fdbox_lent_decode(extents[i], start);
		start += lent->runs[i].pages;
	}
	if (fdbox_lent_map(lent, kept, nr_kept)) {
		fdbox_lent_free(lent);
		return ERR_PTR(-ENOMEM);
	}
	return lent;
}

/*
 * A file of @size bytes, whose pages are @extents, in the order of the file; @kept
 * has the same memory in the order of its addresses.
 */
struct file *fdbox_shim_lent_create(const u8 *name, u64 size, bool writable,
				    const u64 *extents, size_t nr_extents,
				    const u64 *kept, size_t nr_kept)
{
	struct fdbox_lent *lent = fdbox_lent_new(extents, nr_extents, kept, nr_kept);
	struct file *file;

	if (IS_ERR(lent))
		return ERR_CAST(lent);
	file = anon_inode_create_getfile(name, &fdbox_lent_fops, lent,
					 writable ? O_RDWR : O_RDONLY, NULL);
	if (IS_ERR(file)) {
		fdbox_lent_free(lent);
		return file;
	}
	file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
	i_size_write(file_inode(file), size);
	return file;
}

static bool fdbox_is_lent_memory(struct file *file)
{
	return file->f_op == &fdbox_lent_fops;
}

/* Whether it is of the host's memory, or a device of the host's. */
bool fdbox_shim_is_lent(struct file *file)
{
	return fdbox_is_lent_memory(file) || fdbox_is_lent_device(file);
}

/* Ends all use of what the file is of, if it is such a file. */
void fdbox_shim_lent_revoke(struct file *file)
{
	struct fdbox_lent *lent = file->private_data;

	if (fdbox_is_lent_device(file))
		fdbox_lent_device_revoke(file);
	if (!fdbox_is_lent_memory(file))
		return;
	filemap_invalidate_lock(file->f_mapping);
	lent->is_revoked = true;
	filemap_invalidate_unlock(file->f_mapping);
	unmap_mapping_range(file->f_mapping, 0, 0, 1);
}
