//! `keeper`: keeps boxes on a kernel without the module; and how the other commands find or start
//! one.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, thread};

use anyhow::{Context, bail};
use rustix::io::Errno;
use vmm_fdbox::keeper::Keeper;
use vmm_fdbox::update::ExitStatus;
use vmm_fdbox::{BoxError, Control, Home};

use crate::cli::{HomeArg, HomeArgs, KeeperArgs};
use crate::error::{chain, say};

const FDBOX: &str = "/dev/fdbox/fdbox";
const LUO: &str = "/dev/liveupdate";

pub(super) fn keeper(args: &KeeperArgs) -> anyhow::Result<ExitStatus> {
    let ready = match start(args) {
        Ok(ready) => ready,
        Err(error) if args.socket.is_none() => {
            // For the process that started it.
            say(&chain(error.as_ref()));
            return Ok(ExitStatus::Error);
        }
        Err(error) => return Err(error),
    };
    let (keeper, listener) = ready;
    if args.socket.is_none() {
        // The process that started this one waits for the end of its output: no text means success.
        let null = File::options().write(true).open("/dev/null");
        rustix::stdio::dup2_stdout(null.context("Cannot open /dev/null")?)?;
    }
    keeper
        .serve(listener.as_fd())
        .context("Cannot accept connections")?;
    if let Some(path) = &args.socket {
        // The keeper has ended: nothing will answer on this socket any more.
        let _ = std::fs::remove_file(path);
    }
    Ok(ExitStatus::Done)
}

fn start(args: &KeeperArgs) -> anyhow::Result<(Keeper, OwnedFd)> {
    let listener = match &args.socket {
        Some(path) => listen(path)?,
        None => rustix::io::dup(rustix::stdio::stdin()).context("Cannot use standard input")?,
    };
    let keeper = match args.home {
        Home::Luo => Keeper::luo()?,
        _ => Keeper::holder()?,
    };
    Ok((keeper, listener))
}

fn listen(path: &Path) -> anyhow::Result<OwnedFd> {
    Keeper::listen(path).with_context(|| format!("Cannot listen on {}", path.display()))
}

/// Opens the home of this host's boxes. With `leaves`, the boxes have to reach another kernel, or
/// have come from one.
pub(super) fn open(args: &HomeArgs, leaves: bool) -> anyhow::Result<Control> {
    match args.home {
        HomeArg::Fdbox => Ok(Control::open()?),
        HomeArg::Luo => keeper_of(args, Home::Luo),
        HomeArg::Holder => keeper_of(args, Home::Holder),
        HomeArg::Auto if Path::new(FDBOX).exists() => Ok(Control::open()?),
        HomeArg::Auto => match running(&args.keeper)? {
            Some(control) => Ok(control),
            None if Path::new(LUO).exists() => start_one(&args.keeper, Home::Luo),
            // Its error says what is missing.
            None if leaves => Ok(Control::open()?),
            None => start_one(&args.keeper, Home::Holder),
        },
    }
}

fn keeper_of(args: &HomeArgs, home: Home) -> anyhow::Result<Control> {
    match running(&args.keeper)? {
        None => start_one(&args.keeper, home),
        Some(control) if control.home() == home => Ok(control),
        Some(control) => bail!(
            "The keeper at {} is a {}, and no {home}: end what uses it, or name another socket",
            args.keeper.display(),
            control.home()
        ),
    }
}

/// Connects to the keeper that listens on a socket, if there is one.
fn running(path: &Path) -> Result<Option<Control>, BoxError> {
    match Control::connect(path) {
        Ok(control) => Ok(Some(control)),
        Err(error) if matches!(error.errno(), Errno::NOENT | Errno::PIPE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Starts a keeper that outlives this process.
fn start_one(path: &Path, home: Home) -> anyhow::Result<Control> {
    let listener = listen(path)?;
    let program = env::current_exe().context("Cannot find this program")?;
    let mut command = Command::new(program);
    command.args(["keeper", "--home", &home.to_string()]);
    command
        .stdin(listener)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // Keeps signals of this command's terminal from it.
    command.process_group(0);
    let mut child = command.spawn().context("Cannot start a keeper")?;
    drop(command);
    let mut complaint = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_string(&mut complaint)
            .context("Cannot read the keeper's output")?;
    }
    if !complaint.is_empty() {
        let _ = child.wait();
        bail!(complaint.trim_end().to_owned());
    }
    // If no thread can be started the keeper remains a zombie until this process ends.
    let _ = thread::Builder::new().spawn(move || child.wait());
    Ok(Control::connect(path)?)
}
