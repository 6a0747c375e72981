// SPDX-License-Identifier: GPL-2.0
/*
 * Who may open the device node of a box: its mode, owner and security label, as
 * they are in devtmpfs.
 */
#include <linux/dcache.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/security.h>
#include <linux/string.h>
#include <uapi/linux/lsm.h>

#include "node.h"
#include "shim.h"

static bool fdbox_is_of_node(const struct fdbox_node *node, struct dentry *dentry)
{
	const struct inode *inode = d_inode(dentry);

	return S_ISCHR(inode->i_mode) && inode->i_rdev == node->dev.devt;
}

/*
 * The dentry of the node in devtmpfs, not of another node with the same number.
 * It does not exist if there is no devtmpfs, or if the node was replaced.
 */
static struct dentry *fdbox_node_dentry(const struct fdbox_node *node)
{
	struct dentry *dir, *dentry;

	if (!fdbox_devtmpfs)
		return ERR_PTR(-ENOENT);
	dir = lookup_noperm_positive_unlocked(&QSTR("fdbox"), fdbox_devtmpfs->mnt_root);
	if (IS_ERR(dir))
		return dir;
	dentry = lookup_noperm_positive_unlocked(&QSTR(node->name), dir);
	dput(dir);
	if (IS_ERR(dentry) || fdbox_is_of_node(node, dentry))
		return dentry;
	dput(dentry);
	return ERR_PTR(-ENOENT);
}

/*
 * Current mode and owner of the node. Returns false, without writing anything, if
 * it does not exist.
 */
bool fdbox_shim_node_owner(struct fdbox_node *node, u32 *mode, u32 *uid, u32 *gid)
{
	struct dentry *dentry = fdbox_node_dentry(node);
	struct inode *inode;

	if (IS_ERR(dentry))
		return false;
	inode = d_inode(dentry);
	*mode = inode->i_mode & 0777;
	*uid = from_kuid_munged(&init_user_ns, inode->i_uid);
	*gid = from_kgid_munged(&init_user_ns, inode->i_gid);
	dput(dentry);
	return true;
}

/* Releases what fdbox_shim_node_label() has returned. */
void fdbox_shim_label_release(struct fdbox_label *label)
{
	struct lsm_context context = {
		.context = label->text,
		.len = label->len,
		.id = label->lsm,
	};

	security_release_secctx(&context);
}

/* Fails with -EOPNOTSUPP if no LSM labels the inode. */
static int fdbox_inode_label(struct inode *inode, struct fdbox_label *label)
{
	struct lsm_context context;
	int err;

	err = security_inode_getsecctx(inode, &context);
	if (err)
		return err;
	label->text = context.context;
	/* Some LSMs count the NUL. */
	label->len = strnlen(context.context, context.len);
	label->lsm = context.id;
	/* Before it has a policy, SELinux returns the name of an initial SID. */
	if (label->len &&
	    (label->lsm != LSM_ID_SELINUX || memchr(label->text, ':', label->len)))
		return 0;
	fdbox_shim_label_release(label);
	return -EOPNOTSUPP;
}

/*
 * The security label of the node, to be released. Fails with -ENOENT if the node
 * does not exist, with -EOPNOTSUPP if no LSM labels it.
 */
int fdbox_shim_node_label(struct fdbox_node *node, struct fdbox_label *label)
{
	struct dentry *dentry = fdbox_node_dentry(node);
	int err;

	if (IS_ERR(dentry))
		return PTR_ERR(dentry);
	err = fdbox_inode_label(d_inode(dentry), label);
	dput(dentry);
	return err;
}

static int fdbox_label_inode(struct inode *inode, const struct fdbox_label *label)
{
	struct fdbox_label now;
	int err;

	err = fdbox_inode_label(inode, &now);
	if (err)
		return err;
	fdbox_shim_label_release(&now);
	if (now.lsm != label->lsm)
		return -EINVAL;
	err = security_inode_notifysecctx(inode, label->text, label->len);
	if (err)
		return err;
	/* An LSM that gives all inodes of a mount one label ignores it. */
	err = fdbox_inode_label(inode, &now);
	if (err)
		return err;
	if (now.len != label->len || memcmp(now.text, label->text, now.len))
		err = -EOPNOTSUPP;
	fdbox_shim_label_release(&now);
	return err;
}

/*
 * Labels the node. Fails as above, and with another error if the LSM does not
 * accept the label.
 */
int fdbox_shim_node_set_label(struct fdbox_node *node, const struct fdbox_label *label)
{
	struct dentry *dentry = fdbox_node_dentry(node);
	struct inode *inode;
	int err;

	if (IS_ERR(dentry))
		return PTR_ERR(dentry);
	inode = d_inode(dentry);
	inode_lock(inode);
	err = fdbox_label_inode(inode, label);
	inode_unlock(inode);
	dput(dentry);
	return err;
}
