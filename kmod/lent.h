/* SPDX-License-Identifier: GPL-2.0 */
/* What the C files about lent boxes use of each other. */
#ifndef _FDBOX_LENT_H
#define _FDBOX_LENT_H

#include <linux/types.h>

struct file;

/* lending.c */
bool fdbox_may_be_hosts(u64 phys, size_t len);

/* lent_device.c */
bool fdbox_is_lent_device(struct file *file);
void fdbox_lent_device_revoke(struct file *file);

#endif /* _FDBOX_LENT_H */
