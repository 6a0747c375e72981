// SPDX-License-Identifier: GPL-2.0
/*
 * CPUs that do not belong to the host: kept offline while the boat has them,
 * started in the boat, and taken back. The boat is told of all of them when it
 * is loaded, and may have to wait for some.
 *
 * A CPU is taken back by an INIT, after which it executes nothing: neither the
 * boat's code, whose memory is about to be freed, nor an NMI handler. Whether
 * it took the INIT cannot be seen from outside (a CPU in VMX operation does not
 * take it). So the CPU is started once more in a page of the module, where it
 * has to respond, and gets another INIT.
 */
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/cpumask.h>
#include <linux/io.h>
#include <linux/smp.h>

#include <asm/apic.h>

#include "boat.h"
#include "identity.h"
#include "kick.h"

static enum cpuhp_state boat_cpus_prepared;
/* The boat's CPUs, whether it runs or not. */
static struct cpumask boat_cpus;
/* Set while no other CPU may come online: this kernel would then broadcast interrupts. */
static bool boat_cpus_freeze;

u32 boat_cpu_apic_id(u32 cpu)
{
	return per_cpu(x86_cpu_to_apicid, cpu);
}

/* Called before a CPU is brought up. */
static int boat_cpu_prepare(unsigned int cpu)
{
	if (cpumask_test_cpu(cpu, &boat_cpus)) {
		pr_notice("fdbox-boat: CPU %u is the boat's: stop the boat first\n", cpu);
		return -EBUSY;
	}
	if (READ_ONCE(boat_cpus_freeze)) {
		pr_notice("fdbox-boat: CPU %u stays offline while there is a boat: this kernel was not booted with no_ipi_broadcast=1\n",
			  cpu);
		return -EBUSY;
	}
	return 0;
}

int boat_cpus_init(void)
{
	int state = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "fdbox/boat:prepare",
					      boat_cpu_prepare, NULL);

	if (state < 0)
		return state;
	boat_cpus_prepared = state;
	return 0;
}

void boat_cpus_exit(void)
{
	cpuhp_remove_state_nocalls(boat_cpus_prepared);
}

/* From here on the first @lent CPUs stay offline; those that the boat has already do. */
int boat_cpus_claim(struct boat *boat, u32 lent)
{
	bool has_shorthand = boat_no_broadcast() <= 0;
	u32 i;

	guard(cpus_read_lock)();
	for (i = boat->lent; i < lent; i++) {
		if (cpu_online(boat->cpus[i]))
			return boat_refuse(-EBUSY, "CPU %u is online: take it offline first",
					   boat->cpus[i]);
	}
	if (has_shorthand && num_online_cpus() > 1)
		return boat_refuse(-EOPNOTSUPP,
				   "with %u CPUs online this kernel sends interrupts to all at once, and its kexec would halt the boat: boot it with no_ipi_broadcast=1, or leave one online",
				   num_online_cpus());
	for (; boat->lent < lent; boat->lent++)
		cpumask_set_cpu(boat->cpus[boat->lent], &boat_cpus);
	WRITE_ONCE(boat_cpus_freeze, has_shorthand);
	return 0;
}

/*
 * The same in the next kernel, which numbers the CPUs in its own way. A CPU
 * that it brought up before it knew of the boat belongs to this kernel by now.
 * It does not broadcast interrupts, because it has never booted the other CPUs.
 */
int boat_cpus_adopt(struct boat *boat)
{
	const struct boat_record *arrived = boat->arrived;
	u32 lent = min_t(u64, boat->page->lent ?: arrived->nr_cpus, arrived->nr_cpus);
	u32 i, cpu, mine = 0, found = 0;

	guard(cpus_read_lock)();
	for (i = 0; i < lent; i++) {
		for_each_present_cpu(cpu) {
			if (boat_cpu_apic_id(cpu) != arrived->apic_ids[i])
				continue;
			found++;
			if (cpu_online(cpu))
				continue;
			cpumask_set_cpu(cpu, &boat_cpus);
			boat->cpus[mine++] = cpu;
		}
	}
	boat->nr_cpus = mine;
	boat->lent = mine;
	if (found < lent)
		pr_notice("fdbox-boat: %u CPUs of the boat's are not present: is nr_cpus= too small?\n",
			  lent - found);
	return mine == lent ? 0 : -ESTALE;
}

void boat_cpus_release(struct boat *boat)
{
	guard(cpus_read_lock)();
	cpumask_clear(&boat_cpus);
	WRITE_ONCE(boat_cpus_freeze, false);
}

/* Starts the boat's kernel on the first of its CPUs. */
int boat_cpus_start(struct boat *boat)
{
	struct boat_jump jump = {
		.entry = boat->entry,
		.params = boat->phys + BOAT_PARAMS_OFFSET,
	};
	struct boat_identity identity;
	u32 cpu = boat->cpus[0];
	u64 *tables;

	jump.page_table = boat->low + BOAT_LOW_TABLES;
	tables = memremap(jump.page_table, BOAT_IDENTITY_PAGES * PAGE_SIZE, MEMREMAP_WB);
	if (!tables)
		return -ENOMEM;
	/* The page in which the CPU starts, and the region's start, with the kernel. */
	identity = boat_identity_begin(tables, jump.page_table);
	boat_identity_map(&identity, boat->low);
	boat_identity_map(&identity, boat->phys);
	memunmap(tables);
	if (!boat_kick(boat->low, boat_cpu_apic_id(cpu), &jump))
		return boat_refuse(-EIO, "CPU %u does not start", cpu);
	return 0;
}

/* Stops all CPUs, whatever they execute: each responds and then waits for a SIPI. */
int boat_cpus_take(struct boat *boat)
{
	u32 i, apic_id;

	for (i = 0; i < boat->lent; i++) {
		apic_id = boat_cpu_apic_id(boat->cpus[i]);
		if (!boat_kick(boat->low, apic_id, NULL))
			return boat_refuse(-EIO,
					   "CPU %u does not answer an INIT: hardware virtualisation may be on in it. Its memory stays in use; only a reset of the machine brings both back",
					   boat->cpus[i]);
		boat_init_cpu(apic_id);
	}
	return 0;
}
