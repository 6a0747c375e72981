// SPDX-License-Identifier: GPL-2.0
/*
 * Stops CPUs of this machine that run another kernel or none, and starts them.
 *
 * After an INIT, a CPU waits for a SIPI, except for the one that the machine
 * booted on: that goes to the firmware, which looks into the CMOS and may find
 * there that it is to go on at the warm reset vector.
 */
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/mc146818rtc.h>

#include <asm/apic.h>

#include "boat.h"
#include "kick.h"
#include "trampoline.h"

/* Where the CMOS says why the firmware is entered, and what it says: by this jump. */
#define BOAT_CMOS_REASON	0x0f
#define BOAT_REASON_JUMP	0x0a
/* Where the firmware then jumps to: offset and segment. */
#define BOAT_WARM_VECTOR	0x467

static void boat_ipi(u32 apic_id, u32 what)
{
	apic->icr_write(what, apic_id);
	if (apic->safe_wait_icr_idle)
		apic->safe_wait_icr_idle();
}

void boat_init_cpu(u32 apic_id)
{
	boat_ipi(apic_id, APIC_INT_LEVELTRIG | APIC_INT_ASSERT | APIC_DM_INIT);
	/* Like Linux, except on the newest processors. */
	usleep_range(10000, 11000);
	boat_ipi(apic_id, APIC_INT_LEVELTRIG | APIC_DM_INIT);
}

/* Writes the page in which a CPU starts. Without a @jump the CPU only responds. */
static struct boat_trampoline *boat_trampoline_write(u8 *page, u32 base,
						     const struct boat_jump *jump)
{
	struct boat_trampoline *data =
		(void *)(page + (boat_trampoline_data - boat_trampoline));

	memcpy(page, boat_trampoline, boat_trampoline_end - boat_trampoline);
	*(u32 *)(page + (boat_trampoline_gdt - boat_trampoline) + 2) += base;
	data->base = base;
	data->to_32_bit = (struct boat_far) {
		.offset = base + (boat_trampoline_32 - boat_trampoline),
		.selector = 0x08,
	};
	data->to_64_bit = (struct boat_far) {
		.offset = base + (boat_trampoline_64 - boat_trampoline),
		.selector = 0x10,
	};
	if (jump) {
		data->entry = jump->entry;
		data->params = jump->params;
		data->page_table = jump->page_table;
	}
	return data;
}

/* Starts a CPU in the page @low, and waits for its response. */
bool boat_kick(phys_addr_t low, u32 apic_id, const struct boat_jump *jump)
{
	u32 wanted = jump ? BOAT_CPU_IN_LONG_MODE : BOAT_CPU_ANSWERS;
	struct boat_trampoline *data;
	bool has_answered = false;
	u32 ms, answer;
	u8 *page;

	page = memremap(low, PAGE_SIZE, MEMREMAP_WB);
	if (!page)
		return false;
	data = boat_trampoline_write(page, low, jump);
	/* The CPU must see everything written before. */
	mb();
	boat_init_cpu(apic_id);
	boat_ipi(apic_id, APIC_DM_STARTUP | (low >> PAGE_SHIFT));
	for (ms = 0; ms < BOAT_ANSWER_MS && !has_answered; ms++) {
		usleep_range(1000, 1100);
		answer = READ_ONCE(data->says);
		has_answered = answer >= wanted;
		/* A CPU may miss the first SIPI. */
		if (ms == 1 && answer == BOAT_CPU_SILENT)
			boat_ipi(apic_id, APIC_DM_STARTUP | (low >> PAGE_SHIFT));
	}
	memunmap(page);
	return has_answered;
}

/*
 * From now on an INIT sends the CPU that the machine booted on to the page @low,
 * as a SIPI does with others, if the firmware knows this convention of BIOSes.
 * Nobody else may use the CMOS: no CPU of the host runs any more, except
 * for this one. The firmware clears the reason, so this is for one INIT.
 */
int boat_warm_reset_set(phys_addr_t low)
{
	u16 *vector = memremap(BOAT_WARM_VECTOR, 2 * sizeof(*vector), MEMREMAP_WB);

	if (!vector)
		return -ENOMEM;
	vector[0] = 0;
	vector[1] = low >> 4;
	memunmap(vector);
	CMOS_WRITE(BOAT_REASON_JUMP, BOAT_CMOS_REASON);
	return CMOS_READ(BOAT_CMOS_REASON) == BOAT_REASON_JUMP ? 0 : -EIO;
}
