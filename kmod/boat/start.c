// SPDX-License-Identifier: GPL-2.0
/* Starts a loaded kernel, and stops it. */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/sched/signal.h>

#include "boat.h"
#include "rescue.h"

/* Waits for a condition on the shared page. */
static int boat_wait(struct boat *boat, bool (*is_so)(const struct boat_page *page), u32 limit_ms)
{
	unsigned long end = jiffies + msecs_to_jiffies(limit_ms);
	bool is_over;

	for (;;) {
		is_over = time_after(jiffies, end);
		if (is_so(boat->page))
			return 0;
		if (is_over)
			return -ETIMEDOUT;
		if (fatal_signal_pending(current))
			return -EINTR;
		/* There are no wakeups between kernels. */
		fsleep(10 * USEC_PER_MSEC);
	}
}

/* Aboard, its lines are masked: before that, a kexec of the host could kill it. */
static bool boat_is_aboard(const struct boat_page *page)
{
	/* Everything it wrote before that is visible. */
	return smp_load_acquire(&page->says) == BOAT_SAYS_ABOARD && READ_ONCE(page->boat_beats);
}

static bool boat_has_parked(const struct boat_page *page)
{
	/* The number of CPUs to be parked is visible. */
	return smp_load_acquire(&page->says) == BOAT_SAYS_PARKING &&
	       READ_ONCE(page->parked) >= READ_ONCE(page->cpus);
}

static bool boat_has_all_lent(const struct boat_page *page)
{
	return READ_ONCE(page->online) >= page->lent;
}

static void boat_page_write(struct boat *boat)
{
	*boat->page = (struct boat_page) {
		.magic = BOAT_PAGE_MAGIC,
		.version = BOAT_ABI_VERSION,
		.size = sizeof(*boat->page),
		.region = boat->phys,
		.region_bytes = boat->nr_pages << PAGE_SHIFT,
		.silence_ms = boat->silence_ms,
		.leases = boat->phys + BOAT_LEASES_OFFSET,
		.nr_leases = BOAT_LEASES,
		.kernels = 1,
		.lent = boat->lent,
	};
}

/* Its CPUs must be claimed. On failure the boat may be running nevertheless. */
int boat_launch(struct boat *boat, u32 start_ms)
{
	int err;

	boat_page_write(boat);
	err = boat_publish(boat);
	if (err)
		return err;
	boat_rescue_publish(boat);
	err = boat_cpus_start(boat);
	if (err)
		return err;
	err = boat_wait(boat, boat_is_aboard, start_ms);
	if (err == -ETIMEDOUT)
		return boat_refuse(err,
				   "the boat did not beat within %u ms: does its init load fdbox-boat.ko? Its console tells how far it came",
				   start_ms);
	return err ? boat_refuse(err, "killed while the boat started") : 0;
}

/* Has it bring up CPUs that were claimed since it was started, and waits for them. */
int boat_extend(struct boat *boat, u32 limit_ms)
{
	int err;

	WRITE_ONCE(boat->page->lent, boat->lent);
	err = boat_wait(boat, boat_has_all_lent, limit_ms);
	if (err == -ETIMEDOUT)
		return boat_refuse(err,
				   "the boat has brought up %llu of %u CPUs within %u ms: see its console. They stay with it until it is stopped",
				   READ_ONCE(boat->page->online), boat->lent, limit_ms);
	return err ? boat_refuse(err, "killed while the boat brought up CPUs") : 0;
}

/* Asks it to park. A parked CPU halts with hardware virtualisation disabled. */
int boat_park(struct boat *boat, u32 limit_ms)
{
	int err;

	WRITE_ONCE(boat->page->order, BOAT_ORDER_PARK);
	err = boat_wait(boat, boat_has_parked, limit_ms);
	if (err == -ETIMEDOUT)
		return boat_refuse(err,
				   "the boat did not park within %u ms, and counts as lost: stop it once more, and its CPUs are taken without asking",
				   limit_ms);
	return err ? boat_refuse(err, "killed while the boat parked") : 0;
}
