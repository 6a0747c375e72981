// SPDX-License-Identifier: GPL-2.0
/*
 * Sample driver whose files can be put into a box. Each open file of
 * /dev/fdbox_sample has up to one page of state, which write() sets and read()
 * returns, and which is preserved across a kexec.
 *
 * Preserved: the state. Not preserved: the file position, and the file that it
 * depends on.
 *
 * While it is sealed, the length of the state cannot change. Its content can.
 */
#include <linux/anon_inodes.h>
#include <linux/fdbox.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/ioctl.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/slab.h>

/*
 * What is saved in addition to the folio. The compatible string identifies this
 * layout.
 */
#define SAMPLE_COMPATIBLE "fdbox,sample-v1"
struct sample_state {
	__le32 len;
};

/* The argument is a descriptor of a file, which must be in the same box for SEAL. */
#define SAMPLE_NEEDS	_IO('.', 0x80)

/* For tests: a driver that saves more than is allowed, or than it can read. */
static unsigned int excess;
module_param(excess, uint, 0600);
MODULE_PARM_DESC(excess, "bytes to save beyond the state (default 0); restore refuses them");

/* For tests: pages that a driver saves and does not restore. */
static unsigned int spare;
module_param(spare, uint, 0600);
MODULE_PARM_DESC(spare, "blocks of 2 MiB to save beside the state (default 0); restore leaves them");

static bool keep;
module_param(keep, bool, 0600);
MODULE_PARM_DESC(keep, "whether files that are sealed are not given back (default no)");

/* An open file. */
struct sample_file {
	struct mutex lock;	/* protects the rest */
	struct folio *folio;
	size_t len;		/* of the state, in bytes */
	struct file *needed;	/* must be in the same box; may be NULL */
	bool frozen;		/* sealed: the length must not change */
};

/* Takes over the reference to @folio on success. */
static struct sample_file *sample_new(struct folio *folio, size_t len)
{
	struct sample_file *sample = kzalloc_obj(*sample);

	if (!sample)
		return NULL;
	mutex_init(&sample->lock);
	sample->folio = folio;
	sample->len = len;
	return sample;
}

static int sample_open(struct inode *inode, struct file *file)
{
	struct folio *folio = folio_alloc(GFP_KERNEL | __GFP_ZERO, 0);

	if (!folio)
		return -ENOMEM;
	file->private_data = sample_new(folio, 0);
	if (!file->private_data) {
		folio_put(folio);
		return -ENOMEM;
	}
	return 0;
}

static int sample_release(struct inode *inode, struct file *file)
{
	struct sample_file *sample = file->private_data;

	if (sample->needed)
		fput(sample->needed);
	if (sample->folio)
		folio_put(sample->folio);
	kfree(sample);
	return 0;
}

static ssize_t sample_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	struct sample_file *sample = file->private_data;

	guard(mutex)(&sample->lock);
	return simple_read_from_buffer(buf, len, pos, folio_address(sample->folio),
				       sample->len);
}

/* Replaces the state and ignores the position. A sealed file must keep its length. */
static ssize_t sample_write(struct file *file, const char __user *buf, size_t len,
			    loff_t *pos)
{
	struct sample_file *sample = file->private_data;

	guard(mutex)(&sample->lock);
	if (len > folio_size(sample->folio))
		return -ENOSPC;
	if (sample->frozen && len != sample->len)
		return -EBUSY;
	if (copy_from_user(folio_address(sample->folio), buf, len))
		return -EFAULT;
	sample->len = len;
	*pos = 0;
	return len;
}

static const struct file_operations sample_fops;

/* Makes the file depend on one of another driver, so that there is no cycle. */
static long sample_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct sample_file *sample = file->private_data;
	struct file *needed;
	int err = 0;

	if (cmd != SAMPLE_NEEDS)
		return -ENOTTY;
	needed = fget(arg);
	if (!needed)
		return -EBADF;

	scoped_guard(mutex, &sample->lock) {
		if (sample->frozen)
			err = -EBUSY;
		else if (needed->f_op == &sample_fops)
			err = -EINVAL;
		else
			swap(sample->needed, needed);
	}
	if (needed)
		fput(needed);
	return err;
}

static const struct file_operations sample_fops = {
	.owner = THIS_MODULE,
	.open = sample_open,
	.release = sample_release,
	.llseek = default_llseek,
	.read = sample_read,
	.write = sample_write,
	.unlocked_ioctl = sample_ioctl,
};

