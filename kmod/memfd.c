// SPDX-License-Identifier: GPL-2.0
/*
 * memfds: freeze, pin, and rebuild from folios that outlived a kexec. What is
 * different for huge pages is in hugetlb.c.
 */
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/swap.h>

#include "memfd.h"
#include "room.h"
#include "shim.h"

/* How a file is opened, in a handover: abi/memfd.rs. */
#define FDBOX_MEMFD_READ	BIT(0)
#define FDBOX_MEMFD_WRITE	BIT(1)
#define FDBOX_MEMFD_APPEND	BIT(2)
#define FDBOX_MEMFD_NONBLOCK	BIT(3)

/* Added by kmod/patches; NULL in an unpatched kernel. */
unsigned long shmem_add_runs(struct inode *inode, pgoff_t index,
			     const struct folio_run *runs, unsigned int nr_runs) __weak;
#ifdef CONFIG_MEMFD_CREATE
struct file *memfd_alloc_file(const char *name, unsigned int flags) __weak;
#endif

bool fdbox_shim_memfd_supported(void)
{
	return shmem_add_runs;
}

bool fdbox_shim_is_memfd(struct file *file)
{
	return shmem_mapping(file->f_mapping) && S_ISREG(file_inode(file)->i_mode) &&
	       !file_inode(file)->i_nlink;
}

u64 fdbox_shim_file_size(struct file *file)
{
	return i_size_read(file_inode(file));
}

/*
 * LUO uses the same flag for files that it preserves: the first of the two gets
 * the file.
 */
int fdbox_shim_memfd_freeze(struct file *file)
{
	struct inode *inode = file_inode(file);
	int err = 0;

	inode_lock(inode);
	if (SHMEM_I(inode)->seals & ~FDBOX_MEMFD_SEALS)
		err = -EOPNOTSUPP;
	else if (SHMEM_I(inode)->flags & SHMEM_F_MAPPING_FROZEN)
		err = -EBUSY;
	else
		shmem_freeze(inode, true);
	inode_unlock(inode);
	return err;
}

void fdbox_shim_memfd_thaw(struct file *file)
{
	struct inode *inode = file_inode(file);

	inode_lock(inode);
	shmem_freeze(inode, false);
	inode_unlock(inode);
}

static u32 fdbox_memfd_flags(struct file *file)
{
	unsigned int flags = READ_ONCE(file->f_flags);

	return (file->f_mode & FMODE_READ ? FDBOX_MEMFD_READ : 0) |
	       (file->f_mode & FMODE_WRITE ? FDBOX_MEMFD_WRITE : 0) |
	       (flags & O_APPEND ? FDBOX_MEMFD_APPEND : 0) |
	       (flags & O_NONBLOCK ? FDBOX_MEMFD_NONBLOCK : 0);
}

/* The corresponding flags of open(2). */
static int fdbox_memfd_open_flags(u32 flags)
{
	static const int access[] = { O_ACCMODE, O_RDONLY, O_WRONLY, O_RDWR };

	return access[flags & (FDBOX_MEMFD_READ | FDBOX_MEMFD_WRITE)] | O_LARGEFILE |
	       (flags & FDBOX_MEMFD_APPEND ? O_APPEND : 0) |
	       (flags & FDBOX_MEMFD_NONBLOCK ? O_NONBLOCK : 0);
}

void fdbox_shim_memfd_state(struct file *file, struct fdbox_memfd_state *state)
{
	struct inode *inode = file_inode(file);

	*state = (struct fdbox_memfd_state) {
		.size = i_size_read(inode),
		.pos = file->f_pos,
		.seals = *fdbox_memfd_seals(inode),
		.mode = inode->i_mode & 07777,
		.uid = from_kuid_munged(&init_user_ns, inode->i_uid),
		.gid = from_kgid_munged(&init_user_ns, inode->i_gid),
		.flags = fdbox_memfd_flags(file),
	};
}

/* Copies the name that /proc shows, without a terminating NUL; returns its length. */
long fdbox_shim_memfd_name(struct file *file, u8 *out, size_t len)
{
	struct name_snapshot name;

	take_dentry_name_snapshot(&name, file->f_path.dentry);
	len = min_t(size_t, len, name.name.len);
	memcpy(out, name.name.name, len);
	release_dentry_name_snapshot(&name);
	return len;
}

