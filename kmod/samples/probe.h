/* SPDX-License-Identifier: GPL-2.0 */
/* For the tests: declarations that the two files of fdbox_probe share. */
#ifndef _FDBOX_PROBE_H
#define _FDBOX_PROBE_H

struct file;
struct file_operations;
struct folio;

/* The callback that is delayed. */
enum {
	PROBE_HOLD_NONE,
	PROBE_HOLD_SEAL,
	PROBE_HOLD_WRITE,
	PROBE_HOLD_RESTORE,
	PROBE_HOLD_DISCARD,
};

extern const struct file_operations probe_fops;

/* Creates a file of the driver with an anonymous inode. It owns @folio. */
struct file *probe_anonymous(struct folio *folio);
int probe_hold_up(int here);
int probe_node_register(void);
void probe_node_unregister(void);

#endif /* _FDBOX_PROBE_H */
