// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO PCI devices, through functions that kmod/patches adds. In a kernel
 * without the patches the kind is not supported. vfio.ko may be loaded after
 * this module: see optional.h.
 */
#include <linux/acpi.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/iommufd.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/pci-ecam.h>
#include <linux/pci.h>
#include <linux/vfio.h>

#include "optional.h"
#include "passthrough.h"
#include "shim.h"

#ifdef FDBOX_PASSTHROUGH

#include <linux/vfio_pci_core.h>

enum fdbox_lacks fdbox_shim_vfio_lacks(void)
{
	enum fdbox_lacks lacks = fdbox_shim_iommufd_lacks();

	if (lacks)
		return lacks;
	return fdbox_has(vfio_device_open_bound) ? FDBOX_LACKS_NOTHING : FDBOX_LACKS_MODULE;
}

/* The device behind @file, if its driver is vfio-pci itself. */
static struct vfio_device *fdbox_vfio_device(struct file *file)
{
	struct vfio_device *vdev = vfio_device_file_device(file);

	if (!vdev || !dev_is_pci(vdev->dev) || strcmp(vdev->dev->driver->name, "vfio-pci"))
		return NULL;
	return vdev;
}

bool fdbox_shim_is_vfio_pci(struct file *file)
{
	return fdbox_vfio_device(file);
}

void *fdbox_shim_vfio_iommufd(struct file *file)
{
	return vfio_iommufd_device_ictx(fdbox_vfio_device(file));
}

static int fdbox_another(struct device *dev, void *data)
{
	return dev != data;
}

int fdbox_shim_vfio_where(struct file *file, struct fdbox_vfio_binding *binding)
{
	struct vfio_device *vdev = fdbox_vfio_device(file);
	struct pci_dev *pdev = to_pci_dev(vdev->dev);
	struct iommufd_attachment at;
	struct iommu_group *group;
	int err;

	err = iommufd_device_attachment(vdev->iommufd_device, &at);
	if (err)
		return err;
	group = iommu_group_get(vdev->dev);
	if (!group)
		return -EOPNOTSUPP;
	err = iommu_group_for_each_dev(group, vdev->dev, fdbox_another);
	iommu_group_put(group);
	if (err)
		return -EOPNOTSUPP;
	*binding = (struct fdbox_vfio_binding) {
		.segment = pci_domain_nr(pdev->bus),
		.bdf = pci_dev_id(pdev),
		.device = at.device_id,
		.hwpt = at.hwpt_id,
		.ioas = at.ioas_id,
		.auto_domain = at.auto_domain,
	};
	return 0;
}

/* Where ACPI says that the configuration space of a device is; 0 if it does not. */
static u64 fdbox_config_space(struct pci_dev *pdev)
{
	struct acpi_mcfg_allocation *at, *end;
	struct acpi_table_header *mcfg;
	u8 bus = pdev->bus->number;
	u64 config = 0;

	if (ACPI_FAILURE(acpi_get_table(ACPI_SIG_MCFG, 0, &mcfg)))
		return 0;
	at = (void *)((struct acpi_table_mcfg *)mcfg + 1);
	end = (void *)mcfg + mcfg->length;
	for (; at + 1 <= end; at++) {
		/* The address is that of bus 0, even if that is not among them. */
		if (at->pci_segment == pci_domain_nr(pdev->bus) &&
		    at->start_bus_number <= bus && bus <= at->end_bus_number)
			config = at->address + PCIE_ECAM_OFFSET(bus, pdev->devfn, 0);
	}
	acpi_put_table(mcfg);
	return config;
}

/* Where the registers of a device are, for a boat that has the device's guest. */
void fdbox_shim_vfio_registers(struct file *file, struct fdbox_registers *registers)
{
	struct pci_dev *pdev = to_pci_dev(fdbox_vfio_device(file)->dev);
	int i;

	*registers = (struct fdbox_registers) { .config = fdbox_config_space(pdev) };
	for (i = 0; i < ARRAY_SIZE(registers->bars); i++) {
		u64 start = pci_resource_start(pdev, i), length = pci_resource_len(pdev, i);

		/*
		 * BARs are aligned to their size. What a device has instead of one
		 * (Enhanced Allocation) need not be, and the next kernel would refuse
		 * the device if it were told here.
		 */
		if (!(pci_resource_flags(pdev, i) & IORESOURCE_MEM) || !start ||
		    !is_power_of_2(length) || !IS_ALIGNED(start, length))
			continue;
		registers->bars[i].start = start;
		registers->bars[i].length = length;
	}
}

static struct pci_dev *fdbox_pci_dev(u32 segment, u32 bdf)
{
	return pci_get_domain_bus_and_slot(segment, PCI_BUS_NUM(bdf), bdf & 0xff);
}

/* Calls @table with the address of each table that translates for a device. */
int fdbox_shim_vfio_tables(u32 segment, u32 bdf, int (*visit)(u64 table, void *data),
			   void *data)
{
	struct pci_dev *pdev = fdbox_pci_dev(segment, bdf);
	int err;

	if (!pdev)
		return -ENODEV;
	/* Each refuses the devices of the other at once. */
	err = intel_iommu_keep(pdev, visit, data);
	if (err == -EOPNOTSUPP)
		err = amd_iommu_keep(pdev, visit, data);
	pci_dev_put(pdev);
	return err;
}

