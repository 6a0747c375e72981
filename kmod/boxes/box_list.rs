// SPDX-License-Identifier: GPL-2.0

//! The list of all boxes, and their device nodes.
//!
//! A box is found by its name in a tree, and by its id in the list, which is sorted by id. One mutex
//! protects both. Nothing slow is done under it: memory is freed, devices are stopped and boxes are
//! carried over without it.

use crate::access::NodeAccess;
use crate::boxes::fd_box::{
    FdBox,
    Labelled, //
};
use crate::ffi;
use crate::module_hold::ModuleHold;
use crate::name::Name;
use crate::wait;
use kernel::{
    error::{
        from_err_ptr,
        from_result, //
    },
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::Arc,
    types::ForeignOwnable, //
};

/// The name of the control node, which shares a directory with the boxes.
const CONTROL: &[u8] = b"fdbox";

/// The device node of a box; it owns a reference to the box.
///
/// # Invariants
///
/// Points to a node that `fdbox_shim_node_create()` created and nobody else destroys.
struct Node(*mut ffi::Node);

// SAFETY: A device can be removed from any task.
unsafe impl Send for Node {}

impl Node {
    fn new(bx: &Arc<FdBox>, access: &NodeAccess) -> Result<Node> {
        let name = bx.name.to_array();
        let foreign = bx.clone().into_foreign();
        // SAFETY: The name has a NUL. The function takes over the reference, even if it fails, and
        // returns it through `fdbox_rs_box_put()`.
        let node = unsafe {
            ffi::fdbox_shim_node_create(
                name.as_ptr().cast(),
                foreign,
                access.mode,
                access.uid,
                access.gid,
            )
        };
        // `EEXIST` is about names of boxes only.
        let node = from_err_ptr(node).map_err(|err| match err {
            EEXIST => EBUSY,
            err => err,
        })?;
        // INVARIANT: Just created.
        Ok(Node(node))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_node_destroy(self.0) };
    }
}

struct Listed {
    bx: Arc<FdBox>,
    node: Node,
    _module: ModuleHold,
}

impl Listed {
    /// Gives the node the label that the box arrived with, if it does not have it. Fails with `ENOMEM`.
    fn label(&self) -> Result {
        let Some(label) = self.bx.missing_label() else {
            return Ok(());
        };
        // SAFETY: By the invariants of `Node`.
        let labelled = match unsafe { label.set(self.node.0) } {
            Ok(()) => Labelled::Done,
            Err(EOPNOTSUPP | ENOENT) => Labelled::NotYet,
            Err(ENOMEM) => return Err(ENOMEM),
            Err(err) => {
                pr_err!(
                    "box {} cannot be opened: its security label {} is not valid here: {:?}; see ignore_labels\n",
                    self.bx.name,
                    label,
                    err
                );
                Labelled::Refused
            }
        };
        if labelled == Labelled::NotYet {
            kernel::pr_info_once!(
                "security labels of boxes wait for an LSM that labels their nodes\n"
            );
        }
        self.bx.set_labelled(labelled);
        Ok(())
    }
}

struct Boxes {
    /// Sorted by id; ids only grow.
    list: KVVec<Listed>,
    /// The id of each name; `None` before the first box, because a tree cannot be created in a
    /// static.
    ids: Option<RBTree<Name, u64>>,
    next_id: u64,
}

impl Boxes {
    fn id_of(&self, name: &Name) -> Option<u64> {
        self.ids.as_ref()?.get(name).copied()
    }