/* The first step of SEAL. Changes nothing on failure. */
static int sample_seal(struct fdbox_fd *fd)
{
	struct sample_file *sample = fdbox_fd_file(fd)->private_data;
	int err = 0;

	guard(mutex)(&sample->lock);
	if (sample->frozen)
		return -EBUSY;
	if (sample->needed)
		err = fdbox_fd_needs(fd, sample->needed, "the file that was given by SAMPLE_NEEDS");
	sample->frozen = !err;
	return err;
}

/* Must not change anything, since another file may still refuse UNSEAL. */
static int sample_unseal(struct fdbox_fd *fd)
{
	if (READ_ONCE(keep))
		return fdbox_fd_refuse(fd, -EBUSY, "the driver's parameter keep is set; reset it");
	return 0;
}

static void sample_thaw(struct fdbox_fd *fd)
{
	struct sample_file *sample = fdbox_fd_file(fd)->private_data;

	guard(mutex)(&sample->lock);
	sample->frozen = false;
}

static int sample_write_excess(struct fdbox_fd *fd, size_t len)
{
	void *zeroes = kvzalloc(len, GFP_KERNEL);
	int err = zeroes ? fdbox_fd_write(fd, zeroes, len) : -ENOMEM;

	kvfree(zeroes);
	return err;
}

/* These folios are not freed before the next kernel does it. */
static int sample_preserve_spare(struct fdbox_fd *fd, unsigned int nr)
{
	struct folio *folio;
	int err = 0;

	while (nr-- && !err) {
		folio = folio_alloc(GFP_KERNEL | __GFP_COMP, get_order(SZ_2M));
		err = folio ? fdbox_fd_preserve(fd, folio) : -ENOMEM;
	}
	return err;
}

static u64 sample_bytes(struct file *file)
{
	const struct sample_file *sample = file->private_data;

	return folio_size(sample->folio);
}

/* The file is frozen, so its length cannot change. */
static int sample_kho_write(struct fdbox_fd *fd)
{
	struct sample_file *sample = fdbox_fd_file(fd)->private_data;
	struct sample_state state = { .len = cpu_to_le32(sample->len) };
	size_t len = READ_ONCE(excess);
	int err = fdbox_fd_write(fd, &state, sizeof(state));

	if (!err && len)
		err = sample_write_excess(fd, len);
	err = err ?: fdbox_fd_preserve(fd, sample->folio);
	return err ?: sample_preserve_spare(fd, READ_ONCE(spare));
}

/* Returns the saved state, or NULL if this version of the driver cannot read it. */
static const struct sample_state *sample_saved(struct fdbox_fd *fd)
{
	const struct sample_state *state;
	size_t len;

	state = fdbox_fd_data(fd, &len);
	return len == sizeof(*state) && le32_to_cpu(state->len) <= PAGE_SIZE ? state : NULL;
}

static int sample_check(struct fdbox_fd *fd)
{
	if (!sample_saved(fd))
		return fdbox_fd_refuse(fd, -EIO,
				       "another version of the driver saved it; load that");
	return 0;
}

static struct file *sample_restore(struct fdbox_fd *fd)
{
	const struct sample_state *state = sample_saved(fd);
	struct sample_file *sample;
	struct file *file;

	if (!state)
		return ERR_PTR(-EIO);

	sample = sample_new(NULL, le32_to_cpu(state->len));
	if (!sample)
		return ERR_PTR(-ENOMEM);
	file = anon_inode_getfile("fdbox_sample", &sample_fops, sample, O_RDWR);
	if (IS_ERR(file)) {
		kfree(sample);
		return file;
	}
	sample->folio = fdbox_fd_take_folio(fd);
	if (!sample->folio) {
		fput(file);
		return ERR_PTR(-EIO);
	}
	file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
	return file;
}

static const struct fdbox_file_ops sample_ops = {
	.kho_write = sample_kho_write,
	.seal = sample_seal,
	.unseal = sample_unseal,
	.thaw = sample_thaw,
	.bytes = sample_bytes,
};

static const struct fdbox_kind sample_kind = {
	.owner = THIS_MODULE,
	.compatible = SAMPLE_COMPATIBLE,
	.fops = &sample_fops,
	.ops = &sample_ops,
	.restore = sample_restore,
	.check = sample_check,
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
