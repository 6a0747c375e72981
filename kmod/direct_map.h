/* SPDX-License-Identifier: GPL-2.0 */
/* What direct_map.c offers to the other C files. */
#ifndef _FDBOX_DIRECT_MAP_H
#define _FDBOX_DIRECT_MAP_H

#include <linux/types.h>

int fdbox_direct_map_add(u64 pfn, u64 pages);

#endif /* _FDBOX_DIRECT_MAP_H */
