/* SPDX-License-Identifier: GPL-2.0 */
/* Declarations shared by the files of fdbox-boat.ko. */
#ifndef _FDBOX_BOAT_H
#define _FDBOX_BOAT_H

#include <linux/fdbox_boat.h>
#include <linux/gfp_types.h>
#include <linux/types.h>

#include "abi.h"

/* Between two beats. */
#define BOAT_BEAT_MS		100
/* The time limit for a CPU to act on an interrupt. */
#define BOAT_ANSWER_MS		1000

/*
 * The memory of a boat. The part that both kernels access comes first, and is
 * not RAM of the boat; the boat's kernel and RAM follow.
 */
#define BOAT_PARAMS_OFFSET	0x0000UL
#define BOAT_CMDLINE_OFFSET	0x1000UL
#define BOAT_CMDLINE_SIZE	0x1000UL
#define BOAT_ACPI_OFFSET	0x2000UL
#define BOAT_ACPI_SIZE		0x1000UL
#define BOAT_PAGE_OFFSET	0x10000UL
#define BOAT_LEASES_OFFSET	0x20000UL
#define BOAT_RAM_OFFSET		0x200000UL

/*
 * The memory below 1 MiB. A CPU starts in its first page; the pages after it
 * contain the initial page tables, and become the boat's RAM once the boat has
 * its own: it needs RAM there to start further CPUs.
 */
#define BOAT_LOW_SIZE		0x20000UL
#define BOAT_LOW_TABLES		0x1000UL

/* The host's view of a boat. */
struct boat {
	struct boat_page *page;
	struct boat_record *record;	/* kept for the next kernel */
	struct boat_record *arrived;	/* from the last kernel, or NULL */
	u8 *region;
	phys_addr_t phys;
	unsigned long nr_pages;
	phys_addr_t low;
	u64 entry;			/* physical address of the kernel's entry point */
	unsigned long ram_end;		/* in the region; a rescue kernel follows */
	u32 nr_cpus;
	u32 cpus[FDBOX_BOAT_MAX_CPUS];	/* by the host's numbers */
	u32 nr_start;			/* how many of them START gives it, from the first on */
	u32 lent;			/* how many it has */
	u32 silence_ms;
	bool is_preserved;
};

/* device.c: the interface to user space. */
int boat_device_register(void);
void boat_device_unregister(void);
void boat_device_wake(void);
__printf(2, 3) int boat_refuse(int err, const char *fmt, ...);

/* host.c: the only boat of a host, and its states. */
int boat_load(const struct fdbox_boat_load *arg);
int boat_start(const struct fdbox_boat_start *arg);
int boat_lend(const struct fdbox_boat_lend *arg);
int boat_stop(const struct fdbox_boat_stop *arg);
int boat_status(struct fdbox_boat_status *arg);
int boat_check(const struct fdbox_boat_check *arg);
u32 boat_state(void);
void boat_become(u32 state);
bool boat_lose(const char *why);
void boat_regain(void);
int boat_host_init(void);
void boat_host_exit(void);

/* start.c: starts a loaded kernel, and stops it. */
int boat_launch(struct boat *boat, u32 start_ms);
int boat_park(struct boat *boat, u32 limit_ms);
int boat_extend(struct boat *boat, u32 limit_ms);

/* watch.c: the heartbeats of host and boat. */
int boat_watch(struct boat *boat);
void boat_unwatch(void);

/* memory.c: memory that survives a kexec, and its record. */
int boat_memory_get(struct boat *boat, u32 mib, gfp_t where);
void boat_memory_put(struct boat *boat);
int boat_publish(struct boat *boat);
void boat_withdraw(struct boat *boat);
int boat_adopt(struct boat *boat);

/* image.c: the boat's kernel. */
int boat_image_load(struct boat *boat, const struct fdbox_boat_load *arg, const char *cmdline);

/* acpi.c: the boat's firmware. */
void boat_acpi_write(struct boat *boat);
phys_addr_t boat_acpi_page(void);

/* words.c: command lines. */
int boat_words_check(const char *cmdline);
int boat_words_make(struct boat *boat, const char *cmdline);
int boat_words_of_next(struct boat *boat, const char *cmdline);
int boat_no_broadcast(void);
int boat_has_live_update(void);

/* cpus.c: CPUs that do not belong to the host. */
int boat_cpus_init(void);
void boat_cpus_exit(void);
int boat_cpus_claim(struct boat *boat, u32 lent);
int boat_cpus_adopt(struct boat *boat);
void boat_cpus_release(struct boat *boat);
int boat_cpus_start(struct boat *boat);
int boat_cpus_take(struct boat *boat);
u32 boat_cpu_apic_id(u32 cpu);

/* lease.c: boxes that the host lends to the boat. */
void boat_leases_open(struct boat_page *page, struct boat_lease *leases, bool is_host);
void boat_leases_close(void);
bool boat_leases_end(char name[FDBOX_NAME_LEN]);
bool boat_leases_are_away(void);

/* passenger.c: this module in the boat's own kernel. */
int boat_passenger_init(phys_addr_t page);
void boat_passenger_exit(void);
int boat_passenger_status(struct fdbox_boat_status *arg);
int boat_passenger_restart(const struct fdbox_boat_restart *arg);

/* main.c: the role of this module. */
bool boat_is_passenger(void);

#endif /* _FDBOX_BOAT_H */
