//! Several guests, updated by one kexec.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::bench::{Layout, RESUMED, WITNESS};
use fdbox_lab::event::EventPort;
use fdbox_lab::witness::command::RESET_GAP;

use super::{number, pages, say};
use crate::fleet::{Member, MemberSpec, read_report, side_by_side, update_all};
use crate::guest::VMM;

/// The directory of the reports.
const FOLDER: &str = "/run/reports";

fn names(guests: u64) -> impl Iterator<Item = String> {
    (0..guests).map(|number| format!("vm{number}"))
}

/// Boots them and updates the host under them. Returns only on failure.
pub(super) fn update(guests: &str, ram: &str, mib: &str, layout: &str) -> Result<()> {
    let guests = number(guests)?;
    let port = Arc::new(EventPort::open()?);
    let layout = Layout::named(layout).with_context(|| format!("There is no layout {layout}"))?;
    pages::choose(layout)?;
    let mut members = Vec::new();
    for name in names(guests) {
        let spec = MemberSpec {
            mib: number(mib)? as u32,
            ..MemberSpec::new(&name, ram, guests as u8)
        };
        let member = Member::start(spec, &[], &port)?;
        member.wait_until_ready()?;
        members.push(member);
    }
    side_by_side(&mut members, |member| {
        // From now on, gaps are caused by the update.
        member.tell(RESET_GAP)?;
        member.wait_for_beat()
    })?;
    let status = update_all(&[])?.stdin(Stdio::null()).status()?;
    bail!("The host was not updated: {status}")
}

/// Resumes them in the new host, whose init has been running for `uptime` seconds.
pub(super) fn start_resume(uptime: f64) -> Result<Child> {
    std::fs::create_dir_all(FOLDER)?;
    let mut resume = Command::new(VMM);
    resume.args(["resume", "--all", "--report", FOLDER]);
    resume.arg("--init-uptime").arg(format!("{uptime:.9}"));
    Ok(resume.stdin(Stdio::null()).spawn()?)
}

/// Sends what each of them and its VMM report.
pub(super) fn arrived(mut resume: Child, guests: u64, port: &Arc<EventPort>) -> Result<()> {
    let status = resume.wait()?;
    ensure!(status.success(), "vmm-example resume --all ended: {status}");
    names(guests).try_for_each(|name| {
        let mut member = Member::attach(&name, port)?;
        member.wait_for_beat()?;
        say(port, WITNESS, member.report()?)?;
        say(port, RESUMED, read_report(FOLDER, &name)?)
    })
}
