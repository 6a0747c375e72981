// SPDX-License-Identifier: GPL-2.0
/*
 * The PCI devices of a host that is restarted.
 *
 * A kernel that kexecs ends the bus mastering of all devices, except for those
 * that it hands over. One that has panicked could not: its devices go on to write
 * to its memory, which the rescue kernel uses as its own, and to send interrupts.
 * So the boat does the same for it.
 */
#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/io.h>
#include <linux/pci.h>

#include "boat.h"
#include "rescue.h"

/* Access to the configuration space of segment 0: the address, and the data. */
#define BOAT_PCI_ADDRESS	0xcf8
#define BOAT_PCI_DATA		0xcfc
#define BOAT_PCI_ENABLE		BIT(31)

#define BOAT_PCI_FUNCTIONS	(256 * 256)

/* In the host, whose devices are shut down. */
int boat_masters_note(struct boat_rescue *rescue)
{
	struct pci_dev *dev = NULL;
	u16 command;

	rescue->nr_masters = 0;
	for_each_pci_dev(dev) {
		if (pci_domain_nr(dev->bus) ||
		    pci_read_config_word(dev, PCI_COMMAND, &command) ||
		    !(command & PCI_COMMAND_MASTER))
			continue;
		if (rescue->nr_masters == BOAT_RESCUE_MASTERS) {
			pci_dev_put(dev);
			return -E2BIG;
		}
		rescue->masters[rescue->nr_masters++] = pci_dev_id(dev);
	}
	return 0;
}

static void boat_pci_select(u32 function, u32 reg)
{
	outl(BOAT_PCI_ENABLE | function << 8 | reg, BOAT_PCI_ADDRESS);
}

static bool boat_is_master(const struct boat_rescue *rescue, u32 function)
{
	u32 i;

	for (i = 0; i < rescue->nr_masters; i++) {
		if (rescue->masters[i] == function)
			return true;
	}
	return false;
}

static void boat_master_end(const struct boat_rescue *rescue, u32 function)
{
	u16 command;

	boat_pci_select(function, PCI_COMMAND);
	command = inw(BOAT_PCI_DATA);
	if (!(command & PCI_COMMAND_MASTER) || boat_is_master(rescue, function))
		return;
	outw(command & ~PCI_COMMAND_MASTER, BOAT_PCI_DATA);
	/* What the device has sent before is in memory once it answers. */
	inw(BOAT_PCI_DATA);
	pr_notice("fdbox-boat: %02x:%02x.%x has no bus mastering any more\n", PCI_BUS_NUM(function),
		  PCI_SLOT(function), PCI_FUNC(function));
}

static bool boat_has_more_functions(u32 function)
{
	boat_pci_select(function, PCI_HEADER_TYPE & ~3);
	return inb(BOAT_PCI_DATA + (PCI_HEADER_TYPE & 3)) & PCI_HEADER_TYPE_MFD;
}

/* In the boat, when no CPU of the host runs. Nobody else uses the two ports then. */
void boat_masters_end(const struct boat_rescue *rescue)
{
	u32 function;
	bool is_there;

	for (function = 0; function < BOAT_PCI_FUNCTIONS; function++) {
		boat_pci_select(function, PCI_VENDOR_ID);
		is_there = !PCI_POSSIBLE_ERROR(inl(BOAT_PCI_DATA));
		if (is_there)
			boat_master_end(rescue, function);
		/* Some devices answer for functions that they do not have. */
		if (!PCI_FUNC(function) && !(is_there && boat_has_more_functions(function)))
			function += 7;
	}
}
