/* SPDX-License-Identifier: GPL-2.0 */
/* The data in the page in which a CPU starts. trampoline.S has the offsets, too. */
#ifndef _FDBOX_BOAT_TRAMPOLINE_H
#define _FDBOX_BOAT_TRAMPOLINE_H

#include <linux/types.h>

/* States reported by the CPU. */
#define BOAT_CPU_SILENT		0
#define BOAT_CPU_ANSWERS	1
#define BOAT_CPU_IN_LONG_MODE	2

/* An operand of a far jump. */
struct boat_far {
	u32 offset;
	u16 selector;
	u16 pad;
};

struct boat_trampoline {
	u64 entry;			/* 0: respond, and halt */
	u64 params;			/* for the kernel: struct boot_params */
	u32 page_table;
	u32 base;			/* where this page is */
	struct boat_far to_32_bit;
	struct boat_far to_64_bit;
	u32 says;			/* BOAT_CPU_* */
};

static_assert(offsetof(struct boat_trampoline, params) == 8);
static_assert(offsetof(struct boat_trampoline, page_table) == 16);
static_assert(offsetof(struct boat_trampoline, base) == 20);
static_assert(offsetof(struct boat_trampoline, to_32_bit) == 24);
static_assert(offsetof(struct boat_trampoline, to_64_bit) == 32);
static_assert(offsetof(struct boat_trampoline, says) == 40);

extern const u8 boat_trampoline[];
extern const u8 boat_trampoline_32[];
extern const u8 boat_trampoline_64[];
extern const u8 boat_trampoline_gdt[];
extern const u8 boat_trampoline_data[];	/* struct boat_trampoline */
extern const u8 boat_trampoline_end[];

#endif /* _FDBOX_BOAT_TRAMPOLINE_H */