int fdbox_shim_vfio_keep(u32 segment, u32 bdf)
{
	struct pci_dev *pdev = fdbox_pci_dev(segment, bdf);
	int err;

	if (!pdev)
		return -ENODEV;
	err = pci_keep(pdev);
	pci_dev_put(pdev);
	return err;
}

/* Whether the device still does DMA as set up by the last kernel. */
bool fdbox_shim_vfio_waits(u32 segment, u32 bdf)
{
	struct pci_dev *pdev = fdbox_pci_dev(segment, bdf);
	bool waits = pdev && pci_dev_waits(&pdev->dev);

	pci_dev_put(pdev);
	return waits;
}

void fdbox_shim_vfio_unkeep(u32 segment, u32 bdf)
{
	struct pci_dev *pdev = fdbox_pci_dev(segment, bdf);

	if (!pdev)
		return;
	pci_unkeep(pdev);
	pci_dev_put(pdev);
}

static struct file *fdbox_vfio_open(struct pci_dev *pdev, struct iommufd_ctx *ctx,
				    const struct fdbox_vfio_binding *binding)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);
	struct iommufd_attachment at = {
		.device_id = binding->device,
		.hwpt_id = binding->hwpt,
		.ioas_id = binding->ioas,
		.auto_domain = binding->auto_domain,
	};
	struct vfio_device *vdev = &core->vdev;
	struct file *file;
	int err;

	iommufd_restore_id(ctx, at.device_id);
	file = vfio_device_open_bound(vdev, ctx);
	iommufd_restore_id(ctx, 0);
	pci_adopt_done(pdev, !IS_ERR(file));
	if (IS_ERR(file))
		return file;
	err = iommufd_restore_hwpt(vdev->iommufd_device, &at);
	if (!err) {
		mutex_lock(&vdev->dev_set->lock);
		err = vdev->ops->attach_ioas(vdev, &at.hwpt_id);
		mutex_unlock(&vdev->dev_set->lock);
	}
	if (err) {
		/* Closing does so, too, but later. */
		pci_clear_master(pdev);
		pci_err(pdev, "cannot go on where it was (%d), stopped\n", err);
		fput(file);
		return ERR_PTR(err);
	}
	return file;
}

/*
 * Opens a device that still does DMA as set up by the last kernel, bound and
 * attached as before. After an error before the device was claimed, it still
 * waits. After a later error it is stopped, and is an ordinary device.
 */
struct file *fdbox_shim_vfio_adopt(void *ctx, const struct fdbox_vfio_binding *binding)
{
	struct pci_dev *pdev = fdbox_pci_dev(binding->segment, binding->bdf);
	struct file *file;
	int err;

	if (!pdev)
		return ERR_PTR(-ENODEV);
	/* Keeps its driver bound until the file holds the device. */
	device_lock(&pdev->dev);
	err = -ENODEV;
	if (!pdev->driver || strcmp(pdev->driver->name, "vfio-pci"))
		goto out;
	err = iommufd_ctx_freeze(ctx);
	if (err)
		goto out;
	err = pci_adopt(pdev);
	if (err)
		goto out_thaw;
	file = fdbox_vfio_open(pdev, ctx, binding);
	iommufd_ctx_thaw(ctx);
	device_unlock(&pdev->dev);
	pci_dev_put(pdev);
	return file;

out_thaw:
	iommufd_ctx_thaw(ctx);
out:
	device_unlock(&pdev->dev);
	pci_dev_put(pdev);
	return ERR_PTR(err);
}

/* Stops a device that is not taken over, unless it was stopped before. */
void fdbox_shim_vfio_stop(u32 segment, u32 bdf)
{
	struct pci_dev *pdev = fdbox_pci_dev(segment, bdf);

	if (!pdev)
		return;
	pci_stop_arrived(pdev);
	pci_dev_put(pdev);
}

#else

enum fdbox_lacks fdbox_shim_vfio_lacks(void)
{
	return FDBOX_LACKS_PATCH;
}

/* Enough to report what is missing. */
bool fdbox_shim_is_vfio_pci(struct file *file)
{
	return vfio_file_is_valid(file);
}

void *fdbox_shim_vfio_iommufd(struct file *file)
{
	return NULL;
}

int fdbox_shim_vfio_where(struct file *file, struct fdbox_vfio_binding *binding)
{
	return -EOPNOTSUPP;
}

void fdbox_shim_vfio_registers(struct file *file, struct fdbox_registers *registers)
{
	*registers = (struct fdbox_registers) {};
}

int fdbox_shim_vfio_tables(u32 segment, u32 bdf, int (*visit)(u64 table, void *data),
			   void *data)
{
	return -EOPNOTSUPP;
}

int fdbox_shim_vfio_keep(u32 segment, u32 bdf)
{
	return -EOPNOTSUPP;
}

bool fdbox_shim_vfio_waits(u32 segment, u32 bdf)
{
	return false;
}

void fdbox_shim_vfio_unkeep(u32 segment, u32 bdf)
{
}

struct file *fdbox_shim_vfio_adopt(void *ctx, const struct fdbox_vfio_binding *binding)
{
	return ERR_PTR(-EOPNOTSUPP);
}

void fdbox_shim_vfio_stop(u32 segment, u32 bdf)
{
}

#endif