    /// The index of the first box with this id or a higher one, or where it would be.
    fn at(&self, id: u64) -> usize {
        self.list.partition_point(|listed| listed.bx.id < id)
    }
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init()`, before the module offers anything.
    unsafe(uninit) static BOXES: Mutex<Boxes> = Boxes {
        list: KVVec::new(),
        ids: None,
        next_id: 1,
    };
}

/// Called once, when the module loads.
pub(crate) fn init() -> Result {
    // SAFETY: Called once, before any other use.
    unsafe { BOXES.init() };
    // SAFETY: Called once, before any node.
    kernel::error::to_result(unsafe { ffi::fdbox_shim_nodes_init() })
}

/// Called when the module is unloaded. There are no boxes, because each holds the module.
pub(crate) fn exit() {
    forget_all();
    // SAFETY: The last node is gone.
    unsafe { ffi::fdbox_shim_nodes_exit() };
}

/// Nodes exist before the module is fully loaded; they cannot be used before that.
static LOADED: wait::Gate = wait::Gate::closed();

/// Called once, when the module is loaded or has failed to load.
pub(crate) fn loaded(good: bool) {
    LOADED.open(good);
}

/// Called when a node is opened: waits until the module is loaded; fails with `ENODEV` if that fails.
pub(crate) fn wait_until_loaded() -> Result {
    LOADED.pass()
}

/// FDBOX_CREATE_BOX.
pub(crate) fn create(name: Name, access: NodeAccess) -> Result {
    create_with(name, access, |_| Ok(()))
}

/// Creates a box, which is not visible until `fill` has returned.
pub(crate) fn create_with(
    name: Name,
    access: NodeAccess,
    fill: impl FnOnce(&FdBox) -> Result,
) -> Result {
    let mut boxes = BOXES.lock();
    if name.as_bytes() == CONTROL || boxes.id_of(&name).is_some() {
        return Err(EEXIST);
    }
    // SAFETY: No precondition.
    if boxes.list.len() >= unsafe { ffi::fdbox_shim_max_boxes() } as usize {
        return Err(ENOSPC);
    }
    let id = boxes.next_id;
    // Everything that can fail comes before the first change.
    boxes.list.reserve(1, GFP_KERNEL)?;
    let by_name = RBTreeNode::new(name.try_clone()?, id, GFP_KERNEL)?;
    let bx = FdBox::new(name, id, access.clone())?;
    fill(&bx)?;
    let listed = Listed {
        bx: bx.clone(),
        _module: ModuleHold::new()?,
        node: Node::new(&bx, &access)?,
    };
    listed.label()?;
    boxes.list.push(listed, GFP_KERNEL)?;
    boxes.ids.get_or_insert_with(RBTree::new).insert(by_name);
    boxes.next_id += 1;
    Ok(())
}

/// FDBOX_DELETE_BOX.
pub(crate) fn delete(name: &Name) -> Result {
    let mut boxes = BOXES.lock();
    let id = boxes.id_of(name).ok_or(ENOENT)?;
    let at = boxes.at(id);
    let mut contents = boxes.list.get(at).ok_or(ENOENT)?.bx.kill()?;
    let by_name = boxes.ids.as_mut().and_then(|ids| ids.remove_node(name));
    // This removes the node, so that the name is free for another one when the lock is released.
    drop(boxes.list.remove(at));
    drop(boxes);
    drop(by_name);
    contents.discard();
    Ok(())
}

/// Drops all boxes; what the last kernel left in them is not touched.
pub(crate) fn forget_all() {
    let mut boxes = BOXES.lock();
    boxes.list = KVVec::new();
    boxes.ids = None;
}

/// Number of boxes.
pub(crate) fn count() -> u64 {
    BOXES.lock().list.len() as u64
}

/// The first box with this id or a higher one.
pub(crate) fn next(cursor: u64) -> Option<Arc<FdBox>> {
    let boxes = BOXES.lock();
    let found = boxes.list.get(boxes.at(cursor));
    found.map(|listed| listed.bx.clone())
}

/// Stores the current owner, mode and label of each node in its box. Returns what the next kernel gets, with
/// the ids of the boxes, in the order of the ids.
pub(crate) fn note_access() -> Result<KVVec<(u64, NodeAccess)>> {
    let boxes = BOXES.lock();
    let mut all = KVVec::with_capacity(boxes.list.len(), GFP_KERNEL)?;
    for listed in boxes.list.iter() {
        // SAFETY: By the invariants of `Node`; it is in the list, which is locked.
        if let Some(access) = unsafe { NodeAccess::of_node(listed.node.0)? } {
            all.push((listed.bx.id, listed.bx.set_access(access)), GFP_KERNEL)?;
        }
    }
    Ok(all)
}

/// Carries over the boxes of the last kernel that were not unsealed.
pub(crate) fn carry_all() {
    let mut cursor = 0;
    while let Some(bx) = next(cursor) {
        cursor = bx.id + 1;
        if let Err(err) = bx.carry() {
            pr_err!("box {} is lost at this kexec: {:?}\n", bx.name, err);
        }
    }
}

/// Called when a node is opened.
///
/// # Safety
///
/// Called in process context, while the module is loaded. `bx` is what the node was created with, and the
/// node holds it.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_box_open(bx: *mut c_void) -> c_int {
    // SAFETY: By the safety requirements of this function; the reference stays with the node.
    let bx = unsafe { <Arc<FdBox> as ForeignOwnable>::borrow(bx) };
    from_result(|| {
        wait_until_loaded()?;
        bx.may_be_opened().map(|()| 0)
    })
}

crate::ffi::check_export!(fdbox_rs_box_open);

/// Called when an LSM has a new policy, which may accept labels that the last one did not.
///
/// # Safety
///
/// Called in process context, while the module is loaded.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_policy_changed() {
    for listed in BOXES.lock().list.iter() {
        if let Err(err) = listed.label() {
            pr_err!(
                "the label of box {} is not set: {:?}\n",
                listed.bx.name,
                err
            );
        }
    }
}

crate::ffi::check_export!(fdbox_rs_policy_changed);

/// Drops the reference of a node.
///
/// # Safety
///
/// `bx` is what `fdbox_shim_node_create()` was given, and the node is gone.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_box_put(bx: *mut c_void) {
    // SAFETY: By the safety requirements of this function, `into_foreign()` created it.
    drop(unsafe { Arc::<FdBox>::from_foreign(bx) });
}

crate::ffi::check_export!(fdbox_rs_box_put);
