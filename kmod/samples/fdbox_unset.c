// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: while this is loaded, a PCI device cannot be enabled, as if no
 * address had been assigned to its first BAR. So opening the device fails half-way.
 */
#include <linux/ioport.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/pci.h>

static char *device;
module_param(device, charp, 0400);
MODULE_PARM_DESC(device, "address of the device, such as 0000:01:00.0");

static struct pci_dev *pdev;

static int __init unset_init(void)
{
	unsigned int domain, bus, slot, function;

	if (!device || sscanf(device, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4)
		return -EINVAL;
	pdev = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, function));
	if (!pdev)
		return -ENODEV;
	pdev->resource[0].flags |= IORESOURCE_UNSET;
	return 0;
}
module_init(unset_init);

static void __exit unset_exit(void)
{
	pdev->resource[0].flags &= ~IORESOURCE_UNSET;
	pci_dev_put(pdev);
}
module_exit(unset_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The FDBox developers");
MODULE_DESCRIPTION("Has a PCI device fail to be enabled");
