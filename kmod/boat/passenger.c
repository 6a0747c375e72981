// SPDX-License-Identifier: GPL-2.0
/*
 * This module in the boat's own kernel: it sends heartbeats, protects this
 * kernel from what the host's kernels do to the interrupt lines that all CPUs
 * share, brings up CPUs that the host lends later, and parks all of them when
 * the host asks for it.
 *
 * A kernel that shuts down or panics must not reset the machine, which belongs
 * to the host: it parks or halts, and reports that. The module cannot prevent a
 * reset by SysRq b.
 *
 * Once the module is unloaded there are no heartbeats, and the host considers
 * this kernel lost.
 */
#include <linux/cleanup.h>
#include <linux/cpu.h>
#include <linux/cpufeature.h>
#include <linux/cpuhotplug.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/panic.h>
#include <linux/panic_notifier.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/workqueue.h>

#include <asm/apic.h>
#include <asm/extable.h>
#include <asm/msr.h>
#include <asm/special_insns.h>

#include "boat.h"
#include "rescue.h"

static struct boat_page *boat_page;
/* Of the host's boxes; NULL if the host's module knows of none. */
static struct boat_lease *boat_table;
static struct task_struct *boat_beater;
static enum cpuhp_state boat_lines_masked;
/* When the host beat last. */
static unsigned long boat_host_heard;

/*
 * A kernel without an IO-APIC leaves LINT0 open for the 8259, and a kernel that
 * initialises the 8259, as each of the host's does when it boots, makes it send
 * invalid vectors. LINT1 is the board's NMI.
 */
static int boat_mask_lines(unsigned int cpu)
{
	apic->write(APIC_LVT0, apic->read(APIC_LVT0) | APIC_LVT_MASKED);
	apic->write(APIC_LVT1, apic->read(APIC_LVT1) | APIC_LVT_MASKED);
	return 0;
}

/*
 * A CPU in VMX operation ignores INIT, and one with SVM enabled is not in the
 * state that the host's kernel expects. Any guest is gone by now.
 */
static void boat_virtualisation_off(void)
{
	u64 efer;

	if (boot_cpu_has(X86_FEATURE_VMX) && (__read_cr4() & X86_CR4_VMXE)) {
		/* Faults outside VMX operation. */
		asm volatile("1: vmxoff\n2:\n" _ASM_EXTABLE(1b, 2b) : : : "cc", "memory");
	}
	if (boot_cpu_has(X86_FEATURE_SVM)) {
		rdmsrq(MSR_EFER, efer);
		if (efer & EFER_SVME) {
			/* Interrupts held back by SVM arrive now, while they are disabled. */
			asm volatile("1: stgi\n2:\n" _ASM_EXTABLE(1b, 2b) : : : "memory");
			wrmsrq(MSR_EFER, efer & ~EFER_SVME);
		}
	}
}

/* Halts until the host sends an INIT. */
static void boat_park_cpu(void *unused)
{
	local_irq_disable();
	boat_virtualisation_off();
	atomic64_inc((atomic64_t *)&boat_page->parked);
	for (;;)
		asm volatile("hlt");
}

static void boat_park_all(void)
{
	pr_notice("fdbox-boat: parking\n");
	cpus_read_lock();
	preempt_disable();
	WRITE_ONCE(boat_page->cpus, num_online_cpus());
	/* A reader of this also sees the number of CPUs. */
	smp_store_release(&boat_page->says, BOAT_SAYS_PARKING);
	smp_call_function(boat_park_cpu, NULL, 0);
	boat_park_cpu(NULL);
}

/* Brings up CPUs that the host has lent since this kernel booted, in the order of their numbers. */
static void boat_bring_up(struct work_struct *work)
{
	u64 lent = READ_ONCE(boat_page->lent);
	unsigned int cpu;
	int err;

	for_each_present_cpu(cpu) {
		if (num_online_cpus() >= lent)
			break;
		if (cpu_online(cpu))
			continue;
		err = add_cpu(cpu);
		if (err)
			pr_err("fdbox-boat: CPU %u does not come up (error %d)\n", cpu, err);
	}
	WRITE_ONCE(boat_page->online, num_online_cpus());
}

