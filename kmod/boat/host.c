// SPDX-License-Identifier: GPL-2.0
/*
 * The only boat of a host, and its states:
 *
 *         LOAD           START          silence
 *   OFF --------> LOADED ------> RUNNING <-------> LOST
 *    ^              | STOP          | STOP           | STOP
 *    +--------------+---------------+----------------+
 *
 * Commands run one at a time, under boat_lock. Only the watcher changes the
 * state concurrently, between RUNNING and LOST, and STOP ends the watcher before
 * it takes a CPU. A boat left by the last kernel is RUNNING or LOST after the
 * module has loaded. The module cannot be unloaded while there is a boat.
 */
#include <linux/atomic.h>
#include <linux/cleanup.h>
#include <linux/cpumask.h>
#include <linux/kexec_handover.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <asm/setup.h>

#include "boat.h"
#include "rescue.h"

#define BOAT_LEAST_MIB		64
#define BOAT_START_MS		60000
#define BOAT_SILENCE_MS		10000
#define BOAT_STOP_MS		10000
#define BOAT_LEND_MS		10000

static DEFINE_MUTEX(boat_lock);
static struct boat the_boat;
static atomic_t the_state = ATOMIC_INIT(FDBOX_BOAT_OFF);

u32 boat_state(void)
{
	return atomic_read(&the_state);
}

void boat_become(u32 state)
{
	atomic_set(&the_state, state);
	boat_device_wake();
}

/* As far as this kernel can tell, the boat no longer runs. Returns whether it was lost by this. */
bool boat_lose(const char *why)
{
	if (atomic_cmpxchg(&the_state, FDBOX_BOAT_RUNNING, FDBOX_BOAT_LOST) != FDBOX_BOAT_RUNNING)
		return false;
	pr_notice("fdbox-boat: the boat is lost: %s\n", why);
	boat_device_wake();
	return true;
}

/* It was only silent. */
void boat_regain(void)
{
	if (atomic_cmpxchg(&the_state, FDBOX_BOAT_LOST, FDBOX_BOAT_RUNNING) != FDBOX_BOAT_LOST)
		return;
	pr_notice("fdbox-boat: the boat beats again\n");
	boat_device_wake();
}

/* Frees everything. Its CPUs are back in the host, or were never started. */
static void boat_end(struct boat *boat)
{
	boat_leases_close();
	boat_rescue_forget();
	boat_withdraw(boat);
	boat_memory_put(boat);
	boat_cpus_release(boat);
	*boat = (struct boat) {};
	boat_become(FDBOX_BOAT_OFF);
	module_put(THIS_MODULE);
}

/* The table of leases, which the record does not have: an older module made none. */
static void boat_lend_from(struct boat *boat)
{
	struct boat_page *page = boat->page;

	if (page->leases == boat->phys + BOAT_LEASES_OFFSET && page->nr_leases == BOAT_LEASES)
		boat_leases_open(page, (void *)(boat->region + BOAT_LEASES_OFFSET), true);
}

/* Takes its CPUs back and frees it, or leaves it LOST. */
static int boat_take(struct boat *boat)
{
	int err = boat_cpus_take(boat);

	if (err)
		boat_become(FDBOX_BOAT_LOST);
	else
		boat_end(boat);
	return err;
}

/* With how many of its CPUs a boat may start. */
static int boat_check_start(const struct fdbox_boat_load *arg)
{
	if (arg->nr_start > arg->nr_cpus)
		return boat_refuse(-EINVAL, "a boat of %u CPUs cannot start with %u",
				   arg->nr_cpus, arg->nr_start);
	/* A restart stops the CPUs of the host, and has no way to know that one of these is. */
	if (arg->flags & FDBOX_BOAT_LOAD_RESCUE && arg->nr_start && arg->nr_start < arg->nr_cpus)
		return boat_refuse(-EINVAL,
				   "a boat with a rescue kernel starts with all of its CPUs");
	return 0;
}

/* Reads the caller's list of CPUs. */
static int boat_read_cpus(struct boat *boat, const struct fdbox_boat_load *arg)
{
	u32 i, j, cpu;

	if (!arg->nr_cpus || arg->nr_cpus > FDBOX_BOAT_MAX_CPUS)
		return boat_refuse(-EINVAL, "a boat has from 1 to %u CPUs", FDBOX_BOAT_MAX_CPUS);
	if (copy_from_user(boat->cpus, u64_to_user_ptr(arg->cpus),
			   arg->nr_cpus * sizeof(boat->cpus[0])))
		return -EFAULT;
	boat->nr_cpus = arg->nr_cpus;
	boat->nr_start = arg->nr_start ?: arg->nr_cpus;
	for (i = 0; i < boat->nr_cpus; i++) {
		cpu = boat->cpus[i];
		if (!cpu)
			return boat_refuse(-EINVAL, "CPU 0 stays the host's");
		if (cpu >= nr_cpu_ids || !cpu_present(cpu))
			return boat_refuse(-EINVAL, "there is no CPU %u", cpu);
		for (j = 0; j < i; j++) {
			if (boat->cpus[j] == cpu)
				return boat_refuse(-EINVAL, "CPU %u is named twice", cpu);
		}
	}
	return 0;
}

