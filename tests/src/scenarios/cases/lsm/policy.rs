//! The SELinux policy of these scenarios, and variants of it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};

use super::{SELINUX, domain};
use crate::check::equal;

/// Where the lab puts the compiled tests/kernel/selinux.cil.
const POLICY: &str = "/etc/selinux-policy";
/// Offset of its capabilities: after two words, "SE Linux" and four words.
const CAPABILITIES: usize = 32;
/// security/selinux/include/policycap.h.
const MEMFD_CLASS: u32 = 13;

/// Initialises SELinux, unless that is done.
pub(super) fn load_policy() -> Result<()> {
    load(&read()?)
}

/// Loads the same policy with another name for a type. Both names have the same length.
pub(super) fn load_policy_with(name: &str, instead_of: &str) -> Result<()> {
    let mut policy = read()?;
    let len = instead_of.len();
    let is_name = |at: &usize| policy[*at..].starts_with(instead_of.as_bytes());
    let places: Vec<usize> = (0..policy.len()).filter(is_name).collect();
    equal("The length of the other name", name.len(), len)?;
    equal("How often the policy names it", places.len(), 1)?;
    policy[places[0]..places[0] + len].copy_from_slice(name.as_bytes());
    load(&policy)
}

fn read() -> Result<Vec<u8>> {
    fs::read(POLICY).with_context(|| format!("Read {POLICY}"))
}

/// Loads the same policy with the capability `memfd_class`, without which SELinux does not label memfds. The policy
/// compiler does not know it yet.
pub(super) fn load_policy_with_labels() -> Result<()> {
    let mut policy = read()?;
    // An empty bitmap: the bits of a node, the number of bits, the number of nodes.
    let empty = [64, 0, 0].map(u32::to_le_bytes).concat();
    let bitmap = policy.get_mut(CAPABILITIES..CAPABILITIES + empty.len());
    let bitmap = bitmap.filter(|bitmap| **bitmap == *empty);
    let bitmap = bitmap.context("The policy's capabilities are not where they were")?;
    bitmap.copy_from_slice(&[64, 64, 1].map(u32::to_le_bytes).concat());
    let node = [
        0_u32.to_le_bytes().as_slice(),
        &(1_u64 << MEMFD_CLASS).to_le_bytes(),
    ]
    .concat();
    policy.splice(CAPABILITIES + empty.len()..CAPABILITIES + empty.len(), node);
    load(&policy)
}

fn load(policy: &[u8]) -> Result<()> {
    if !Path::new(SELINUX).join("load").exists() {
        mount("selinuxfs", SELINUX, "selinuxfs", MountFlags::empty(), None)
            .context("Mount selinuxfs")?;
    }
    fs::write(Path::new(SELINUX).join("load"), policy).context("Load the policy")?;
    equal("This program's domain", domain()?, "u:r:host".to_owned())
}

/// Whether the policy is enforced, or violations are only logged.
pub(super) fn enforce(enforce: bool) -> Result<()> {
    let text = if enforce { "1" } else { "0" };
    fs::write(Path::new(SELINUX).join("enforce"), text).context("Write enforce")
}