static DECLARE_WORK(boat_bring_up_work, boat_bring_up);

/* Once for each number that the host says. */
static void boat_look_for_cpus(void)
{
	static u64 seen;
	u64 lent = READ_ONCE(boat_page->lent);

	if (lent == seen)
		return;
	seen = lent;
	schedule_work(&boat_bring_up_work);
}

static bool boat_host_panicked(void)
{
	return READ_ONCE(boat_page->host_says) == BOAT_HOST_SAYS_PANIC;
}

/* Reports on this kernel's console, its only output, whether there is a host. */
static void boat_tell_of_host(bool is_heard)
{
	if (is_heard)
		pr_notice("fdbox-boat: the host beats, kernel %llu of it\n",
			  READ_ONCE(boat_page->kernels));
	else if (boat_host_panicked())
		pr_notice("fdbox-boat: the host has panicked\n");
	else
		pr_notice("fdbox-boat: the host is silent\n");
	boat_become(is_heard ? FDBOX_BOAT_ABOARD : FDBOX_BOAT_ALONE);
}

static void boat_look_for_host(void)
{
	static bool is_heard;
	static u64 beats;
	u64 now = READ_ONCE(boat_page->host_beats);
	bool was_heard = is_heard;

	if (now != beats) {
		beats = now;
		WRITE_ONCE(boat_host_heard, jiffies);
		is_heard = true;
	} else if (boat_host_panicked() ||
		   time_after(jiffies, boat_host_heard + msecs_to_jiffies(boat_page->silence_ms))) {
		is_heard = false;
	}
	if (is_heard != was_heard)
		boat_tell_of_host(is_heard);
}

/* What a process here can know. */
int boat_passenger_status(struct fdbox_boat_status *arg)
{
	arg->state = boat_state();
	arg->nr_cpus = num_online_cpus();
	arg->memory = boat_page->region;
	arg->memory_bytes = boat_page->region_bytes;
	arg->life = boat_page->life;
	arg->beats = READ_ONCE(boat_page->boat_beats);
	arg->largest_gap_ns = READ_ONCE(boat_page->largest_gap_ns);
	arg->host_beats = READ_ONCE(boat_page->host_beats);
	arg->kernels = READ_ONCE(boat_page->kernels);
	arg->host_panicked = boat_host_panicked();
	arg->host_silent_ms = jiffies_to_msecs(jiffies - READ_ONCE(boat_host_heard));
	return 0;
}

/* Never restarts a host that beats, and one at a time. */
int boat_passenger_restart(const struct fdbox_boat_restart *arg)
{
	static DEFINE_MUTEX(lock);
	unsigned long silent;
	int err;

	ACQUIRE(mutex_kill, held)(&lock);
	err = ACQUIRE_ERR(mutex_kill, &held);
	if (err)
		return err;
	silent = jiffies - READ_ONCE(boat_host_heard);
	if (boat_state() != FDBOX_BOAT_ALONE ||
	    (!boat_host_panicked() && jiffies_to_msecs(silent) < arg->silent_ms))
		return boat_refuse(-EBUSY, "the host was heard %u ms ago",
				   jiffies_to_msecs(silent));
	err = boat_restart(boat_page);
	if (err)
		return err;
	/* It takes its time to boot. Nobody else writes what the last one has said. */
	WRITE_ONCE(boat_host_heard, jiffies);
	WRITE_ONCE(boat_page->host_says, BOAT_HOST_SAYS_NOTHING);
	return 0;
}