/* Copies the caller's command line, to be freed. */
static char *boat_read_cmdline(u64 cmdline, u32 len)
{
	char *text;

	if (len >= COMMAND_LINE_SIZE)
		return ERR_PTR(boat_refuse(-EINVAL, "a command line has at most %u bytes",
					   COMMAND_LINE_SIZE - 1));
	text = memdup_user_nul(u64_to_user_ptr(cmdline), len);
	if (!IS_ERR(text) && strlen(text) != len) {
		kfree(text);
		return ERR_PTR(boat_refuse(-EINVAL, "there is a NUL in the command line"));
	}
	return text;
}

static int boat_load_locked(struct boat *boat, const struct fdbox_boat_load *arg)
{
	char *cmdline;
	int err;

	if (boat_state() != FDBOX_BOAT_OFF)
		return boat_refuse(-EBUSY, "there is a boat: stop it first");
	if (!kho_is_enabled())
		return boat_refuse(-EOPNOTSUPP,
				   "no memory of this kernel outlives it: boot it with kho=on");
	if (arg->memory_mib < BOAT_LEAST_MIB || !is_power_of_2(arg->memory_mib))
		return boat_refuse(-EINVAL, "%u MiB is no power of two from %u on",
				   arg->memory_mib, BOAT_LEAST_MIB);
	err = boat_check_start(arg);
	if (!err && arg->flags & FDBOX_BOAT_LOAD_RESCUE)
		err = boat_rescue_check();
	if (!err)
		err = boat_read_cpus(boat, arg);
	if (err)
		return err;
	cmdline = boat_read_cmdline(arg->cmdline, arg->cmdline_len);
	if (IS_ERR(cmdline))
		return PTR_ERR(cmdline);
	err = boat_words_check(cmdline);
	if (!err)
		err = boat_image_load(boat, arg, cmdline);
	kfree(cmdline);
	return err;
}

int boat_load(const struct fdbox_boat_load *arg)
{
	struct boat boat = {};
	int err;

	ACQUIRE(mutex_kill, lock)(&boat_lock);
	err = ACQUIRE_ERR(mutex_kill, &lock);
	if (err)
		return err;
	err = boat_load_locked(&boat, arg);
	if (err) {
		boat_memory_put(&boat);
		return err;
	}
	/* The caller has the module open. */
	__module_get(THIS_MODULE);
	the_boat = boat;
	boat_become(FDBOX_BOAT_LOADED);
	return 0;
}

static int boat_start_locked(struct boat *boat, const struct fdbox_boat_start *arg)
{
	int err;

	if (boat_state() != FDBOX_BOAT_LOADED)
		return boat_refuse(-EINVAL, "there is no boat that was loaded and not started");
	err = boat_cpus_claim(boat, boat->nr_start);
	if (err)
		return err;
	boat->silence_ms = arg->silence_ms ?: BOAT_SILENCE_MS;
	err = boat_launch(boat, arg->start_ms ?: BOAT_START_MS);
	if (!err)
		err = boat_watch(boat);
	if (err) {
		boat_take(boat);
		return err;
	}
	boat_lend_from(boat);
	boat_become(FDBOX_BOAT_RUNNING);
	return 0;
}

int boat_start(const struct fdbox_boat_start *arg)
{
	int err;

	ACQUIRE(mutex_kill, lock)(&boat_lock);
	err = ACQUIRE_ERR(mutex_kill, &lock);
	return err ?: boat_start_locked(&the_boat, arg);
}

static int boat_lend_locked(struct boat *boat, const struct fdbox_boat_lend *arg)
{
	int err;

	if (boat_state() != FDBOX_BOAT_RUNNING)
		return boat_refuse(-EINVAL, "there is no boat that runs");
	if (arg->nr_cpus <= boat->lent || arg->nr_cpus > boat->nr_cpus)
		return boat_refuse(-EINVAL,
				   "%u CPUs are not more than the %u that the boat has, and at most the %u that it was loaded with",
				   arg->nr_cpus, boat->lent, boat->nr_cpus);
	err = boat_cpus_claim(boat, arg->nr_cpus);
	return err ?: boat_extend(boat, arg->limit_ms ?: BOAT_LEND_MS);
}

