// SPDX-License-Identifier: GPL-2.0
/*
 * The pages of KHO's tree of preserved memory, which KHO reads once, when a kernel
 * boots, and does not preserve: see rescue.c.
 */
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/kho_radix_tree.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "rescue.h"

/* Pages of a tree. */
struct boat_nodes {
	phys_addr_t *pages;
	size_t nr, room;
};

static int boat_node_note(phys_addr_t phys, void *data)
{
	struct boat_nodes *nodes = data;

	if (nodes->nr < nodes->room)
		nodes->pages[nodes->nr] = phys;
	nodes->nr++;
	return 0;
}

/* Notes all of them; they are to be freed. */
static int boat_nodes_find(struct boat_nodes *nodes, struct kho_radix_tree *tree)
{
	static const struct kho_radix_walk_cb note = { .node = boat_node_note };
	int err;

	*nodes = (struct boat_nodes) {};
	err = kho_radix_walk_tree(tree, &note, nodes);
	while (!err && nodes->nr > nodes->room) {
		kvfree(nodes->pages);
		nodes->room = nodes->nr;
		nodes->nr = 0;
		nodes->pages = kvmalloc_objs(*nodes->pages, nodes->room);
		if (!nodes->pages)
			return -ENOMEM;
		err = kho_radix_walk_tree(tree, &note, nodes);
	}
	return err;
}

/* To preserve a page may make the tree grow. */
int boat_tree_preserve(struct kho_radix_tree *tree)
{
	struct boat_nodes nodes;
	size_t i, done = 0;
	int err;

	do {
		err = boat_nodes_find(&nodes, tree);
		for (i = 0; i < nodes.nr && !err; i++)
			err = kho_preserve_pages(pfn_to_page(PHYS_PFN(nodes.pages[i])), 1);
		kvfree(nodes.pages);
		if (err || nodes.nr == done)
			return err;
		done = nodes.nr;
	} while (true);
}

/* Frees the pages of the last kernel's tree. */
void boat_tree_free(phys_addr_t root)
{
	struct kho_radix_tree tree;
	struct boat_nodes nodes;
	size_t i;

	if (kho_radix_init_tree(&tree, phys_to_virt(root)))
		return;
	if (!boat_nodes_find(&nodes, &tree)) {
		for (i = 0; i < nodes.nr; i++)
			kho_restore_free(phys_to_virt(nodes.pages[i]));
	}
	kvfree(nodes.pages);
}
