// SPDX-License-Identifier: GPL-2.0
/*
 * The device node of a box: /dev/fdbox/NAME.
 *
 * Names are chosen by users at run time, which the Rust abstraction of a misc
 * device does not support. A node owns one reference of its box. It exists until
 * it is destroyed and the last file that was opened through it is closed.
 */
#include <linux/capability.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mount.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/uidgid.h>

#include "node.h"
#include "shim.h"

/* Maximum number of boxes; each has a minor number. */
#define FDBOX_MAX_BOXES		65536

static unsigned int max_boxes = FDBOX_MAX_BOXES;
module_param(max_boxes, uint, 0600);
MODULE_PARM_DESC(max_boxes, "most boxes at a time, up to 65536 (default)");

/*
 * Maximum number of descriptors in a box: each holds an open file, which no
 * rlimit counts.
 */
#define FDBOX_MAX_FDS		65536

static unsigned int max_fds = FDBOX_MAX_FDS;
module_param(max_fds, uint, 0600);
MODULE_PARM_DESC(max_fds, "most descriptors in a box, up to 65536 (default)");

static bool ignore_labels;
module_param(ignore_labels, bool, 0600);
MODULE_PARM_DESC(ignore_labels, "open boxes from the last kernel whose security labels are invalid here");

static dev_t fdbox_devt;
static DEFINE_IDA(fdbox_minors);
struct vfsmount *fdbox_devtmpfs;

static const struct class fdbox_class = { .name = "fdbox" };

static char *fdbox_devnode(const struct device *dev, umode_t *mode,
			   kuid_t *uid, kgid_t *gid)
{
	const struct fdbox_node *node = container_of(dev, struct fdbox_node, dev);

	if (mode)
		*mode = node->mode;
	if (uid)
		*uid = node->uid;
	if (gid)
		*gid = node->gid;
	/*
	 * Without it, device_del() would leave the node in /dev, and a later box of
	 * that name could not be opened.
	 */
	return kasprintf(GFP_KERNEL | __GFP_NOFAIL, "fdbox/%s", node->name);
}

static const struct device_type fdbox_node_type = {
	.name = "fdbox",
	.devnode = fdbox_devnode,
};

static void fdbox_node_release(struct device *dev)
{
	struct fdbox_node *node = container_of(dev, struct fdbox_node, dev);

	ida_free(&fdbox_minors, MINOR(dev->devt));
	fdbox_rs_box_put(node->box);
	kfree(node->name);
	kfree(node);
}

/*
 * Checked only on open: a process that is passed the descriptor may use the
 * box. An LSM with labels has checked that of the node before. SELinux checks it
 * again at each ioctl, also if it had no policy when the node was opened.
 */
static int fdbox_open(struct inode *inode, struct file *filp)
{
	struct fdbox_node *node = container_of(inode->i_cdev, struct fdbox_node, cdev);
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = fdbox_rs_box_open(node->box);
	if (err)
		return err;
	/* The open file holds the cdev, which holds the node. */
	filp->private_data = node;
	return nonseekable_open(inode, filp);
}

static long fdbox_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct fdbox_node *node = filp->private_data;

	return fdbox_rs_box_ioctl(node->box, filp, cmd, arg);
}

