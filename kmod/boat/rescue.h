/* SPDX-License-Identifier: GPL-2.0 */
/* Declarations for the kernel by which the boat restarts a host that does not come back. */
#ifndef _FDBOX_BOAT_RESCUE_H
#define _FDBOX_BOAT_RESCUE_H

#include <linux/fdbox_boat.h>
#include <linux/types.h>

struct boat;
struct boat_page;
struct boat_rescue;
struct kho_radix_tree;

/* rescue.c: in the host, and the one after it. */
int boat_rescue_check(void);
int boat_rescue_take(struct boat *boat);
void boat_rescue_publish(struct boat *boat);
void boat_rescue_forget(void);
void boat_rescue_end(struct boat *boat);
void boat_rescue_init(void);
void boat_rescue_exit(void);

/* tree.c: the pages of KHO's tree. */
int boat_tree_preserve(struct kho_radix_tree *tree);
void boat_tree_free(phys_addr_t root);

/* ioapic.c: the host's interrupt lines. */
int boat_ioapics_find(struct boat_rescue *rescue);
int boat_ioapics_mask(const struct boat_rescue *rescue);

/* dma.c: what the host's devices may still do. */
int boat_masters_note(struct boat_rescue *rescue);
void boat_masters_end(const struct boat_rescue *rescue);

/* restart.c: in the boat. */
int boat_restart(const struct boat_page *page);

#endif /* _FDBOX_BOAT_RESCUE_H */
