// SPDX-License-Identifier: GPL-2.0
/*
 * The firmware of a boat: ACPI tables for a machine that has only local APICs.
 *
 * The tables are hardware-reduced, and their MADT lists only local APICs. So
 * the boat finds no 8259, PIT, RTC, keyboard controller, PM timer, PCI root and
 * IO-APIC: all of them belong to the host. A table of the module's own contains
 * the address of the shared page.
 */
#include <linux/acpi.h>
#include <linux/string.h>

#include "boat.h"

#define BOAT_LAPIC_ADDRESS	0xfee00000

/* The tables, in the order of their page. */
struct boat_acpi_tables {
	struct acpi_table_rsdp rsdp __aligned(64);
	struct {
		struct acpi_table_header header;
		u64 tables[3];
	} __packed xsdt __aligned(64);
	struct acpi_table_fadt fadt __aligned(64);
	struct acpi_table_header dsdt __aligned(64);
	struct {
		struct acpi_table_header header;
		u64 page;
	} __packed boat __aligned(64);
	struct {
		struct acpi_table_madt madt;
		struct acpi_madt_local_x2apic cpus[FDBOX_BOAT_MAX_CPUS + 1];
	} __packed madt __aligned(64);
};

static_assert(sizeof(struct boat_acpi_tables) <= BOAT_ACPI_SIZE);

static u8 boat_acpi_checksum(const void *bytes, size_t len)
{
	const u8 *byte = bytes;
	u8 sum = 0;

	while (len--)
		sum -= *byte++;
	return sum;
}

static void boat_acpi_header(struct acpi_table_header *header, const char *signature,
			     u32 len, u8 revision)
{
	memcpy(header->signature, signature, ACPI_NAMESEG_SIZE);
	header->length = len;
	header->revision = revision;
	memcpy(header->oem_id, "FDBOX ", ACPI_OEM_ID_SIZE);
	memcpy(header->oem_table_id, "LIFEBOAT", ACPI_OEM_TABLE_ID_SIZE);
	header->oem_revision = BOAT_ABI_VERSION;
	memcpy(header->asl_compiler_id, "BOAT", ACPI_NAMESEG_SIZE);
	header->asl_compiler_revision = BOAT_ABI_VERSION;
}

/* Call when the table is complete. */
static void boat_acpi_seal(struct acpi_table_header *header)
{
	header->checksum = 0;
	header->checksum = boat_acpi_checksum(header, header->length);
}

/* Adds an entry to the MADT; returns the place of the next one. */
static void *boat_acpi_cpu(void *at, u32 uid, u32 apic_id)
{
	struct acpi_madt_local_x2apic *x2apic = at;
	struct acpi_madt_local_apic *apic = at;

	if (apic_id < 0xff) {
		apic->header.type = ACPI_MADT_TYPE_LOCAL_APIC;
		apic->header.length = sizeof(*apic);
		apic->processor_id = uid;
		apic->id = apic_id;
		apic->lapic_flags = ACPI_MADT_ENABLED;
		return apic + 1;
	}
	x2apic->header.type = ACPI_MADT_TYPE_LOCAL_X2APIC;
	x2apic->header.length = sizeof(*x2apic);
	x2apic->local_apic_id = apic_id;
	x2apic->lapic_flags = ACPI_MADT_ENABLED;
	x2apic->uid = uid;
	return x2apic + 1;
}

/*
 * The first entry is that of the CPU which the machine booted on, which must
 * not get an INIT. Like a crash kernel, Linux notices that it does not run on
 * that CPU, and leaves it alone. Without the entry it could not tell which CPU
 * that is, and would use only the one it runs on.
 */
static void boat_acpi_madt(struct boat *boat, struct acpi_table_madt *madt)
{
	void *at = madt + 1;
	u32 i;

	at = boat_acpi_cpu(at, 0, boat_cpu_apic_id(0));
	for (i = 0; i < boat->nr_cpus; i++)
		at = boat_acpi_cpu(at, 1 + i, boat_cpu_apic_id(boat->cpus[i]));
	boat_acpi_header(&madt->header, ACPI_SIG_MADT, at - (void *)madt, 4);
	madt->address = BOAT_LAPIC_ADDRESS;
	boat_acpi_seal(&madt->header);
}

static void boat_acpi_rsdp(struct acpi_table_rsdp *rsdp, phys_addr_t xsdt)
{
	memcpy(rsdp->signature, ACPI_SIG_RSDP, sizeof(rsdp->signature));
	memcpy(rsdp->oem_id, "FDBOX ", ACPI_OEM_ID_SIZE);
	rsdp->revision = 2;
	rsdp->length = sizeof(*rsdp);
	rsdp->xsdt_physical_address = xsdt;
	rsdp->checksum = boat_acpi_checksum(rsdp, ACPI_RSDP_CHECKSUM_LENGTH);
	rsdp->extended_checksum = boat_acpi_checksum(rsdp, sizeof(*rsdp));
}

void boat_acpi_write(struct boat *boat)
{
	struct boat_acpi_tables *tables = (void *)(boat->region + BOAT_ACPI_OFFSET);
	phys_addr_t phys = boat->phys + BOAT_ACPI_OFFSET;

	boat_acpi_rsdp(&tables->rsdp, phys + offsetof(struct boat_acpi_tables, xsdt));

	boat_acpi_header(&tables->dsdt, ACPI_SIG_DSDT, sizeof(tables->dsdt), 2);
	boat_acpi_seal(&tables->dsdt);

	boat_acpi_header(&tables->fadt.header, ACPI_SIG_FADT, sizeof(tables->fadt), 6);
	tables->fadt.Xdsdt = phys + offsetof(struct boat_acpi_tables, dsdt);
	tables->fadt.boot_flags = ACPI_FADT_NO_VGA | ACPI_FADT_NO_CMOS_RTC;
	tables->fadt.flags = ACPI_FADT_HW_REDUCED;
	boat_acpi_seal(&tables->fadt.header);

	boat_acpi_madt(boat, &tables->madt.madt);

	boat_acpi_header(&tables->boat.header, BOAT_ACPI_SIGNATURE, sizeof(tables->boat), 1);
	tables->boat.page = boat->phys + BOAT_PAGE_OFFSET;
	boat_acpi_seal(&tables->boat.header);

	boat_acpi_header(&tables->xsdt.header, ACPI_SIG_XSDT, sizeof(tables->xsdt), 1);
	tables->xsdt.tables[0] = phys + offsetof(struct boat_acpi_tables, fadt);
	tables->xsdt.tables[1] = phys + offsetof(struct boat_acpi_tables, madt);
	tables->xsdt.tables[2] = phys + offsetof(struct boat_acpi_tables, boat);
	boat_acpi_seal(&tables->xsdt.header);
}

/* The address of the shared page if this kernel is a boat's; otherwise 0. */
phys_addr_t boat_acpi_page(void)
{
	struct acpi_table_header *table;
	u64 page = 0;

	if (ACPI_FAILURE(acpi_get_table(BOAT_ACPI_SIGNATURE, 0, &table)))
		return 0;
	if (table->length >= sizeof(*table) + sizeof(page))
		memcpy(&page, table + 1, sizeof(page));
	acpi_put_table(table);
	return page;
}
