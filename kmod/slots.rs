// SPDX-License-Identifier: GPL-2.0

//! The descriptors of a box, and how they are found: by place, by id, by name, and by what is behind
//! them. None of these takes a look at all of them.

use crate::entry::{
    Content,
    Entry,
    Slot, //
};
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
    /// The id that each name has.
    ids: RBTree<Name, u64>,
    /// Addresses of open files and of the objects behind them, each with the id of a descriptor.
    objects: RBTree<(usize, u64), ()>,
    /// How many are restored upon files that are taken out before them.
    waiting: usize,
    next_id: u64,
}

/// Memory for the nodes by which a file and the object behind it are found.
pub(crate) struct Room {
    file: RBTreeNodeReservation<(usize, u64), ()>,
    object: RBTreeNodeReservation<(usize, u64), ()>,
}

impl Room {
    /// Allocates it.
    pub(crate) fn new() -> Result<Room> {
        Ok(Room {
            file: RBTreeNodeReservation::new(GFP_KERNEL)?,
            object: RBTreeNodeReservation::new(GFP_KERNEL)?,
        })
    }
}

/// A descriptor that is about to be put in: all that can fail is done.
pub(crate) struct Admission {
    slot: KBox<Slot>,
    by_name: RBTreeNode<Name, u64>,
    room: Room,
}

impl Admission {
    /// The descriptor.
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.slot.entry
    }
}

impl Slots {
    /// Nothing.
    pub(crate) fn new() -> Slots {
        Slots {
            list: KVVec::new(),
            ids: RBTree::new(),
            objects: RBTree::new(),
            waiting: 0,
            next_id: 1,
        }
    }

    /// Makes room for a descriptor; `EEXIST`.
    pub(crate) fn prepare(&mut self, name: Name, content: Content) -> Result<Admission> {
        if self.ids.get(&name).is_some() {
            return Err(EEXIST);
        }
        let id = self.next_id;
        self.list.reserve(1, GFP_KERNEL)?;
        let by_name = RBTreeNode::new(name.try_clone()?, id, GFP_KERNEL)?;
        let room = Room::new()?;
        let entry = Arc::new(Entry { id, name, content }, GFP_KERNEL)?;
        let slot = KBox::new(Slot::new(entry), GFP_KERNEL)?;
        Ok(Admission {
            slot,
            by_name,
            room,
        })
    }

    /// Puts in what was prepared last.
    pub(crate) fn admit(&mut self, admission: Admission) {
        let entry = admission.slot.entry.clone();
        self.next_id = entry.id + 1;
        // There is room for it.
        let _ = self.list.push_within_capacity(admission.slot);
        self.ids.insert(admission.by_name);
        self.enter(&entry, admission.room);
    }

    /// Takes the descriptor at `at` out.
    pub(crate) fn remove(&mut self, at: usize) {
        // The index is that of a descriptor.
        if let Ok(slot) = self.list.remove(at) {
            self.ids.remove(&slot.name);
            self.leave(&slot);
        }
    }

    /// Puts a file in the place of what it was made of.
    pub(crate) fn replace(&mut self, at: usize, entry: Arc<Entry>, room: Room) {
        let old = self.list[at].entry.clone();
        self.leave(&old);
        self.enter(&entry, room);
        *self.list[at] = Slot::new(entry);
    }

    fn enter(&mut self, entry: &Entry, room: Room) {
        self.waiting += usize::from(entry.waits_for_files());
        if let Content::Live(live) = &entry.content {
            self.objects
                .insert(room.file.into_node((live.address(), entry.id), ()));
            // Where both are the same, it takes the place of the other.
            self.objects
                .insert(room.object.into_node((live.object, entry.id), ()));
        }
    }

    fn leave(&mut self, entry: &Entry) {
        self.waiting -= usize::from(entry.waits_for_files());
        if let Content::Live(live) = &entry.content {
            self.objects.remove(&(live.address(), entry.id));
            self.objects.remove(&(live.object, entry.id));
        }
    }

    /// Where the descriptor called `name` is.
    pub(crate) fn named(&self, name: &Name) -> Option<usize> {
        self.with_id(*self.ids.get(name)?)
    }

    /// Where the descriptor with this id is.
    pub(crate) fn with_id(&self, id: u64) -> Option<usize> {
        self.list.binary_search_by_key(&id, |slot| slot.id).ok()
    }

    /// Where the first descriptor is of the open file, or of the object, that has this address; that at
    /// `but` does not count.
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

    /// How many are restored upon files that are taken out before them; that at `but` does not count.
    pub(crate) fn waiting(&self, but: usize) -> usize {
        self.waiting - usize::from(self.list[but].waits_for_files())
    }

    /// Whether any is restored upon files that are taken out before it.
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
