/* SPDX-License-Identifier: GPL-2.0 */
/* For the tests: declarations that the two files of fdbox_fault share. */
#ifndef _FDBOX_FAULT_H
#define _FDBOX_FAULT_H

#define FAULT_SLOTS	512
/* Distance between two slots, in bytes. */
#define FAULT_STRIDE	16

#ifndef __ASSEMBLER__
#include <linux/linkage.h>
#include <linux/types.h>

extern const char fault_slots[];
/* What the failing call returns; one call fails at a time. */
extern u64 fault_value;

/* The function that a call through this slot continues with; 0 if the call fails. */
asmlinkage u64 fault_called(unsigned int slot);
#endif /* __ASSEMBLER__ */

#endif /* _FDBOX_FAULT_H */
