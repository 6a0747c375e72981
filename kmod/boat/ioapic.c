// SPDX-License-Identifier: GPL-2.0
/*
 * The I/O APICs of a host that is restarted.
 *
 * They are as the dead kernel has programmed them. A kernel that boots would get
 * the interrupts of its timer and of any device that still asserts a line, with
 * vectors that it takes for those of the 8259: it does not acknowledge them at the
 * local APIC, which then delivers none of the same or a lower priority. A kernel
 * that shuts down masks all pins, and this one could not.
 */
#include <linux/acpi.h>
#include <linux/bits.h>
#include <linux/bitfield.h>
#include <linux/errno.h>
#include <linux/io.h>

#include "boat.h"
#include "madt.h"
#include "rescue.h"

/* The two registers in memory select one of the others, and give access to it. */
#define BOAT_IOAPIC_SELECT	0x00
#define BOAT_IOAPIC_WINDOW	0x10
#define BOAT_IOAPIC_BYTES	0x20

#define BOAT_IOAPIC_VERSION	0x01
#define BOAT_IOAPIC_LAST_PIN	GENMASK(23, 16)
/* Two for each pin. */
#define BOAT_IOAPIC_PINS	0x10
#define BOAT_PIN_DELIVERY	GENMASK(10, 8)
#define BOAT_PIN_SMI		2
#define BOAT_PIN_MASKED		BIT(16)

/* In the host. */
int boat_ioapics_find(struct boat_rescue *rescue)
{
	struct acpi_table_header *madt;
	int nr = -1;

	if (ACPI_SUCCESS(acpi_get_table(ACPI_SIG_MADT, 0, &madt))) {
		nr = boat_madt_ioapics((const u8 *)madt, madt->length, rescue->ioapics,
				       BOAT_RESCUE_IOAPICS);
		acpi_put_table(madt);
	}
	if (nr < 0)
		return boat_refuse(-EOPNOTSUPP,
				   "this host's MADT is missing, damaged, or has more than %u I/O APICs, which the boat would have to mask",
				   BOAT_RESCUE_IOAPICS);
	rescue->nr_ioapics = nr;
	return 0;
}

static u32 boat_ioapic_read(void __iomem *ioapic, u32 reg)
{
	writel(reg, ioapic + BOAT_IOAPIC_SELECT);
	return readl(ioapic + BOAT_IOAPIC_WINDOW);
}

static void boat_ioapic_write(void __iomem *ioapic, u32 reg, u32 value)
{
	writel(reg, ioapic + BOAT_IOAPIC_SELECT);
	writel(value, ioapic + BOAT_IOAPIC_WINDOW);
}

static int boat_ioapic_mask(u64 at)
{
	void __iomem *ioapic = ioremap(at, BOAT_IOAPIC_BYTES);
	u32 last, pin, entry;

	if (!ioapic)
		return -ENOMEM;
	last = FIELD_GET(BOAT_IOAPIC_LAST_PIN, boat_ioapic_read(ioapic, BOAT_IOAPIC_VERSION));
	for (pin = 0; pin <= last; pin++) {
		entry = boat_ioapic_read(ioapic, BOAT_IOAPIC_PINS + 2 * pin);
		/* Those are the firmware's. */
		if (FIELD_GET(BOAT_PIN_DELIVERY, entry) == BOAT_PIN_SMI)
			continue;
		/* Edge-triggered, which ends an interrupt that nobody has acknowledged. */
		boat_ioapic_write(ioapic, BOAT_IOAPIC_PINS + 2 * pin, BOAT_PIN_MASKED);
		boat_ioapic_write(ioapic, BOAT_IOAPIC_PINS + 2 * pin + 1, 0);
	}
	iounmap(ioapic);
	return 0;
}

/* In the boat, when no CPU of the host runs. */
int boat_ioapics_mask(const struct boat_rescue *rescue)
{
	int err = 0;
	u32 i;

	for (i = 0; i < rescue->nr_ioapics && !err; i++)
		err = boat_ioapic_mask(rescue->ioapics[i]);
	return err;
}