static int boat_beat(void *unused)
{
	u64 now, last = ktime_get_ns();

	sched_set_fifo_low(current);
	while (!kthread_should_stop()) {
		if (READ_ONCE(boat_page->order) == BOAT_ORDER_PARK)
			boat_park_all();
		now = ktime_get_ns();
		if (now - last > boat_page->largest_gap_ns)
			WRITE_ONCE(boat_page->largest_gap_ns, now - last);
		last = now;
		WRITE_ONCE(boat_page->boat_beats, boat_page->boat_beats + 1);
		boat_look_for_host();
		boat_look_for_cpus();
		schedule_timeout_interruptible(msecs_to_jiffies(BOAT_BEAT_MS));
	}
	return 0;
}

static int boat_reboot(struct notifier_block *block, unsigned long action, void *data)
{
	boat_park_all();
	return NOTIFY_DONE;
}

static struct notifier_block boat_reboot_block = {
	.notifier_call = boat_reboot,
	.priority = INT_MIN,
};

static int boat_panic(struct notifier_block *block, unsigned long action, void *data)
{
	panic_timeout = 0;
	WRITE_ONCE(boat_page->says, BOAT_SAYS_PANIC);
	return NOTIFY_DONE;
}

static struct notifier_block boat_panic_block = {
	.notifier_call = boat_panic,
	.priority = INT_MAX,
};

static int boat_page_map(phys_addr_t phys)
{
	struct boat_page *page = memremap(phys, PAGE_SIZE, MEMREMAP_WB);

	if (!page)
		return -ENOMEM;
	if (page->magic != BOAT_PAGE_MAGIC || page->version != BOAT_ABI_VERSION ||
	    page->size < sizeof(*page)) {
		pr_err("fdbox-boat: the host's module has version %u of what it shares, this one %u\n",
		       page->version, BOAT_ABI_VERSION);
		memunmap(page);
		return -EPROTO;
	}
	boat_page = page;
	return 0;
}

static int boat_table_map(void)
{
	if (!boat_page->leases || boat_page->nr_leases != BOAT_LEASES)
		return 0;
	boat_table = memremap(boat_page->leases, BOAT_LEASES * sizeof(*boat_table), MEMREMAP_WB);
	if (!boat_table)
		return -ENOMEM;
	boat_leases_open(boat_page, boat_table, false);
	return 0;
}

static void boat_unmap(void)
{
	boat_leases_close();
	if (boat_table)
		memunmap(boat_table);
	memunmap(boat_page);
}

int boat_passenger_init(phys_addr_t phys)
{
	int state, err = boat_page_map(phys);

	if (err)
		return err;
	err = boat_table_map();
	if (err)
		goto unmap;
	state = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "fdbox/boat:online", boat_mask_lines, NULL);
	if (state < 0) {
		err = state;
		goto unmap;
	}
	boat_lines_masked = state;
	err = boat_device_register();
	if (err)
		goto lines;
	boat_host_heard = jiffies;
	boat_become(FDBOX_BOAT_ALONE);
	boat_page->life = get_random_u64() | 1;
	/* The lines are masked, and @life is set. */
	smp_store_release(&boat_page->says, BOAT_SAYS_ABOARD);
	boat_beater = kthread_run(boat_beat, NULL, "fdbox-boat");
	if (IS_ERR(boat_beater)) {
		err = PTR_ERR(boat_beater);
		goto device;
	}
	register_reboot_notifier(&boat_reboot_block);
	atomic_notifier_chain_register(&panic_notifier_list, &boat_panic_block);
	return 0;

device:
	boat_device_unregister();
lines:
	cpuhp_remove_state_nocalls(boat_lines_masked);
unmap:
	boat_unmap();
	return err;
}

void boat_passenger_exit(void)
{
	atomic_notifier_chain_unregister(&panic_notifier_list, &boat_panic_block);
	unregister_reboot_notifier(&boat_reboot_block);
	boat_device_unregister();
	kthread_stop(boat_beater);
	cancel_work_sync(&boat_bring_up_work);
	cpuhp_remove_state_nocalls(boat_lines_masked);
	boat_unmap();
}
