/* SPDX-License-Identifier: GPL-2.0 */
/* For the tests: what the two halves of fdbox_probe know of each other. */
#ifndef _FDBOX_PROBE_H
#define _FDBOX_PROBE_H

struct file;
struct file_operations;
struct folio;

/* The callback that a test holds up. */
enum {
	PROBE_HOLD_NONE,
	PROBE_HOLD_SEAL,
	PROBE_HOLD_WRITE,
	PROBE_HOLD_RESTORE,
};

extern const struct file_operations probe_fops;

/* A file of the driver with an anonymous inode; it owns the folio. */
struct file *probe_anonymous(struct folio *folio);
int probe_hold_up(int here);
int probe_node_register(void);
void probe_node_unregister(void);

#endif /* _FDBOX_PROBE_H */
