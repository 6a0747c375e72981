// SPDX-License-Identifier: GPL-2.0
/*
 * A second kernel next to the host's: see docs/lifeboat.md.
 *
 * Written in C, except for the 60 instructions with which a CPU gets to the
 * kernel, because it consists of page tables for another kernel, interrupts
 * that stop a CPU, CPU hotplug, and memory that two kernels write. rust/kernel
 * has no types for any of this, and a shim for Rust would have been the whole
 * module except for reading an image's header.
 *
 * The module has two roles. In a host it loads, starts, watches and stops the
 * boat; in the boat's kernel, which it recognises by an ACPI table, it sends
 * heartbeats and parks.
 */
#include <linux/module.h>

#include "boat.h"

static bool is_passenger;

bool boat_is_passenger(void)
{
	return is_passenger;
}

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
