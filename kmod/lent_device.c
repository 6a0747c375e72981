// SPDX-License-Identifier: GPL-2.0
/*
 * A file of a PCI device that belongs to the host, in the boat. The boat has no PCI
 * and no IOMMU: the file has the registers of the device, and nothing else of it.
 *
 * It is used as a VFIO device without interrupts, with regions at the places that
 * vfio-pci gives them: the BARs, which can be mapped, and configuration space, in
 * which only the command register and the control of MSI-X can be written. A user
 * gets the device's interrupts by having them written to memory: the MSI-X table,
 * in a BAR, can have any address that the IOMMU translates for the device.
 *
 * When the box goes back to the host the file is revoked: mappings are removed,
 * KVM's among them, and accesses raise SIGBUS from then on.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/pci_regs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include "lent.h"
#include "shim.h"

/* As vfio-pci has it. */
#define FDBOX_REGION_SHIFT	40
#define FDBOX_REGIONS		(VFIO_PCI_CONFIG_REGION_INDEX + 1)

#define FDBOX_CONFIG_LEN	4096

/* As many capabilities as fit. */
#define FDBOX_MAX_CAPS		48

struct fdbox_lent_region {
	u64 phys;
	u64 size;
	void __iomem *at;
};

struct fdbox_lent_device {
	struct fdbox_lent_region regions[FDBOX_REGIONS];
	u8 msix_cap;		/* 0: there is none */
	/* Protected by the mapping's invalidate lock. */
	bool is_revoked;
};

static const struct fdbox_lent_region *fdbox_region(const struct fdbox_lent_device *lent,
						    u64 index)
{
	return index < FDBOX_REGIONS ? &lent->regions[index] : NULL;
}

static vm_fault_t fdbox_device_insert(struct vm_fault *vmf)
{
	const struct fdbox_lent_device *lent = vmf->vma->vm_file->private_data;
	u64 offset = (u64)vmf->pgoff << PAGE_SHIFT;
	const struct fdbox_lent_region *region;

	/* What mmap() has let through. */
	region = fdbox_region(lent, offset >> FDBOX_REGION_SHIFT);
	offset &= BIT_ULL(FDBOX_REGION_SHIFT) - 1;
	if (lent->is_revoked || !region || offset >= region->size)
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn(vmf->vma, vmf->address, PHYS_PFN(region->phys + offset));
}

static vm_fault_t fdbox_device_fault(struct vm_fault *vmf)
{
	struct address_space *mapping = vmf->vma->vm_file->f_mapping;
	vm_fault_t result;

	filemap_invalidate_lock_shared(mapping);
	result = fdbox_device_insert(vmf);
	filemap_invalidate_unlock_shared(mapping);
	return result;
}

static const struct vm_operations_struct fdbox_device_vm_ops = {
	.fault = fdbox_device_fault,
};

/* Only whole pages of a BAR: what else is in a page may belong to another device. */
static int fdbox_device_mmap(struct file *file, struct vm_area_struct *vma)
{
	const u64 shift = FDBOX_REGION_SHIFT - PAGE_SHIFT;
	u64 index = vma->vm_pgoff >> shift;
	u64 first = vma->vm_pgoff & (BIT_ULL(shift) - 1);
	const struct fdbox_lent_region *region = fdbox_region(file->private_data, index);
	u64 pages;

	if (!region || index > VFIO_PCI_BAR5_REGION_INDEX || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	pages = region->size >> PAGE_SHIFT;
	if (first > pages || vma_pages(vma) > pages - first)
		return -EINVAL;
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &fdbox_device_vm_ops;
	return 0;
}

/* The size of the largest access at this offset, at most 4 bytes. */
static size_t fdbox_access_size(u64 offset, size_t left)
{
	size_t size = 4;

	while (size > left || !IS_ALIGNED(offset, size))
		size /= 2;
	return size;
}

static u32 fdbox_read_register(const void __iomem *at, size_t size)
{
	switch (size) {
	case 4:
		return ioread32(at);
	case 2:
		return ioread16(at);
	default:
		return ioread8(at);
	}
}

static void fdbox_write_register(void __iomem *at, size_t size, u32 value)
{
	switch (size) {
	case 4:
		iowrite32(value, at);
		break;
	case 2:
		iowrite16(value, at);
		break;
	default:
		iowrite8(value, at);
	}
}

/* Whether a write to configuration space has an effect. */
static bool fdbox_may_configure(const struct fdbox_lent_device *lent, u64 offset, size_t size)
{
	if (size != 2)
		return false;
	return offset == PCI_COMMAND ||
	       (lent->msix_cap && offset == lent->msix_cap + PCI_MSIX_FLAGS);
}

/* One access, unless the file was revoked. */
static int fdbox_device_access(struct file *file, u64 index, u64 offset, size_t size,
			       u32 *value, bool writes)
{
	const struct fdbox_lent_device *lent = file->private_data;
	void __iomem *at = lent->regions[index].at + offset;
	int err = 0;

	filemap_invalidate_lock_shared(file->f_mapping);
	if (lent->is_revoked)
		err = -EIO;
	else if (!writes)
		*value = fdbox_read_register(at, size);
	else if (index != VFIO_PCI_CONFIG_REGION_INDEX ||
		 fdbox_may_configure(lent, offset, size))
		fdbox_write_register(at, size, *value);
	filemap_invalidate_unlock_shared(file->f_mapping);
	return err;
}

static ssize_t fdbox_device_transfer(struct file *file, char __user *buf, size_t count,
				     loff_t *pos, bool writes)
{
	u64 index = (u64)*pos >> FDBOX_REGION_SHIFT;
	u64 offset = (u64)*pos & (BIT_ULL(FDBOX_REGION_SHIFT) - 1);
	const struct fdbox_lent_region *region = fdbox_region(file->private_data, index);
	size_t done = 0, size;
	u32 value = 0;
	int err;

	if (!region || offset > region->size || count > region->size - offset)
		return -EINVAL;
	while (done < count) {
		size = fdbox_access_size(offset + done, count - done);
		if (writes && copy_from_user(&value, buf + done, size))
			return -EFAULT;
		err = fdbox_device_access(file, index, offset + done, size, &value, writes);
		if (err)
			return err;
		if (!writes && copy_to_user(buf + done, &value, size))
			return -EFAULT;
		done += size;
	}
	*pos += done;
	return done;
}

static ssize_t fdbox_device_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	return fdbox_device_transfer(file, buf, count, pos, false);
}

