//! Boxes and security modules: on a host with SELinux and Yama, which only the debug kernel has.
//!
//! Other kernels have neither, and there is nothing to test; the value `skipped` reports that.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

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
    &Scenario {
        name: "lsm/yama",
        about: "boxes work the same with all of Yama's ptrace restrictions",
        host: HostKind::OneBoot,
        stages: &[yama],
    },
];

const SELINUX: &str = "/sys/fs/selinux";
/// Where the lab puts the compiled tests/kernel/selinux.cil.
const POLICY: &str = "/etc/selinux-policy";
const DOMAIN: &str = "/proc/thread-self/attr/current";
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
const NAME: &str = "denied";
const PAGES: u64 = 4;

/// Whether this kernel has a file; reports it if not.
fn has(cx: &Cx<'_>, path: &str, what: &str) -> Result<bool> {
    let has = Path::new(path).exists();
    if !has {
        cx.value("skipped", format!("lsm: this kernel has no {what}"))?;
    }
    Ok(has)
}

/// Initialises SELinux, unless that is done.
fn load_policy() -> Result<()> {
    if !Path::new(SELINUX).join("load").exists() {
        mount("selinuxfs", SELINUX, "selinuxfs", MountFlags::empty(), None)
            .context("Mount selinuxfs")?;
    }
    let policy = fs::read(POLICY).with_context(|| format!("Read {POLICY}"))?;
    fs::write(Path::new(SELINUX).join("load"), policy).context("Load the policy")?;
    equal("This program's domain", domain()?, "u:r:host".to_owned())
}

/// Whether the policy is enforced, or violations are only logged.
fn enforce(enforce: bool) -> Result<()> {
    let text = if enforce { "1" } else { "0" };
    fs::write(Path::new(SELINUX).join("enforce"), text).context("Write enforce")
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
    let said = refused.map_or_else(|error| format!("{error:#}"), |()| "refused".to_owned());
    ensure!(
        said.contains("GET_FD by a stranger: succeeded"),
        "With SELinux permissive the stranger is not given the file: {said}"
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
