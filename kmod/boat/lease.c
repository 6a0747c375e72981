// SPDX-License-Identifier: GPL-2.0
/*
 * Boxes that the host lends to the boat. The table is in memory that host and
 * boat share and that stays where it is over kexecs of the host.
 *
 * Who may use a box is decided by one word, which both kernels change by
 * compare-and-swap. No kernel waits for the other here: an act succeeds, or says
 * who has the box.
 */
#include <linux/atomic.h>
#include <linux/cleanup.h>
#include <linux/errno.h>
#include <linux/export.h>
#include <linux/fdbox_lease.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#include "boat.h"

/* Protects the pointers, and the table against other tasks of this kernel. */
static DEFINE_SPINLOCK(boat_lease_lock);
/* NULL as long as there is no boat. */
static struct boat_page *boat_lease_page;
static struct boat_lease *boat_lease_table;
static bool boat_lease_is_host;
/* The root that fdbox.ko told of, for a boat that starts later. */
static u64 boat_lease_root;

static u32 boat_lease_holder(u64 word)
{
	return word & BOAT_LEASE_HOLDER;
}

static u64 boat_lease_with(u64 word, u32 holder)
{
	bool waits = holder == BOAT_HOLDER_SHOWN || holder == BOAT_HOLDER_OFFERED;
	u64 ends = BOAT_LEASE_HOLDER | BOAT_LEASE_WANTED;

	if (!waits || boat_lease_holder(word) == BOAT_HOLDER_BOAT)
		ends |= BOAT_LEASE_READY;
	return (word & ~ends) | holder;
}

/* The lease of a box, or an unused one if @or_unused; NULL if there is none. */
static struct boat_lease *boat_lease_find(const char *name, bool or_unused)
{
	struct boat_lease *unused = NULL, *lease;
	u32 i;

	for (i = 0; i < BOAT_LEASES; i++) {
		lease = &boat_lease_table[i];
		if (boat_lease_holder(READ_ONCE(lease->word)) == BOAT_HOLDER_HOST)
			unused = unused ?: lease;
		else if (!strncmp((char *)lease->name, name, sizeof(lease->name)))
			return lease;
	}
	return or_unused ? unused : NULL;
}

/* From the host's word, which only the host changes. */
static int boat_lease_grant(struct boat_lease *lease, const char *name, u32 holder)
{
	u64 word = ++boat_lease_page->generation << BOAT_LEASE_GENERATION;

	strscpy_pad((char *)lease->name, name, sizeof(lease->name));
	/* The boat sees the name if it sees the word. */
	smp_store_release(&lease->word, word | holder);
	return 0;
}

/* Moves the word of a lease that the host has granted, unless the boat has the box. */
static int boat_lease_host_moves(struct boat_lease *lease, u32 holder, bool asks)
{
	u64 old = READ_ONCE(lease->word), new;
	bool is_boats;

	do {
		is_boats = boat_lease_holder(old) == BOAT_HOLDER_BOAT;
		new = is_boats ? old | BOAT_LEASE_WANTED : boat_lease_with(old, holder);
		if (is_boats && !asks)
			return -EBUSY;
	} while (!try_cmpxchg64(&lease->word, &old, new));
	return is_boats ? -EBUSY : 0;
}

static int boat_lease_of_host(const char *name, enum fdbox_lease_act act)
{
	bool grants = act == FDBOX_LEASE_SHOW || act == FDBOX_LEASE_OFFER;
	u32 holder = act == FDBOX_LEASE_SHOW ? BOAT_HOLDER_SHOWN : BOAT_HOLDER_OFFERED;
	struct boat_lease *lease = boat_lease_find(name, grants);

	if (!lease)
		return grants ? -ENOSPC : 0;
	if (!grants)
		return boat_lease_host_moves(lease, BOAT_HOLDER_HOST, act == FDBOX_LEASE_RECALL);
	if (boat_lease_holder(lease->word) == BOAT_HOLDER_HOST)
		return boat_lease_grant(lease, name, holder);
	return boat_lease_host_moves(lease, holder, false);
}

/* What an act of the boat makes of a word. */
static int boat_lease_boat_moves(u64 old, enum fdbox_lease_act act, u64 *new)
{
	u32 holder = boat_lease_holder(old);

	if (holder == BOAT_HOLDER_HOST)
		return -ESTALE;
	switch (act) {
	case FDBOX_LEASE_READY:
		*new = old | BOAT_LEASE_READY;
		return holder == BOAT_HOLDER_BOAT ? -EBUSY : 0;
	case FDBOX_LEASE_TAKE:
		*new = boat_lease_with(old, BOAT_HOLDER_BOAT);
		if (holder == BOAT_HOLDER_SHOWN)
			return -EAGAIN;
		return holder == BOAT_HOLDER_BOAT ? -EBUSY : 0;
	default:
		*new = boat_lease_with(old, BOAT_HOLDER_OFFERED);
		if (holder == BOAT_HOLDER_SHOWN)
			return -EAGAIN;
		return holder == BOAT_HOLDER_OFFERED ? -ESTALE : 0;
	}
}

