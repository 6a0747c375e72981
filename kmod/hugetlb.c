// SPDX-License-Identifier: GPL-2.0
/*
 * memfds of huge pages: freeze, pin, and rebuild from folios that outlived a
 * kexec. What does not depend on the size of pages is in memfd.c.
 */
#include <linux/err.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <uapi/linux/memfd.h>

#include "memfd.h"
#include "shim.h"

#ifdef CONFIG_HUGETLBFS

/* Added by kmod/patches; NULL in an unpatched kernel. */
int hugetlbfs_freeze(struct inode *inode, bool freeze) __weak;
unsigned long hugetlb_add_run(struct inode *inode, pgoff_t index,
			      struct folio *folio, unsigned long nr, bool down) __weak;
struct file *memfd_alloc_file(const char *name, unsigned int flags) __weak;

bool fdbox_shim_hugetlb_supported(void)
{
	return hugetlbfs_freeze && hugetlb_add_run && memfd_alloc_file;
}

/*
 * Not a file of a mounted hugetlbfs, whose limits would be lost, nor SysV shared
 * memory, whose files have other operations.
 */
bool fdbox_shim_is_hugetlb(struct file *file)
{
	struct inode *inode = file_inode(file);

	return is_file_hugepages(file) && file->f_op == inode->i_fop &&
	       S_ISREG(inode->i_mode) && !inode->i_nlink &&
	       inode->i_sb->s_flags & SB_KERNMOUNT;
}

u32 fdbox_shim_hugetlb_page_shift(struct file *file)
{
	return huge_page_shift(hstate_file(file));
}

int fdbox_shim_hugetlb_freeze(struct file *file)
{
	struct inode *inode = file_inode(file);

	if (!fdbox_shim_hugetlb_supported() ||
	    *fdbox_memfd_seals(inode) & ~FDBOX_MEMFD_SEALS)
		return -EOPNOTSUPP;
	return hugetlbfs_freeze(inode, true);
}

void fdbox_shim_hugetlb_thaw(struct file *file)
{
	if (fdbox_shim_hugetlb_supported())
		hugetlbfs_freeze(file_inode(file), false);
}

static u64 fdbox_hugetlb_pages(struct file *file)
{
	return DIV_ROUND_UP_ULL(i_size_read(file_inode(file)), PAGE_SIZE);
}

/* The first page from @index on that is a hole, or @index if there is none before @end. */
static u64 fdbox_hugetlb_hole(struct file *file, u64 index, u64 end)
{
	u64 at;

	for (at = index; at < end; at += pages_per_huge_page(hstate_file(file)))
		if (!xa_load(&file->f_mapping->i_pages, at))
			return at;
	return index;
}

/*
 * Fills holes from the pool; on -ENOMEM @step->failed_at is the page that it had
 * nothing for. Unlike memfd_pin_folios() this takes pages of the pool that lie
 * where nothing can be pinned, and charges the caller's cgroups. Pages that are
 * pinned are moved from there.
 */
int fdbox_shim_hugetlb_fill(struct file *file, struct fdbox_step *step)
{
	loff_t size = i_size_read(file_inode(file));
	long err;

	*step = (struct fdbox_step) {};
	file_start_write(file);
	err = file->f_op->fallocate(file, FALLOC_FL_KEEP_SIZE, 0, size);
	file_end_write(file);
	if (err == -ENOSPC) {
		step->failed_at = fdbox_hugetlb_hole(file, 0, fdbox_hugetlb_pages(file));
		return -ENOMEM;
	}
	/* It stops at any signal: pinning fills the rest. */
	return err == -EINTR && !fatal_signal_pending(current) ? 0 : err;
}

/*
 * Pins up to @max huge pages from page @index on, a multiple of their size, and
 * fills holes. As fdbox_shim_memfd_pin() otherwise.
 */
long fdbox_shim_hugetlb_pin(struct file *file, u64 index, struct folio **folios,
			    unsigned int max, struct fdbox_step *step)
{
	u64 most = (u64)max << huge_page_order(hstate_file(file));
	u64 end = min(fdbox_hugetlb_pages(file), index + most);
	long pinned;

	*step = (struct fdbox_step) { .failed_at = index };
	if (fatal_signal_pending(current))
		return -EINTR;

	pinned = fdbox_memfd_pin_range(file, index, end - 1, folios, max, step);
	/* Either the pool had nothing for a hole, or nothing to move a page to. */
	if (pinned == -ENOMEM)
		step->failed_at = fdbox_hugetlb_hole(file, index, end);
	return pinned;
}

/* An empty file of the right size; -EOPNOTSUPP if this kernel has no pages of that size. */
struct file *fdbox_shim_hugetlb_create(const u8 *name,
				       const struct fdbox_memfd_state *state)
{
	unsigned int flags = MFD_HUGETLB | state->page_shift << MFD_HUGE_SHIFT;
	struct file *file;

	if (!fdbox_shim_hugetlb_supported())
		return ERR_PTR(-EOPNOTSUPP);
	file = memfd_alloc_file(name, flags);
	if (file == ERR_PTR(-ENODEV) || file == ERR_PTR(-ENOENT))
		return ERR_PTR(-EOPNOTSUPP);
	return fdbox_memfd_prepare(file, state);
}

u64 fdbox_shim_hugetlb_add(struct file *file, u64 index, const struct folio_run *runs,
			   unsigned int nr)
{
	unsigned int order = huge_page_order(hstate_file(file));
	u64 done = 0, part;

	for (; nr; nr--, runs++) {
		part = hugetlb_add_run(file_inode(file), index + (done << order),
				       pfn_folio(runs->pfn), runs->nr, runs->down);
		done += part;
		if (part < runs->nr)
			break;
	}
	return done;
}

#else /* !CONFIG_HUGETLBFS */

bool fdbox_shim_hugetlb_supported(void)
{
	return false;
}

bool fdbox_shim_is_hugetlb(struct file *file)
{
	return false;
}

u32 fdbox_shim_hugetlb_page_shift(struct file *file)
{
	return 0;
}

int fdbox_shim_hugetlb_freeze(struct file *file)
{
	return -EOPNOTSUPP;
}

void fdbox_shim_hugetlb_thaw(struct file *file)
{
}

int fdbox_shim_hugetlb_fill(struct file *file, struct fdbox_step *step)
{
	return -EOPNOTSUPP;
}

long fdbox_shim_hugetlb_pin(struct file *file, u64 index, struct folio **folios,
			    unsigned int max, struct fdbox_step *step)
{
	return -EOPNOTSUPP;
}

struct file *fdbox_shim_hugetlb_create(const u8 *name,
				       const struct fdbox_memfd_state *state)
{
	return ERR_PTR(-EOPNOTSUPP);
}

u64 fdbox_shim_hugetlb_add(struct file *file, u64 index, const struct folio_run *runs,
			   unsigned int nr)
{
	return 0;
}

#endif /* !CONFIG_HUGETLBFS */
