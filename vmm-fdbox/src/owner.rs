//! The owner of a box.

/// The user and group of a VMM. They own the VMM's box, unless that belongs to root.
///
/// A box's node has an owner, which crosses a kexec. Owning a box does not permit opening it, and
/// only a process with CAP_CHOWN can change the owner. So a coordinator uses it to tell the one in
/// the next host which user the guest's VMM ran as, in a place that this VMM cannot write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The user ID.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
}

impl Owner {
    /// The owner of a box that was not given to anyone.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}