static int boat_lease_of_boat(const char *name, enum fdbox_lease_act act, u64 known)
{
	struct boat_lease *lease = boat_lease_find(name, false);
	u64 old, new;
	int err;

	if (!lease)
		return -ESTALE;
	old = READ_ONCE(lease->word);
	do {
		if ((old ^ known) >> BOAT_LEASE_GENERATION)
			return -ESTALE;
		err = boat_lease_boat_moves(old, act, &new);
		if (err)
			return err;
	} while (!try_cmpxchg64(&lease->word, &old, new));
	return 0;
}

static int boat_lease_act(const char *name, enum fdbox_lease_act act, u64 known)
{
	switch (act) {
	case FDBOX_LEASE_SHOW:
	case FDBOX_LEASE_OFFER:
	case FDBOX_LEASE_RECALL:
	case FDBOX_LEASE_KEEP:
		return boat_lease_is_host ? boat_lease_of_host(name, act) : -ENXIO;
	case FDBOX_LEASE_READY:
	case FDBOX_LEASE_TAKE:
	case FDBOX_LEASE_RETURN:
		return boat_lease_is_host ? -ENXIO : boat_lease_of_boat(name, act, known);
	case FDBOX_LEASE_LOOK:
		return 0;
	}
	return -EINVAL;
}

int fdbox_boat_lease(const char *name, enum fdbox_lease_act act, u64 *word)
{
	u64 known = *word;
	struct boat_lease *lease;
	int err;

	guard(spinlock)(&boat_lease_lock);
	*word = 0;
	if (!boat_lease_table)
		return act == FDBOX_LEASE_KEEP ? 0 : -ENXIO;
	err = boat_lease_act(name, act, known);
	lease = boat_lease_find(name, false);
	if (lease)
		*word = READ_ONCE(lease->word);
	if (lease && boat_lease_is_host && boat_state() == FDBOX_BOAT_LOST)
		*word |= FDBOX_LEASE_LOST;
	return err;
}
EXPORT_SYMBOL_FOR_MODULES(fdbox_boat_lease, "fdbox");

/* The caller holds the lock, and has not freed yet what the last root refers to. */
static void boat_lease_tell_root(void)
{
	WRITE_ONCE(boat_lease_page->root, boat_lease_root);
	/* The boat sees the root if it sees the number. */
	smp_store_release(&boat_lease_page->handovers, boat_lease_page->handovers + 1);
	/* It sees the number if it sees anything that is written to the freed memory. */
	smp_wmb();
}

void fdbox_boat_set_root(u64 root)
{
	guard(spinlock)(&boat_lease_lock);
	boat_lease_root = root;
	if (boat_lease_page && boat_lease_is_host)
		boat_lease_tell_root();
}
EXPORT_SYMBOL_FOR_MODULES(fdbox_boat_set_root, "fdbox");

u64 fdbox_boat_root(u64 *number)
{
	guard(spinlock)(&boat_lease_lock);
	*number = 0;
	if (!boat_lease_page)
		return 0;
	/* The root is not older than the number. */
	*number = smp_load_acquire(&boat_lease_page->handovers);
	return READ_ONCE(boat_lease_page->root);
}
EXPORT_SYMBOL_FOR_MODULES(fdbox_boat_root, "fdbox");

/* From here on boxes can be lent. */
void boat_leases_open(struct boat_page *page, struct boat_lease *leases, bool is_host)
{
	guard(spinlock)(&boat_lease_lock);
	boat_lease_page = page;
	boat_lease_table = leases;
	boat_lease_is_host = is_host;
	/* What the last kernel handed over is this kernel's to take and to free. */
	if (is_host)
		boat_lease_tell_root();
}

/* There is no boat that could have any. */
void boat_leases_close(void)
{
	guard(spinlock)(&boat_lease_lock);
	boat_lease_page = NULL;
	boat_lease_table = NULL;
}

/* Ends all leases. Returns whether the boat has a box, which it keeps, and its name. */
bool boat_leases_end(char name[FDBOX_NAME_LEN])
{
	u32 i;

	guard(spinlock)(&boat_lease_lock);
	for (i = 0; boat_lease_table && i < BOAT_LEASES; i++) {
		struct boat_lease *lease = &boat_lease_table[i];

		if (boat_lease_holder(READ_ONCE(lease->word)) == BOAT_HOLDER_HOST ||
		    !boat_lease_host_moves(lease, BOAT_HOLDER_HOST, false))
			continue;
		strscpy(name, (char *)lease->name, FDBOX_NAME_LEN);
		return true;
	}
	return false;
}

/* Whether the boat has a box. Takes no lock: the caller may be a kernel that has panicked. */
bool boat_leases_are_away(void)
{
	struct boat_lease *table = READ_ONCE(boat_lease_table);
	u32 i;

	for (i = 0; table && i < BOAT_LEASES; i++) {
		if (boat_lease_holder(READ_ONCE(table[i].word)) == BOAT_HOLDER_BOAT)
			return true;
	}
	return false;
}