static ssize_t fdbox_device_write(struct file *file, const char __user *buf, size_t count,
				  loff_t *pos)
{
	return fdbox_device_transfer(file, (char __user *)buf, count, pos, true);
}

static long fdbox_region_info(const struct fdbox_lent_device *lent,
			      struct vfio_region_info __user *arg)
{
	const size_t len = offsetofend(struct vfio_region_info, offset);
	struct vfio_region_info info;
	u32 index;

	if (copy_from_user(&info, arg, len))
		return -EFAULT;
	if (info.argsz < len || info.index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	index = info.index;
	info = (struct vfio_region_info) {
		.argsz = len,
		.index = index,
		.offset = (u64)index << FDBOX_REGION_SHIFT,
	};
	if (index < FDBOX_REGIONS && lent->regions[index].size) {
		info.size = lent->regions[index].size;
		info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
		if (index <= VFIO_PCI_BAR5_REGION_INDEX && info.size >= PAGE_SIZE)
			info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
	}
	return copy_to_user(arg, &info, len) ? -EFAULT : 0;
}

static long fdbox_device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return cmd == VFIO_DEVICE_GET_REGION_INFO ?
	       fdbox_region_info(file->private_data, (void __user *)arg) : -ENOTTY;
}

static void fdbox_device_free(struct fdbox_lent_device *lent)
{
	int i;

	for (i = 0; i < FDBOX_REGIONS; i++) {
		if (lent->regions[i].at)
			iounmap(lent->regions[i].at);
	}
	kfree(lent);
}

static int fdbox_device_release(struct inode *inode, struct file *file)
{
	fdbox_device_free(file->private_data);
	return 0;
}

static const struct file_operations fdbox_device_fops = {
	.owner = THIS_MODULE,
	.mmap = fdbox_device_mmap,
	.read = fdbox_device_read,
	.write = fdbox_device_write,
	.unlocked_ioctl = fdbox_device_ioctl,
	.llseek = noop_llseek,
	.release = fdbox_device_release,
};

static int fdbox_region_map(struct fdbox_lent_region *region, u64 phys, u64 size)
{
	if (!size)
		return 0;
	if (!fdbox_may_be_hosts(phys, size))
		return -EIO;
	region->at = ioremap(phys, size);
	if (!region->at)
		return -ENOMEM;
	region->phys = phys;
	region->size = size;
	return 0;
}

static u8 fdbox_find_msix(const void __iomem *config)
{
	int left = FDBOX_MAX_CAPS;
	u8 at;

	if (!(ioread16(config + PCI_STATUS) & PCI_STATUS_CAP_LIST))
		return 0;
	at = ioread8(config + PCI_CAPABILITY_LIST) & ~3;
	while (at >= PCI_STD_HEADER_SIZEOF && left--) {
		if (ioread8(config + at + PCI_CAP_LIST_ID) == PCI_CAP_ID_MSIX)
			return at;
		at = ioread8(config + at + PCI_CAP_LIST_NEXT) & ~3;
	}
	return 0;
}

static struct fdbox_lent_device *fdbox_device_new(const struct fdbox_registers *registers)
{
	struct fdbox_lent_device *lent = kzalloc_obj(*lent);
	struct fdbox_lent_region *config;
	int i, err;

	if (!lent)
		return ERR_PTR(-ENOMEM);
	config = &lent->regions[VFIO_PCI_CONFIG_REGION_INDEX];
	err = fdbox_region_map(config, registers->config, FDBOX_CONFIG_LEN);
	for (i = 0; !err && i < ARRAY_SIZE(registers->bars); i++)
		err = fdbox_region_map(&lent->regions[i], registers->bars[i].start,
				       registers->bars[i].length);
	if (err) {
		fdbox_device_free(lent);
		return ERR_PTR(err);
	}
	lent->msix_cap = fdbox_find_msix(config->at);
	return lent;
}

/* A file of the device that has these registers. */
struct file *fdbox_shim_lent_device_create(const struct fdbox_registers *registers)
{
	struct fdbox_lent_device *lent = fdbox_device_new(registers);
	struct file *file;

	if (IS_ERR(lent))
		return ERR_CAST(lent);
	file = anon_inode_create_getfile("vfio-pci", &fdbox_device_fops, lent, O_RDWR, NULL);
	if (IS_ERR(file)) {
		fdbox_device_free(lent);
		return file;
	}
	file->f_mode |= FMODE_PREAD | FMODE_PWRITE;
	return file;
}

bool fdbox_is_lent_device(struct file *file)
{
	return file->f_op == &fdbox_device_fops;
}

void fdbox_lent_device_revoke(struct file *file)
{
	struct fdbox_lent_device *lent = file->private_data;

	filemap_invalidate_lock(file->f_mapping);
	lent->is_revoked = true;
	filemap_invalidate_unlock(file->f_mapping);
	unmap_mapping_range(file->f_mapping, 0, 0, 1);
}
