// SPDX-License-Identifier: GPL-2.0
/*
 * A second kernel beside the host's: see docs/lifeboat.md.
 *
 * In C, but for the 60 instructions by which a CPU comes to it: page tables of
 * another kernel, interrupts that stop a CPU, CPU hotplug, memory that two kernels
 * write. rust/kernel has no type for any of it, and a shim for Rust would have been
 * all of the module but the reading of an image's header.
 *
 * There are two roles. In a host the module loads, starts, watches and stops the
 * boat; in the boat's kernel, which an ACPI table tells it of, it beats and parks.
 */
#include <linux/module.h>

#include "boat.h"

static bool is_passenger;

static int __init boat_init(void)
{
	phys_addr_t page = boat_acpi_page();

	is_passenger = page;
	return is_passenger ? boat_passenger_init(page) : boat_host_init();
}
module_init(boat_init);

static void __exit boat_exit(void)
{
	if (is_passenger)
		boat_passenger_exit();
	else
		boat_host_exit();
}
module_exit(boat_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("FDBox: a kernel in which guests run on while the host kexecs");
