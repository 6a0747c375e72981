/* SPDX-License-Identifier: GPL-2.0 */
/* The device node of a box, for the files that work on it. */
#ifndef _FDBOX_NODE_H
#define _FDBOX_NODE_H

#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/uidgid.h>

struct vfsmount;

struct fdbox_node {
	struct device dev;
	struct cdev cdev;
	void *box;
	char *name;
	umode_t mode;
	kuid_t uid;
	kgid_t gid;
};

/* devtmpfs, whatever is mounted on /dev; NULL in a kernel without it. */
extern struct vfsmount *fdbox_devtmpfs;

#endif /* _FDBOX_NODE_H */