static const struct file_operations fdbox_fops = {
	.owner = THIS_MODULE,
	.open = fdbox_open,
	.unlocked_ioctl = fdbox_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

u32 fdbox_shim_max_boxes(void)
{
	return min(READ_ONCE(max_boxes), FDBOX_MAX_BOXES);
}

u32 fdbox_shim_max_fds(void)
{
	return min(READ_ONCE(max_fds), FDBOX_MAX_FDS);
}

bool fdbox_shim_ignore_labels(void)
{
	return READ_ONCE(ignore_labels);
}

static int fdbox_lsm_event(struct notifier_block *nb, unsigned long event, void *data)
{
	if (event == LSM_POLICY_CHANGE)
		fdbox_rs_policy_changed();
	return NOTIFY_OK;
}

static struct notifier_block fdbox_lsm_notifier = {
	.notifier_call = fdbox_lsm_event,
};

/* Mounts the devtmpfs instance in which the kernel creates the nodes. */
static struct vfsmount *fdbox_mount_devtmpfs(void)
{
	struct file_system_type *type;

	if (!IS_ENABLED(CONFIG_DEVTMPFS))
		return NULL;
	/* It is built in: no reference to drop. */
	type = get_fs_type("devtmpfs");
	return type ? kern_mount(type) : NULL;
}

int fdbox_shim_nodes_init(void)
{
	struct vfsmount *devtmpfs = fdbox_mount_devtmpfs();
	int err;

	if (IS_ERR(devtmpfs))
		return PTR_ERR(devtmpfs);
	err = alloc_chrdev_region(&fdbox_devt, 0, FDBOX_MAX_BOXES, "fdbox");
	if (err)
		goto unmount;
	err = class_register(&fdbox_class);
	if (err)
		goto unregister;
	err = register_blocking_lsm_notifier(&fdbox_lsm_notifier);
	if (err)
		goto unregister_class;
	fdbox_devtmpfs = devtmpfs;
	return 0;

unregister_class:
	class_unregister(&fdbox_class);
unregister:
	unregister_chrdev_region(fdbox_devt, FDBOX_MAX_BOXES);
unmount:
	if (devtmpfs)
		kern_unmount(devtmpfs);
	return err;
}

void fdbox_shim_nodes_exit(void)
{
	unregister_blocking_lsm_notifier(&fdbox_lsm_notifier);
	if (fdbox_devtmpfs)
		kern_unmount(fdbox_devtmpfs);
	class_unregister(&fdbox_class);
	unregister_chrdev_region(fdbox_devt, FDBOX_MAX_BOXES);
	ida_destroy(&fdbox_minors);
}

/* Takes over the caller's reference to @box, on failure too. */
struct fdbox_node *fdbox_shim_node_create(const char *name, void *box,
					  u32 mode, u32 uid, u32 gid)
{
	struct fdbox_node *node;
	int minor, err;

	node = kzalloc_obj(*node);
	if (!node) {
		fdbox_rs_box_put(box);
		return ERR_PTR(-ENOMEM);
	}

	minor = ida_alloc_max(&fdbox_minors, FDBOX_MAX_BOXES - 1, GFP_KERNEL);
	if (minor < 0) {
		kfree(node);
		fdbox_rs_box_put(box);
		return ERR_PTR(minor);
	}

	/* From here on fdbox_node_release() cleans up. */
	device_initialize(&node->dev);
	node->dev.class = &fdbox_class;
	node->dev.type = &fdbox_node_type;
	node->dev.devt = MKDEV(MAJOR(fdbox_devt), MINOR(fdbox_devt) + minor);
	node->dev.release = fdbox_node_release;
	node->box = box;
	node->mode = mode & 0777;
	node->uid = make_kuid(&init_user_ns, uid);
	node->gid = make_kgid(&init_user_ns, gid);
	cdev_init(&node->cdev, &fdbox_fops);
	node->cdev.owner = THIS_MODULE;

	err = -ENOMEM;
	node->name = kstrdup(name, GFP_KERNEL);
	if (!node->name)
		goto put;
	/* Not the box's name: sysfs is stricter than /dev about characters. */
	err = dev_set_name(&node->dev, "box%d", minor);
	if (err)
		goto put;
	err = cdev_device_add(&node->cdev, &node->dev);
	if (err)
		goto put;
	return node;

put:
	put_device(&node->dev);
	return ERR_PTR(err);
}

/* Open files stay usable; the box returns -ENODEV. */
void fdbox_shim_node_destroy(struct fdbox_node *node)
{
	cdev_device_del(&node->cdev, &node->dev);
	put_device(&node->dev);
}

struct fdbox_node *fdbox_shim_node_of(struct file *filp)
{
	return filp->private_data;
}
