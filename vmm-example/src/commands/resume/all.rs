//! `resume --all`: every waiting guest.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::Context;
use vmm_fdbox::BoxName;
use vmm_fdbox::update::ExitStatus;

use super::total::{GuestEnd, Total};
use super::waiting::{Waiting, waiting};
use super::{Resumed, drive, looking, privileges, start};
use crate::cli::{ResumeArgs, SandboxArgs};
use crate::commands::keeper;
use crate::commands::report_file::{report_path, write_report};
use crate::error::{chain, printable, say, warn};

pub(super) fn resume(args: &ResumeArgs) -> anyhow::Result<ExitStatus> {
    let control = keeper::open(&args.home, true)?;
    let Waiting { boxes, busy } = waiting(&control)?;
    for name in busy {
        warn(&format!(
            "{name}: another process works on this box, it is left alone"
        ));
    }
    let dir = &args.all.run_dir;
    make_run_dir(dir).with_context(|| format!("Cannot create {}", dir.display()))?;
    let guest = |name: BoxName| {
        let privileges = privileges(&control, &name, args)?;
        let command = command(&name, args, privileges);
        let vmm = start(command.context("Cannot find this program")?);
        anyhow::Ok((name, vmm))
    };
    let guests = boxes.into_iter().map(guest);
    let guests = guests.collect::<anyhow::Result<Vec<_>>>()?;
    let came = drive(args, &control, guests);
    let total = Total::of(came.into_iter().map(GuestEnd::from).collect());
    show(args, &total)?;
    Ok(total.exit_status())
}

/// Creates the directory for guests' sockets. Other users can pass through to their own directories
/// in it, but cannot list it.
fn make_run_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
}

/// The command for a guest's VMM, with its sockets in the run directory, or in a directory of its
/// user there.
fn command(name: &BoxName, args: &ResumeArgs, privileges: SandboxArgs) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    if args.all.from_initramfs {
        // systemd spares processes whose argv[0] starts like this when it leaves an initramfs.
        command.arg0("@vmm-example");
    }
    let mut folder = args.all.run_dir.clone();
    if privileges.user.is_some() {
        folder.push(name.to_string());
    }
    let at = |ending| folder.join(format!("{name}{ending}"));
    command.arg("member").arg("--api-socket").arg(at(".sock"));
    command.arg(format!("--console=socket={}", at(".console").display()));
    let status = args.all.status_sockets.then(|| at(".status"));
    command.args(looking(args, status.as_deref()));
    command.args(privileges.arguments());
    command.args(args.force.argument());
    Ok(command)
}

impl From<Resumed> for GuestEnd {
    fn from(came: Resumed) -> Self {
        let exit_status = came.exit_status();
        let Resumed {
            mut resumption,
            report,
        } = came;
        // It lives on by itself.
        if let Some(child) = resumption.child.take() {
            child.let_go();
        }
        Self {
            name: resumption.box_name.to_string(),
            position: resumption.position,
            ran_after_ns: resumption.ran_after.map(|time| time.as_nanos() as u64),
            exit_status: exit_status.code(),
            error: resumption
                .message
                .filter(|_| exit_status != ExitStatus::Done),
            report,
        }
    }
}

fn show(args: &ResumeArgs, total: &Total) -> anyhow::Result<()> {
    let json = serde_json::to_string(total)?;
    if let Some(path) = &args.report
        && let Err(error) = write_total(path, &json)
    {
        warn(&format!("The report is lost: {}", chain(error.as_ref())));
    }
    if args.json {
        say(&json);
    } else {
        // If standard error is closed, there is nobody to tell.
        let _ = write!(io::stderr(), "{}", printable(&total.to_string()));
    }
    Ok(())
}

fn write_total(path: &Path, json: &str) -> anyhow::Result<()> {
    write_report(&report_path(path, "total"), json)
}
