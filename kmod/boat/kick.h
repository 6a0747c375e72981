/* SPDX-License-Identifier: GPL-2.0 */
/* CPUs of this machine that do not run this kernel: stopped, and started in another one. */
#ifndef _FDBOX_BOAT_KICK_H
#define _FDBOX_BOAT_KICK_H

#include <linux/types.h>

/* Where a CPU goes once it is in long mode. */
struct boat_jump {
	u64 entry;
	u64 params;			/* for the kernel: struct boot_params */
	u32 page_table;			/* with the page in which it starts, and the entry */
};

void boat_init_cpu(u32 apic_id);
bool boat_kick(phys_addr_t low, u32 apic_id, const struct boat_jump *jump);
int boat_warm_reset_set(phys_addr_t low);

#endif /* _FDBOX_BOAT_KICK_H */
