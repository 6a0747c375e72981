// SPDX-License-Identifier: GPL-2.0

//! The descriptors of a box, with indexes by id, by name, and by the open file or object behind them, so
//! that no lookup walks all of them.

use crate::boxes::entry::{
    Content,
    Entry,
    Slot, //
};
use crate::kexec::record::Progress;
use crate::name::Name;
use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    sync::Arc, //
};

/// The descriptors of a box, in the order of their ids.
pub(crate) struct Slots {
    list: KVVec<KBox<Slot>>,
    /// The id of each name.
    ids: RBTree<Name, u64>,
    /// Index of open files and the objects behind them: (address, id of the descriptor).
    objects: RBTree<(usize, u64), ()>,
    /// Number of descriptors that need files which are taken out before them.
    waiting: usize,
    next_id: u64,
}

/// Preallocated index nodes of a file and the object behind it.
pub(crate) struct IndexNodes {
    file: RBTreeNodeReservation<(usize, u64), ()>,
    object: RBTreeNodeReservation<(usize, u64), ()>,
}

impl IndexNodes {
    /// Allocates the nodes.
    pub(crate) fn new() -> Result<IndexNodes> {
        Ok(IndexNodes {
            file: RBTreeNodeReservation::new(GFP_KERNEL)?,
            object: RBTreeNodeReservation::new(GFP_KERNEL)?,
        })
    }
}

/// A descriptor that is about to be added: nothing can fail any more.
pub(crate) struct Admission {
    slot: KBox<Slot>,
    by_name: RBTreeNode<Name, u64>,
    nodes: IndexNodes,
}

impl Admission {
    /// The descriptor.
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.slot.entry
    }
}

impl Slots {
    /// No descriptors.
    pub(crate) fn new() -> Slots {
        Slots {
            list: KVVec::new(),
            ids: RBTree::new(),
            objects: RBTree::new(),
            waiting: 0,
            next_id: 1,
        }
    }

    /// Prepares adding a descriptor; fails with `EEXIST` if the name is taken.
    pub(crate) fn prepare(&mut self, name: Name, content: Content) -> Result<Admission> {
        if self.ids.get(&name).is_some() {
            return Err(EEXIST);
        }
        let id = self.next_id;
        self.list.reserve(1, GFP_KERNEL)?;
        let by_name = RBTreeNode::new(name.try_clone()?, id, GFP_KERNEL)?;
        let nodes = IndexNodes::new()?;
        let entry = Arc::new(Entry { id, name, content }, GFP_KERNEL)?;
        let slot = KBox::new(Slot::new(entry), GFP_KERNEL)?;
        Ok(Admission {
            slot,
            by_name,
            nodes,
        })
    }

    /// Adds the descriptor that was prepared last.
    pub(crate) fn admit(&mut self, admission: Admission) {
        let entry = admission.slot.entry.clone();
        self.next_id = entry.id + 1;
        // IndexNodes was reserved.
        let _ = self.list.push_within_capacity(admission.slot);
        self.ids.insert(admission.by_name);
        self.enter(&entry, admission.nodes);
    }

    /// Removes the descriptor at `at`.
    pub(crate) fn remove(&mut self, at: usize) {
        // The index is in range.
        if let Ok(slot) = self.list.remove(at) {
            self.ids.remove(&slot.name);
            self.leave(&slot);
        }
    }

    /// Replaces the descriptor at `at`. What SEAL did for it stays to be undone: a file that replaces another one
    /// of a sealed box has the same memory.
    pub(crate) fn replace(&mut self, at: usize, entry: Arc<Entry>, nodes: IndexNodes) {
        let old = self.list[at].entry.clone();
        self.leave(&old);
        self.enter(&entry, nodes);
        let slot = &mut self.list[at];
        slot.entry = entry;
        slot.progress = Progress::default();
    }

    fn enter(&mut self, entry: &Entry, nodes: IndexNodes) {
        self.waiting += usize::from(entry.waits_for_files());
        if let Content::Live(live) = &entry.content {
            self.objects
                .insert(nodes.file.into_node((live.address(), entry.id), ()));
            // If both addresses are equal, this replaces the other node.
            self.objects
                .insert(nodes.object.into_node((live.object, entry.id), ()));
        }
    }

    fn leave(&mut self, entry: &Entry) {
        self.waiting -= usize::from(entry.waits_for_files());
        if let Content::Live(live) = &entry.content {
            self.objects.remove(&(live.address(), entry.id));
            self.objects.remove(&(live.object, entry.id));
        }
    }

    /// The index of the descriptor called `name`.
    pub(crate) fn named(&self, name: &Name) -> Option<usize> {
        self.with_id(*self.ids.get(name)?)
    }

    /// Whether there is a descriptor called `name`, which need not be a valid name.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        match Name::new(name) {
            Ok(name) => self.named(&name).is_some(),
            // There is no memory for the key of the index.
            Err(_) => self.iter().any(|slot| slot.name.as_bytes() == name),
        }
    }

    /// The index of the descriptor with this id.
    pub(crate) fn with_id(&self, id: u64) -> Option<usize> {
        self.list.binary_search_by_key(&id, |slot| slot.id).ok()
    }

    /// The index of the first descriptor whose open file, or the object behind it, has this
    /// address; the one at `but` is ignored.
    pub(crate) fn of_object(&self, address: usize, but: usize) -> Option<usize> {
        let mut from = 0;
        loop {
            let cursor = self.objects.cursor_lower_bound(&(address, from))?;
            let (&(found, id), ()) = cursor.current();
            if found != address {
                return None;
            }
            match self.with_id(id) {
                Some(at) if at != but => return Some(at),
                _ => from = id + 1,
            }
        }
    }

    /// Number of descriptors that need files which are taken out before them; the one at `but` is
    /// ignored.
    pub(crate) fn waiting(&self, but: usize) -> usize {
        self.waiting - usize::from(self.list[but].waits_for_files())
    }

    /// Whether any descriptor needs files which are taken out before it.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }
}

impl core::ops::Deref for Slots {
    type Target = [KBox<Slot>];

    fn deref(&self) -> &[KBox<Slot>] {
        &self.list
    }
}

impl core::ops::DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut [KBox<Slot>] {
        &mut self.list
    }
}