/* Zeroes a folio that was allocated but never written. */
static void fdbox_memfd_settle(struct folio *folio)
{
	if (folio_test_uptodate(folio))
		return;
	folio_lock(folio);
	if (!folio_test_uptodate(folio)) {
		folio_zero_range(folio, 0, folio_size(folio));
		flush_dcache_folio(folio);
		folio_mark_uptodate(folio);
	}
	folio_unlock(folio);
}

/* Fills holes of pages @index to @last, and swaps pages in. */
static int fdbox_memfd_fill(struct file *file, u64 index, u64 last, struct fdbox_step *step)
{
	struct address_space *mapping = file->f_mapping;
	/* Fails without memory, instead of invoking the OOM killer. */
	gfp_t gfp = mapping_gfp_mask(mapping) | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	unsigned int flags = memalloc_pin_save();
	struct folio *folio;
	int err = 0;

	for (;;) {
		rcu_read_lock();
		index = page_cache_next_miss(mapping, index, last - index + 1);
		rcu_read_unlock();
		if (index > last)
			break;
		folio = shmem_read_folio_gfp(mapping, index, gfp);
		if (IS_ERR(folio)) {
			step->failed_at = index;
			err = PTR_ERR(folio);
			break;
		}
		index = folio_next_index(folio);
		folio_put(folio);
		if (index > last)
			break;
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		cond_resched();
	}
	memalloc_pin_restore(flags);
	return err;
}

/*
 * Finds the first folio from @index on that cannot be pinned where it is, and
 * cannot be migrated because of a reference besides those of file and mappings.
 */
static bool fdbox_memfd_held(struct file *file, u64 index, u64 last, u64 *held)
{
	struct folio_batch batch;
	pgoff_t start = index;
	bool found = false;
	unsigned int i;

	folio_batch_init(&batch);
	while (!found && filemap_get_folios(file->f_mapping, &start, last, &batch)) {
		for (i = 0; i < folio_batch_count(&batch) && !found; i++) {
			struct folio *folio = batch.folios[i];

			/* One reference belongs to the batch. */
			found = !fdbox_is_pinnable(folio) &&
				folio_ref_count(folio) > folio_expected_ref_count(folio) + 1;
			*held = folio->index;
		}
		folio_batch_release(&batch);
	}
	return found;
}

static int fdbox_memfd_check(struct folio **folios, long pinned, struct fdbox_step *step)
{
	long i;

	for (i = 0; i < pinned; i++) {
		if (fdbox_is_poisoned(folios[i], &step->failed_at))
			return -EHWPOISON;
		fdbox_memfd_settle(folios[i]);
	}
	return 0;
}

/*
 * Pins pages @index to @last, at most @max folios. A folio that has to be
 * migrated but is held by another user is -EBUSY.
 */
long fdbox_memfd_pin_range(struct file *file, u64 index, u64 last,
			   struct folio **folios, unsigned int max,
			   struct fdbox_step *step)
{
	u64 end = min((u64)i_size_read(file_inode(file)), (last + 1) << PAGE_SHIFT);
	struct fdbox_survey survey;
	pgoff_t offset;
	long pinned;
	int err;

	pinned = memfd_pin_folios(file, index << PAGE_SHIFT, end - 1, folios, max, &offset);
	if (pinned == -ENOMEM && fdbox_memfd_held(file, index, last, &step->failed_at))
		return -EBUSY;
	if (pinned == -EHWPOISON) {
		fdbox_shim_survey(file, index, last, &survey);
		step->failed_at = survey.poisoned_at;
	}
	if (pinned < 0)
		return pinned;
	err = fdbox_memfd_check(folios, pinned, step);
	if (err)
		unpin_folios(folios, pinned);
	cond_resched();
	return err ?: pinned;
}

/*
 * Pins up to @max pages, in folios, from page @index on, and fills holes. Pinned
 * folios are not migrated, and are outside of KHO's scratch area. On error
 * @step->failed_at is the page: the one that could not be allocated (-ENOMEM),
 * that has to be migrated but is held by another user (-EBUSY), or that is
 * poisoned (-EHWPOISON).
 */
