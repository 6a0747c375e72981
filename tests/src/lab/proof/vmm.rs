//! The rights of the process that runs a guest.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::run::Value;

/// What the host's kernel says about the process of the guest's VMM, the same before and after
/// updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vmm {
    pub(crate) uid: u32,
    /// All capabilities that any of its threads could use.
    pub(crate) capabilities: u64,
    /// The seccomp mode: 2 is a filter.
    pub(crate) seccomp: u32,
}

impl Vmm {
    /// In every note the VMM must have been the same user, not root, without capabilities and under
    /// a filter.
    pub(super) fn of(values: &[&Value]) -> Result<Option<Self>> {
        let read = |value: &&Value| serde_json::from_value(value.value.clone());
        let values: Vec<Self> = values.iter().map(read).collect::<Result<_, _>>()?;
        let Some(last) = values.last().cloned() else {
            return Ok(None);
        };
        ensure!(values.len() > 1, "The VMM was looked at once");
        for vmm in values {
            ensure!(vmm == last, "The VMM had {vmm:?}, and then {last:?}");
        }
        ensure!(
            last.uid != 0 && last.capabilities == 0 && last.seccomp == 2,
            "The VMM has more rights than it needs: {last:?}"
        );
        Ok(Some(last))
    }
}
