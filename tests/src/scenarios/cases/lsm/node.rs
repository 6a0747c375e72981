//! The security labels of boxes' nodes, across a kexec.

use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::policy::{enforce, load_policy, load_policy_with};
use super::{SELINUX, as_text, become_domain, domain, has};
use crate::cases::Cx;
use crate::cases::rights::{help_with, helped};
use crate::check::{equal, fails};
use crate::fdbox::{FdBox, node_path};
use crate::host;

const EARLY: &str = "node-label";
const LATE: &str = "node-label-late";
const LEARNED: &str = "node-label-learned";
const IGNORED: &str = "node-label-ignored";

const USUAL_LABEL: &str = "u:object_r:host";
const LABEL: &str = "u:object_r:owner";
/// The policy of the first kernel has this type, and that of the second does not.
const DEPARTED: &str = "departed";
const USUAL: &str = "stranger";
const DEPARTED_LABEL: &str = "u:object_r:departed";

const IGNORE: &str = "/sys/module/fdbox/parameters/ignore_labels";

fn relabel(name: &str, label: &str) -> Result<()> {
    let path = node_path(name);
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(&path, super::LABEL, label.as_bytes(), flags)
        .with_context(|| format!("Label {path}"))?;
    is_labelled(name, label)
}

fn is_labelled(name: &str, wanted: &str) -> Result<()> {
    let mut label = [0; 64];
    let len = rustix::fs::getxattr(node_path(name), super::LABEL, &mut label[..])?;
    let label = as_text(&label[..len])?;
    equal(&format!("The label of {name}"), label.as_str(), wanted)
}

pub(super) fn before(cx: &Cx<'_>) -> Result<()> {
    if !has(cx, SELINUX, "SELinux")? {
        return Ok(());
    }
    load_policy_with(DEPARTED, USUAL)?;
    for name in [EARLY, LATE, LEARNED, IGNORED] {
        FdBox::create(name)?;
        is_labelled(name, USUAL_LABEL)?;
    }
    relabel(EARLY, LABEL)?;
    relabel(LEARNED, DEPARTED_LABEL)?;
    relabel(IGNORED, DEPARTED_LABEL)?;
    for name in [EARLY, LATE, LEARNED, IGNORED] {
        FdBox::open(name)?.seal()?;
    }
    // Changes after SEAL count as well.
    relabel(LATE, LABEL)
}

pub(super) fn after(cx: &Cx<'_>) -> Result<()> {
    if !has(cx, SELINUX, "SELinux")? {
        return Ok(());
    }
    // What SELinux says as long as it has no policy.
    equal("This program's domain", domain()?, "kernel".to_owned())?;
    let opened_before = FdBox::open(EARLY)?;
    load_policy()?;
    is_labelled(EARLY, LABEL)?;
    enforce(true)?;
    let refused = help_with("stranger-lists", &opened_before);
    enforce(false)?;
    refused?;
    equal("What the owner lists", opened_before.entries()?.len(), 0)?;
    for name in [EARLY, LATE] {
        is_labelled(name, LABEL)?;
        finish(name)?;
    }
    for name in [LEARNED, IGNORED] {
        is_refused(name)?;
    }
    fs::write(IGNORE, "1").context("Ignore labels")?;
    let ignored = finish(IGNORED);
    fs::write(IGNORE, "0")?;
    ignored?;
    is_refused(LEARNED)?;
    load_policy_with(DEPARTED, USUAL)?;
    is_labelled(LEARNED, DEPARTED_LABEL)?;
    finish(LEARNED)
}

/// The helper `stranger-lists`: a descriptor from before the policy does not let a stranger use the box.
pub(crate) fn stranger_lists(argument: &str) -> Result<()> {
    let (fdbox, _control) = helped(argument)?;
    become_domain("stranger")?;
    fails("NEXT_FD by a stranger", fdbox.entries(), Errno::ACCESS)
}

/// It cannot be opened, has not the label that it came with, and the log says which.
fn is_refused(name: &str) -> Result<()> {
    is_labelled(name, USUAL_LABEL)?;
    let Err(error) = FdBox::open(name) else {
        bail!("{name} can be opened without its label");
    };
    let errno = error.downcast_ref().and_then(io::Error::raw_os_error);
    equal("Opening it", errno, Some(Errno::ACCESS.raw_os_error()))?;
    let says = |line: &String| {
        line.contains(&format!("box {name} cannot be opened")) && line.contains(DEPARTED_LABEL)
    };
    let log = host::kernel_log()?;
    ensure!(log.iter().any(says), "The log does not say so: {log:?}");
    Ok(())
}

fn finish(name: &str) -> Result<()> {
    let fdbox = FdBox::open(name)?;
    fdbox.unseal()?;
    fdbox.delete()
}
