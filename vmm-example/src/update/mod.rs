//! The guest's side of an update.

pub(crate) mod handover_info;
pub(crate) mod leaving;
mod lifeboat;
mod moving;
pub(crate) mod outline;

use vmm_fdbox::update::PartyError;

use crate::error::chain;

pub(crate) use moving::{in_box, kinds};

/// The name of the VM in its box.
pub(crate) const VM_FD: &str = "vm";
/// The name of guest RAM in its box.
pub(crate) const MEMORY_FD: &str = "memory0";

/// An error with its causes, for the library.
pub(crate) fn party_error(error: impl std::error::Error + Send + Sync + 'static) -> PartyError {
    chain(&error).into()
}

#[cfg(test)]
mod tests;
