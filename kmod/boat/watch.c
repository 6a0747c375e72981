// SPDX-License-Identifier: GPL-2.0
/*
 * The host's side of the heartbeat: sends its own, and checks that of the boat.
 *
 * A boat that reports a panic, or leaves without being asked, is lost at once;
 * one that is silent, after the time that START allows. If it beats again, it was
 * only slow, and runs: its CPUs are not taken before the watcher has ended.
 *
 * A host that panics tells the boat, and does not reset the machine if the boat
 * has boxes.
 */
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/notifier.h>
#include <linux/panic.h>
#include <linux/panic_notifier.h>
#include <linux/sched.h>

#include "boat.h"

static struct task_struct *boat_watcher;
static struct boat_page *boat_watched;

/* Why a boat is lost that reports anything other than being aboard. */
static const char *boat_unsaid(const struct boat_page *page)
{
	switch (READ_ONCE(page->says)) {
	case BOAT_SAYS_ABOARD:
		return NULL;
	case BOAT_SAYS_PANIC:
		return "its kernel panicked";
	case BOAT_SAYS_PARKING:
		return READ_ONCE(page->order) == BOAT_ORDER_PARK ?
		       NULL : "its kernel has shut down";
	default:
		return "it says what this module does not know";
	}
}

static int boat_watch_thread(void *data)
{
	struct boat *boat = data;
	struct boat_page *page = boat->page;
	unsigned long heard = jiffies;
	u64 beats = READ_ONCE(page->boat_beats);
	bool was_silent = false;
	const char *why;

	while (!kthread_should_stop()) {
		WRITE_ONCE(page->host_beats, page->host_beats + 1);
		if (READ_ONCE(page->boat_beats) != beats) {
			beats = READ_ONCE(page->boat_beats);
			heard = jiffies;
		}
		why = boat_unsaid(page);
		if (why)
			boat_lose(why);
		else if (time_after(jiffies, heard + msecs_to_jiffies(boat->silence_ms)))
			was_silent |= boat_lose("it is silent");
		else if (was_silent && READ_ONCE(page->order) == BOAT_ORDER_NONE)
			boat_regain();
		schedule_timeout_interruptible(msecs_to_jiffies(BOAT_BEAT_MS));
	}
	return 0;
}

static int boat_host_panics(struct notifier_block *block, unsigned long action, void *data)
{
	if (boat_state() != FDBOX_BOAT_RUNNING)
		return NOTIFY_DONE;
	if (boat_leases_are_away())
		panic_timeout = 0;
	WRITE_ONCE(boat_watched->host_says, BOAT_HOST_SAYS_PANIC);
	return NOTIFY_DONE;
}

static struct notifier_block boat_host_panic_block = {
	.notifier_call = boat_host_panics,
	.priority = INT_MAX,
};

int boat_watch(struct boat *boat)
{
	struct task_struct *task = kthread_run(boat_watch_thread, boat, "fdbox-boat");

	if (IS_ERR(task))
		return PTR_ERR(task);
	boat_watcher = task;
	boat_watched = boat->page;
	atomic_notifier_chain_register(&panic_notifier_list, &boat_host_panic_block);
	return 0;
}

void boat_unwatch(void)
{
	if (!boat_watcher)
		return;
	atomic_notifier_chain_unregister(&panic_notifier_list, &boat_host_panic_block);
	kthread_stop(boat_watcher);
	boat_watcher = NULL;
}
