/* SPDX-License-Identifier: GPL-2.0 */
/* Whether the kernel that the module is built for can hand devices over. */
#ifndef _FDBOX_PASSTHROUGH_H
#define _FDBOX_PASSTHROUGH_H

#if __has_include("linux/pci-keep.h") && __has_include("linux/kho/abi/image.h") && \
	IS_ENABLED(CONFIG_VFIO_PCI_CORE) && \
	IS_ENABLED(CONFIG_IOMMUFD) && IS_ENABLED(CONFIG_VFIO_DEVICE_CDEV) && \
	(IS_ENABLED(CONFIG_INTEL_IOMMU) || IS_ENABLED(CONFIG_AMD_IOMMU)) && \
	IS_ENABLED(CONFIG_PCI_KEEP)
#define FDBOX_PASSTHROUGH
#endif

#endif /* _FDBOX_PASSTHROUGH_H */