long fdbox_shim_memfd_pin(struct file *file, u64 index, struct folio **folios,
			  unsigned int max, struct fdbox_step *step)
{
	u64 size = i_size_read(file_inode(file));
	u64 last = min(DIV_ROUND_UP_ULL(size, PAGE_SIZE), index + max) - 1;
	struct fdbox_survey survey;
	int err;

	fdbox_shim_survey(file, index, last, &survey);
	*step = (struct fdbox_step) { .failed_at = index };
	step->filled = last - index + 1 - min(survey.cached, last - index + 1);
	step->taken = step->filled + survey.moves;

	err = fdbox_may_take(step->taken, false);
	if (!err && step->filled)
		err = fdbox_memfd_fill(file, index, last, step);
	/* Migration allocates pages without the flags above, so their memory is probed first. */
	if (!err && survey.moves)
		err = fdbox_may_take(survey.moves, true);
	return err ?: fdbox_memfd_pin_range(file, index, last, folios, max, step);
}

void fdbox_shim_folio_span(struct folio *folio, u64 *pfn, u32 *order, u64 *next)
{
	*pfn = folio_pfn(folio);
	*order = folio_order(folio);
	*next = folio_next_index(folio);
}

void fdbox_shim_unpin(u64 pfn, u64 folios, u32 order)
{
	u64 i;

	for (i = 0; i < folios; i++)
		unpin_folio(pfn_folio(pfn + (i << order)));
	cond_resched();
}

/*
 * Makes an empty file as memfd_create() does; on a kernel without the patch for it
 * security modules take it for a file of tmpfs.
 */
static struct file *fdbox_memfd_alloc(const char *name)
{
	struct file *file;

#ifdef CONFIG_MEMFD_CREATE
	if (memfd_alloc_file)
		return memfd_alloc_file(name, 0);
#endif
	file = shmem_file_setup(name, 0, mk_vma_flags(VMA_NORESERVE_BIT));
	if (IS_ERR(file))
		return file;
	file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
	file->f_flags |= O_LARGEFILE;
	return file;
}

/*
 * Gives a new file, or the error of making it, its size, owner and mode. Consumes
 * @file if it fails.
 */
struct file *fdbox_memfd_prepare(struct file *file,
				 const struct fdbox_memfd_state *state)
{
	struct inode *inode;

	/* This is how the file system reports that it could not allocate the inode. */
	if (file == ERR_PTR(-ENOSPC))
		return ERR_PTR(-ENOMEM);
	if (IS_ERR(file))
		return file;
	if (state->seals & ~FDBOX_MEMFD_SEALS) {
		fput(file);
		return ERR_PTR(-EOPNOTSUPP);
	}

	inode = file_inode(file);
	inode->i_mode = S_IFREG | (state->mode & 07777);
	inode->i_uid = make_kuid(&init_user_ns, state->uid);
	inode->i_gid = make_kgid(&init_user_ns, state->gid);
	i_size_write(inode, state->size);
	return file;
}

/* An empty file of the right size. */
struct file *fdbox_shim_memfd_create(const u8 *name,
				     const struct fdbox_memfd_state *state)
{
	return fdbox_memfd_prepare(fdbox_memfd_alloc(name), state);
}

u64 fdbox_shim_memfd_add(struct file *file, u64 index, const struct folio_run *runs,
			 unsigned int nr)
{
	return shmem_add_runs(file_inode(file), index, runs, nr);
}

/* Returns the file to give out: @file, or another open file of it with less access. */
struct file *fdbox_shim_memfd_finish(struct file *file,
				     const struct fdbox_memfd_state *state)
{
	unsigned int *seals = fdbox_memfd_seals(file_inode(file));
	int err;

	if (state->flags == (FDBOX_MEMFD_READ | FDBOX_MEMFD_WRITE))
		get_file(file);
	else
		file = dentry_open(&file->f_path, fdbox_memfd_open_flags(state->flags),
				   current_cred());
	if (IS_ERR(file))
		return file;
	if (state->seals & F_SEAL_WRITE && !(*seals & F_SEAL_WRITE)) {
		err = mapping_deny_writable(file->f_mapping);
		if (err) {
			fput(file);
			return ERR_PTR(err);
		}
	}
	*seals = state->seals;
	vfs_setpos(file, state->pos, MAX_LFS_FILESIZE);
	return file;
}
