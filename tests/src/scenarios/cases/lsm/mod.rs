//! Boxes and security modules: on a host with SELinux and Yama, which only the debug kernel has.
//!
//! Other kernels have neither, and there is nothing to test; the value `skipped` reports that.

pub(super) mod node;
mod policy;

use std::ffi::CStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use self::policy::{enforce, load_policy, load_policy_with_labels};
use super::rights::{self, help_with, helped};
use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::memory::{self, PAGE, check_pages, memfd, write_pages};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lsm/denied-receive",
        about: "EACCES: SELinux denies GET_FD of a file that the caller may not use, and \
                the box keeps it",
        host: HostKind::OneBoot,
        stages: &[denied],
    },
    // First in its second kernel: no other scenario has loaded a policy yet.
    &Scenario {
        name: "lsm/label-of-the-node",
        about: "a box's node keeps its security label, by which SELinux judges commands on a descriptor from before \
                its policy, too; with a label that is not valid in the next kernel the box cannot be opened there, \
                until a policy knows the label or the administrator ignores it",
        host: HostKind::Kexec,
        stages: &[node::before, node::after],
    },
    &Scenario {
        name: "lsm/label",
        about: "a memfd that is restored has the label of one that the taker makes",
        host: HostKind::Kexec,
        stages: &[labelled_before, labelled_after],
    },
    &Scenario {
        name: "lsm/yama",
        about: "boxes work the same with all of Yama's ptrace restrictions",
        host: HostKind::OneBoot,
        stages: &[yama],
    },
];

const SELINUX: &str = "/sys/fs/selinux";
/// The attribute of a file that is its label.
const LABEL: &CStr = c"security.selinux";
const DOMAIN: &str = "/proc/thread-self/attr/current";
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
const NAME: &str = "denied";
const LABELLED: &str = "labelled";
const PAGES: u64 = 4;

/// Whether this kernel has a file; reports it if not.
fn has(cx: &Cx<'_>, path: &str, what: &str) -> Result<bool> {
    let has = Path::new(path).exists();
    if !has {
        cx.value("skipped", format!("lsm: this kernel has no {what}"))?;
    }
    Ok(has)
}

fn domain() -> Result<String> {
    let label = fs::read_to_string(DOMAIN).context("Read this program's label")?;
    Ok(label.trim_end_matches(['\0', '\n']).to_owned())
}

fn become_domain(name: &str) -> Result<()> {
    let label = format!("u:r:{name}");
    fs::write(DOMAIN, &label).with_context(|| format!("Become {label}"))?;
    equal("This program's domain", domain()?, label)
}

fn denied(cx: &Cx<'_>) -> Result<()> {
    if !has(cx, SELINUX, "SELinux")? {
        return Ok(());
    }
    load_policy()?;
    enforce(true)?;
    let result = denied_while_enforcing();
    enforce(false)?;
    let fdbox = result?;

    // Only the policy was in the way: what it forbids works while it is not enforced.
    help_with("owner-puts", &fdbox)?;
    let refused = help_with("stranger-takes", &fdbox);
    let outcome = refused.map_or_else(|error| format!("{error:#}"), |()| "refused".to_owned());
    ensure!(
        outcome.contains("GET_FD by a stranger: succeeded"),
        "With SELinux permissive the stranger is not given the file: {outcome}"
    );
    equal("The number of descriptors", fdbox.entries()?.len(), 0)?;
    fdbox.delete()
}

fn denied_while_enforcing() -> Result<FdBox> {
    let fdbox = FdBox::create(NAME)?;
    help_with("owner-puts", &fdbox)?;
    help_with("stranger-takes", &fdbox)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 1)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    help_with("stranger-takes", &fdbox)?;
    help_with("owner-takes", &fdbox)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 0)?;
    Ok(fdbox)
}

/// The helper `owner-puts`: puts a file of its own into the box.
pub(super) fn owner_puts(argument: &str) -> Result<()> {
    let (fdbox, _control) = helped(argument)?;
    become_domain("owner")?;
    let file = memfd(c"owned", PAGES * PAGE)?;
    write_pages(&file, 27, PAGES)?;
    fdbox.put(file, "owned")
}

/// The helper `stranger-takes`: is refused the file.
pub(super) fn stranger_takes(argument: &str) -> Result<()> {
    let (fdbox, _control) = helped(argument)?;
    become_domain("stranger")?;
    let before = descriptors()?;
    fails(
        "GET_FD by a stranger",
        fdbox.try_get("owned"),
        Errno::ACCESS,
    )?;
    equal(
        "The number of this process's descriptors",
        descriptors()?,
        before,
    )
}

fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// The helper `owner-takes`: gets the file back.
pub(super) fn owner_takes(argument: &str) -> Result<()> {
    let (fdbox, _control) = helped(argument)?;
    become_domain("owner")?;
    check_pages(&memory::file(fdbox.get("owned")?), 27, PAGES)
}

fn labelled_before(cx: &Cx<'_>) -> Result<()> {
    if !has(cx, SELINUX, "SELinux")? {
        return Ok(());
    }
    let fdbox = FdBox::create(LABELLED)?;
    let file = memfd(c"labelled", PAGES * PAGE)?;
    write_pages(&file, 28, PAGES)?;
    fdbox.put(file, "labelled")?;
    fdbox.seal()
}

fn labelled_after(cx: &Cx<'_>) -> Result<()> {
    if !has(cx, SELINUX, "SELinux")? {
        return Ok(());
    }
    load_policy_with_labels()?;
    let fdbox = FdBox::open(LABELLED)?;
    fdbox.unseal()?;
    help_with("owner-restores", &fdbox)?;
    fdbox.delete()
}

/// The helper `owner-restores`: a restored memfd has the same label as one that it creates.
pub(super) fn owner_restores(argument: &str) -> Result<()> {
    let (fdbox, _control) = helped(argument)?;
    become_domain("owner")?;
    let restored = memory::file(fdbox.get("labelled")?);
    let made = label(&memfd(c"made", PAGE)?)?;
    equal(
        "The label of what is made",
        made.as_str(),
        "u:object_r:owner",
    )?;
    equal("The label of what is restored", label(&restored)?, made)?;
    check_pages(&restored, 28, PAGES)
}

fn label(file: impl AsFd) -> Result<String> {
    let mut label = [0; 64];
    let len = rustix::fs::fgetxattr(file, LABEL, &mut label[..])?;
    as_text(&label[..len])
}

fn as_text(label: &[u8]) -> Result<String> {
    let label = String::from_utf8(label.to_vec())?;
    Ok(label.trim_end_matches('\0').to_owned())
}

/// Not with 3, which cannot be reverted: other scenarios on this host examine processes. For a
/// process without capabilities, like the one here, 2 forbids the same.
fn yama(cx: &Cx<'_>) -> Result<()> {
    if !has(cx, PTRACE_SCOPE, "Yama")? {
        return Ok(());
    }
    let before = fs::read_to_string(PTRACE_SCOPE)?;
    let passed = ["0", "1", "2"].iter().try_for_each(|scope| {
        fs::write(PTRACE_SCOPE, scope)?;
        rights::pass("yama").with_context(|| format!("With ptrace_scope {scope}"))
    });
    fs::write(PTRACE_SCOPE, before).context("Put ptrace_scope back")?;
    passed
}
