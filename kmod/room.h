/* SPDX-License-Identifier: GPL-2.0 */
/* What room.c offers to the other C files. */
#ifndef _FDBOX_ROOM_H
#define _FDBOX_ROOM_H

#include <linux/types.h>

struct folio;

int fdbox_may_take(u64 pages, bool probe);
bool fdbox_is_pinnable(struct folio *folio);
bool fdbox_is_poisoned(struct folio *folio, u64 *index);

#endif /* _FDBOX_ROOM_H */
