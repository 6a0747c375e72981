// SPDX-License-Identifier: GPL-2.0
/*
 * A driver that enlightens its files: each open of /dev/fdbox_sample has one
 * page of state, set by write() and read by read(), that rides in a box and
 * across a kexec.
 *
 * Preserved: the state. Not preserved: the file position.
 */
#include <linux/anon_inodes.h>
#include <linux/fdbox.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

/* What crosses the kexec beside the folio; the string names this layout. */
#define SAMPLE_COMPATIBLE "fdbox,sample-v1"
struct sample_state {
	__le32 len;
};

/* For tests: what becomes of a driver that saves more than it may, or than it reads. */
static unsigned int excess;
module_param(excess, uint, 0600);
MODULE_PARM_DESC(excess, "bytes to save beyond the state (default 0); restore refuses them");

/* The page's length in use is in folio->private. */
static struct folio *sample_folio(struct file *file)
{
	return file->private_data;
}

static int sample_open(struct inode *inode, struct file *file)
{
	struct folio *folio = folio_alloc(GFP_KERNEL | __GFP_ZERO, 0);

	if (!folio)
		return -ENOMEM;
	folio->private = NULL;
	file->private_data = folio;
	return 0;
}

static int sample_release(struct inode *inode, struct file *file)
{
	struct folio *folio = sample_folio(file);

	folio->private = NULL;
	folio_put(folio);
	return 0;
}

static ssize_t sample_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	struct folio *folio = sample_folio(file);

	return simple_read_from_buffer(buf, len, pos, folio_address(folio),
				       (unsigned long)folio->private);
}

/* Replaces the state, whatever the position. */
static ssize_t sample_write(struct file *file, const char __user *buf, size_t len,
			    loff_t *pos)
{
	struct folio *folio = sample_folio(file);

	if (len > folio_size(folio))
		return -ENOSPC;
	if (copy_from_user(folio_address(folio), buf, len))
		return -EFAULT;
	folio->private = (void *)len;
	*pos = 0;
	return len;
}

static const struct file_operations sample_fops = {
	.owner = THIS_MODULE,
	.open = sample_open,
	.release = sample_release,
	.llseek = default_llseek,
	.read = sample_read,
	.write = sample_write,
};

static int sample_write_excess(struct fdbox_fd *fd, size_t len)
{
	void *zeroes = kvzalloc(len, GFP_KERNEL);
	int err = zeroes ? fdbox_fd_write(fd, zeroes, len) : -ENOMEM;

	kvfree(zeroes);
	return err;
}

static int sample_kho_write(struct fdbox_fd *fd)
{
	struct folio *folio = sample_folio(fdbox_fd_file(fd));
	struct sample_state state = {
		.len = cpu_to_le32((unsigned long)folio->private),
	};
	size_t len = READ_ONCE(excess);
	int err = fdbox_fd_write(fd, &state, sizeof(state));

	if (!err && len)
		err = sample_write_excess(fd, len);
	return err ?: fdbox_fd_preserve(fd, folio);
}

static struct file *sample_restore(struct fdbox_fd *fd)
{
	const struct sample_state *state;
	struct file *file;
	struct folio *folio;
	size_t len;

	state = fdbox_fd_data(fd, &len);
	if (len != sizeof(*state) || le32_to_cpu(state->len) > PAGE_SIZE)
		return ERR_PTR(-EIO);

	file = anon_inode_getfile("fdbox_sample", &sample_fops, NULL, O_RDWR);
	if (IS_ERR(file))
		return file;

	folio = fdbox_fd_take_folio(fd);
	if (!folio) {
		/* Release wants a folio. */
		file->private_data = folio_alloc(GFP_KERNEL | __GFP_NOFAIL, 0);
		fput(file);
		return ERR_PTR(-EIO);
	}
	folio->private = (void *)(unsigned long)le32_to_cpu(state->len);
	file->private_data = folio;
	file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
	return file;
}

static const struct fdbox_file_ops sample_ops = {
	.kho_write = sample_kho_write,
};

static const struct fdbox_kind sample_kind = {
	.owner = THIS_MODULE,
	.compatible = SAMPLE_COMPATIBLE,
	.fops = &sample_fops,
	.ops = &sample_ops,
	.restore = sample_restore,
};

static struct miscdevice sample_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fdbox_sample",
	.fops = &sample_fops,
	.mode = 0600,
};

static int __init sample_init(void)
{
	int err = fdbox_register_kind(&sample_kind);

	if (err)
		return err;
	err = misc_register(&sample_device);
	if (err)
		fdbox_unregister_kind(&sample_kind);
	return err;
}
module_init(sample_init);

static void __exit sample_exit(void)
{
	misc_deregister(&sample_device);
	fdbox_unregister_kind(&sample_kind);
}
module_exit(sample_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The FDBox developers");
MODULE_DESCRIPTION("Sample of a driver whose files ride in an FDBox box");