int boat_lend(const struct fdbox_boat_lend *arg)
{
	int err;

	ACQUIRE(mutex_kill, lock)(&boat_lock);
	err = ACQUIRE_ERR(mutex_kill, &lock);
	return err ?: boat_lend_locked(&the_boat, arg);
}

static int boat_stop_locked(struct boat *boat, const struct fdbox_boat_stop *arg)
{
	char held[FDBOX_NAME_LEN];
	int err;

	switch (boat_state()) {
	case FDBOX_BOAT_OFF:
		return boat_refuse(-EINVAL, "there is no boat");
	case FDBOX_BOAT_LOADED:
		boat_end(boat);
		return 0;
	case FDBOX_BOAT_RUNNING:
		if (boat_leases_end(held))
			return boat_refuse(-EBUSY,
					   "the boat has the box %s: have it given back first",
					   held);
		err = boat_park(boat, arg->limit_ms ?: BOAT_STOP_MS);
		if (err) {
			boat_lose("it does not park");
			return err;
		}
		break;
	}
	if (boat_leases_end(held))
		pr_err("fdbox-boat: what the boat had is lost with it, the box %s among it\n",
		       held);
	boat_unwatch();
	return boat_take(boat);
}

int boat_stop(const struct fdbox_boat_stop *arg)
{
	int err;

	ACQUIRE(mutex_kill, lock)(&boat_lock);
	err = ACQUIRE_ERR(mutex_kill, &lock);
	return err ?: boat_stop_locked(&the_boat, arg);
}

int boat_status(struct fdbox_boat_status *arg)
{
	struct boat *boat = &the_boat;
	int err;

	if (boat_is_passenger())
		return boat_passenger_status(arg);
	ACQUIRE(mutex_kill, lock)(&boat_lock);
	err = ACQUIRE_ERR(mutex_kill, &lock);
	if (err)
		return err;
	arg->state = boat_state();
	if (arg->state == FDBOX_BOAT_OFF)
		return 0;
	arg->nr_cpus = boat->lent;
	arg->memory = boat->phys;
	arg->memory_bytes = boat->nr_pages << PAGE_SHIFT;
	arg->life = READ_ONCE(boat->page->life);
	arg->beats = READ_ONCE(boat->page->boat_beats);
	arg->largest_gap_ns = READ_ONCE(boat->page->largest_gap_ns);
	arg->host_beats = READ_ONCE(boat->page->host_beats);
	arg->kernels = boat->page->kernels;
	return 0;
}

int boat_check(const struct fdbox_boat_check *arg)
{
	char *cmdline;
	int err;

	ACQUIRE(mutex_kill, lock)(&boat_lock);
	err = ACQUIRE_ERR(mutex_kill, &lock);
	if (err)
		return err;
	if (boat_state() == FDBOX_BOAT_OFF)
		return boat_refuse(-ENXIO, "there is no boat");
	cmdline = boat_read_cmdline(arg->cmdline, arg->cmdline_len);
	if (IS_ERR(cmdline))
		return PTR_ERR(cmdline);
	err = boat_words_of_next(&the_boat, cmdline);
	kfree(cmdline);
	return err;
}

/* Takes over a boat from the last kernel, if any. If that fails the boat is left alone. */
static int boat_arrive(struct boat *boat)
{
	int err = boat_adopt(boat);

	if (err == -ENOENT)
		return 0;
	if (err && !boat->arrived)
		return err;
	if (err)
		pr_err("fdbox-boat: KHO has no room for the boat (error %d): it will not outlive this kernel\n",
		       err);
	__module_get(THIS_MODULE);
	boat_rescue_end(boat);
	boat->page->kernels++;
	WRITE_ONCE(boat->page->host_says, BOAT_HOST_SAYS_NOTHING);
	boat_lend_from(boat);
	boat_become(FDBOX_BOAT_RUNNING);
	if (boat_cpus_adopt(boat))
		boat_lose("this kernel has brought up its CPUs: boot it with maxcpus=");
	err = boat_watch(boat);
	if (err)
		boat_lose("this kernel cannot watch it");
	return 0;
}

int boat_host_init(void)
{
	int err = boat_cpus_init();

	if (err)
		return err;
	err = boat_arrive(&the_boat);
	if (err)
		goto cpus;
	err = boat_device_register();
	if (!err) {
		boat_rescue_init();
		return 0;
	}

	/* The boat continues without this module, and the next kernel finds it. */
	if (boat_state() != FDBOX_BOAT_OFF) {
		boat_unwatch();
		module_put(THIS_MODULE);
	}
cpus:
	boat_cpus_exit();
	return err;
}

/* There is no boat: it would keep the module in use. */
void boat_host_exit(void)
{
	boat_rescue_exit();
	boat_device_unregister();
	boat_cpus_exit();
}
