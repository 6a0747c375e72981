/* SPDX-License-Identifier: GPL-2.0 */
/* What memfds of small and of huge pages share. */
#ifndef _FDBOX_MEMFD_H
#define _FDBOX_MEMFD_H

#include <linux/hugetlb.h>
#include <linux/shmem_fs.h>
#include <uapi/linux/fcntl.h>

struct fdbox_memfd_state;
struct fdbox_step;

/* Seals that a restored file can be given. */
#define FDBOX_MEMFD_SEALS	(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | \
				 F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC)

static inline unsigned int *fdbox_memfd_seals(struct inode *inode)
{
#ifdef CONFIG_HUGETLBFS
	if (!shmem_mapping(inode->i_mapping))
		return &HUGETLBFS_I(inode)->seals;
#endif
	return &SHMEM_I(inode)->seals;
}

long fdbox_memfd_pin_range(struct file *file, u64 index, u64 last,
			   struct folio **folios, unsigned int max,
			   struct fdbox_step *step);
struct file *fdbox_memfd_prepare(struct file *file,
				 const struct fdbox_memfd_state *state);

#endif /* _FDBOX_MEMFD_H */
