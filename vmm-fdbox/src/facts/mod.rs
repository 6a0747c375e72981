//! Facts about a host: what it has for guests and updates, without a guest.
//!
//! The checks of an update report what prevents that update. Facts describe a host before there is any guest:
//! what is there, what is missing, and what cannot be known. Both use the same functions for what they share.
//!
//! ```
//! use vmm_fdbox::Home;
//! use vmm_fdbox::facts::{HostRoot, Module, Need, host_facts};
//!
//! let facts = host_facts(&HostRoot::default(), &Module::look(), &[Home::Fdbox]);
//! let can_be_updated = !facts.iter().any(|fact| fact.rules_out(Need::Kexec));
//! # let _ = can_be_updated;
//! ```

mod amd_vi;
mod fact;
mod handover;
mod homes;
mod limits;
pub(crate) mod module;
mod pci;
mod previous;
mod root;
#[cfg(test)]
pub(crate) mod testing;
mod vtd;

use rustix::io::Errno;

pub(crate) use amd_vi::has_amd_vi;
pub use fact::{Fact, FactState, Need};
pub use handover::boxes_wait_for_module;
pub use homes::first_home;
pub(crate) use pci::{hands_over_bars, has_config_in_memory};
pub use previous::PreviousKernel;
pub use root::HostRoot;
pub use vtd::ScalableMode;

use crate::control::{Control, Info};
use crate::home::Home;
use crate::kexec::host as kexec_host;

/// The state of the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Module {
    /// Loaded.
    Here(Info),
    /// Not loaded.
    Absent,
    /// It does not answer this process; the text says why.
    Silent(String),
}

impl Module {
    /// Asks the module on this host.
    #[must_use]
    pub fn look() -> Self {
        match Control::open().and_then(|control| control.info()) {
            Ok(info) => Self::Here(info),
            Err(error) if error.errno() == Errno::NOENT => Self::Absent,
            Err(error) => Self::Silent(crate::error::Chain(&error).to_string()),
        }
    }
}

/// All facts about a host except KVM and devices. Changes nothing.
///
/// `homes` are those that the calling program can use, in order of preference.
#[must_use]
pub fn host_facts(root: &HostRoot, module: &Module, homes: &[Home]) -> Vec<Fact> {
    let mut facts = homes::facts(root, module, homes);
    facts.extend(homes::kinds(root, module));
    facts.extend(module::facts(root));
    facts.extend(handover::facts(root, module));
    facts.extend(kexec_host::facts(root));
    facts.extend(limits::facts(root));
    facts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::testing::FakeRoot;
    use super::*;
    use crate::kexec::testing::assert_documented;

    #[test]
    fn a_host_of_which_nothing_can_be_seen_is_no_error() {
        let root = FakeRoot::new().root();
        let facts = host_facts(&root, &Module::Absent, &[Home::Fdbox]);
        assert!(facts.iter().any(|fact| fact.rules_out(Need::Kexec)));
        let names: BTreeSet<_> = facts.iter().map(|fact| &fact.name).collect();
        assert_eq!(names.len(), facts.len(), "A name is there twice");
        for fact in &facts {
            let is_ok = fact.state == FactState::Ok;
            assert_eq!(fact.remedy.is_none(), is_ok, "{fact:?}");
            assert_documented(&format!("`{}`", fact.name));
        }
    }
}
