//! How a claim holds a box.

/// Whether a claim may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// With other shared claims: the two VMMs of a handover in one kernel.
    Shared,
    /// Not shared.
    Exclusive,
}
