//! `keeper`: keeps boxes on a kernel without the module; and how the other commands find or start
//! one.

use std::env;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::Errno;
use vmm_fdbox::coordinator::Child;
use vmm_fdbox::facts::{HostRoot, Module, boxes_wait_for_module};
use vmm_fdbox::keeper::Keeper;
use vmm_fdbox::update::ExitStatus;
use vmm_fdbox::{BoxError, Control, Deadline, Home, Info};

use super::answer::hear;
use crate::activation::Activation;
use crate::cli::{HomeArg, HomeArgs, KeeperArgs};
use crate::error::chain;
use crate::sandbox;

const FDBOX: &str = "/dev/fdbox/fdbox";
const LUO: &str = "/dev/liveupdate";

/// From the start of a keeper until it listens. It has taken no boxes from LUO by then, so killing it
/// loses none.
const START_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn keeper(args: &KeeperArgs) -> anyhow::Result<ExitStatus> {
    let passed = Activation::of_this_process();
    let passed = passed.context("Cannot take what the service manager passes")?;
    // While files can be opened.
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.context("Cannot open /dev/null")?;
    // Otherwise another command has started it, and waits.
    let is_service = args.socket.is_some() || passed.listener.is_some();
    let ready = match start(args, passed) {
        Ok(ready) => ready,
        Err(error) if !is_service => {
            // For the process that started it.
            let _ = rustix::io::write(rustix::stdio::stdin(), chain(error.as_ref()).as_bytes());
            return Ok(ExitStatus::Error);
        }
        Err(error) => return Err(error),
    };
    let (keeper, listener) = ready;
    if !is_service {
        // The process that started this one waits for the end of the connection: no text means success.
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stdin(&null)?;
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

fn start(args: &KeeperArgs, passed: Activation) -> anyhow::Result<(Keeper, OwnedFd)> {
    let Activation {
        listener,
        manager,
        stored,
        most_stored,
    } = passed;
    let listener = match (&args.socket, listener) {
        (Some(path), _) => listen(path)?,
        (None, Some(listener)) => listener,
        (None, None) => rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 0)
            .context("Cannot use standard output")?,
    };
    let manager = manager.map(Arc::new);
    let keeper = match (args.home, &manager) {
        (Home::Luo, _) => Keeper::luo()?,
        (_, Some(manager)) if most_stored > 0 => {
            Keeper::stored(Arc::clone(manager), most_stored, stored)?
        }
        _ => Keeper::holder()?,
    };
    sandbox::enter_keeper()?;
    if let Some(manager) = manager {
        let ready = manager.ready();
        ready.context("Cannot tell the service manager that the keeper is up")?;
    }
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
        HomeArg::Auto => match module()? {
            Some(control) => Ok(control),
            None => any_keeper(args, leaves),
        },
    }
}

fn any_keeper(args: &HomeArgs, leaves: bool) -> anyhow::Result<Control> {
    if leaves && boxes_wait_for_module(&HostRoot::default(), &Module::look()) {
        bail!(
            "The last kernel handed boxes over to FDBox, and fdbox.ko is not loaded: load it (modprobe fdbox), or name \
             another home (--home luo)"
        );
    }
    match running(&args.keeper)? {
        Some(control) => Ok(control),
        None if Path::new(LUO).exists() => start_one(&args.keeper, Home::Luo),
        // Its error says what is missing.
        None if leaves => Ok(Control::open()?),
        None => start_one(&args.keeper, Home::Holder),
    }
}

/// The module, if it is loaded and LUO is no better.
fn module() -> anyhow::Result<Option<Control>> {
    if !Path::new(FDBOX).exists() {
        return Ok(None);
    }
    let control = Control::open()?;
    let has_luo = Path::new(LUO).exists();
    let is_better = is_luo_better(&control.info()?, has_luo);
    Ok((!is_better).then_some(control))
}

/// Whether guests reach the next kernel through LUO, and not through the module: on a kernel without the patches it keeps
/// no VM. A box that it has already has to be found there.
fn is_luo_better(module: &Info, has_luo: bool) -> bool {
    has_luo && module.boxes == 0 && !module.features.kvm_vm()
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
    let program = env::current_exe().context("Cannot find this program")?;
    start_program(&program, path, home, START_LIMIT)?;
    Ok(Control::connect(path)?)
}

fn start_program(program: &Path, path: &Path, home: Home, limit: Duration) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(["keeper", "--home", &home.to_string()]);
    command.stdout(listen(path)?).stderr(Stdio::null());
    // Keeps signals of this command's terminal from it.
    command.process_group(0);
    let (mut child, socket) = Child::spawn(command).context("Cannot start a keeper")?;
    match hear(socket, Deadline::within(limit)) {
        Ok(complaint) if complaint.is_empty() => {
            child.let_go();
            Ok(())
        }
        Ok(complaint) => bail!(complaint),
        Err(error) => {
            let (pid, ended) = (child.id(), child.kill());
            let secs = limit.as_secs_f64();
            bail!("The keeper (process {pid}) did not start within {secs} s: {error}; {ended}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use vmm_fdbox::facts::{first_home, host_facts};
    use vmm_fdbox::{Features, abi};

    use super::*;

    /// The error for a program that should be a keeper and is this script.
    fn error_of(script: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("keeper");
        let limit = Duration::from_millis(500);
        let started = start_program(&program, &path, Home::Holder, limit);
        chain(started.unwrap_err().as_ref())
    }

    /// `doctor` names the home that `--home auto` takes.
    #[test]
    fn the_doctor_and_the_commands_agree_on_the_module_and_luo() {
        const HOMES: &[Home] = &[Home::Fdbox, Home::Luo];
        let with_luo = tempfile::tempdir().unwrap();
        let node = with_luo.path().join(LUO.trim_start_matches('/'));
        fs::create_dir_all(node.parent().unwrap()).unwrap();
        fs::write(node, "").unwrap();
        let without = tempfile::tempdir().unwrap();
        for (root, has_luo) in [(&with_luo, true), (&without, false)] {
            for kinds in [0, abi::FDBOX_FEATURE_MEMFD, abi::FDBOX_FEATURE_KVM_VM] {
                let info = Info {
                    uapi_version: abi::FDBOX_UAPI_VERSION,
                    features: Features::from_bits(abi::FDBOX_FEATURE_KHO | kinds),
                    ..Info::default()
                };
                let module = Module::Here(info);
                let facts = host_facts(&HostRoot::new(root.path()), &module, HOMES);
                let is_luo_named = first_home(HOMES, &facts) == Some(Home::Luo);
                assert_eq!(is_luo_named, is_luo_better(&info, has_luo), "{kinds:#x}");
            }
        }
        let full = Info {
            boxes: 1,
            ..Info::default()
        };
        assert!(!is_luo_better(&full, true), "its boxes would not be found");
    }

    #[test]
    fn one_that_hangs_is_killed_and_one_that_complains_is_quoted() {
        for hung in ["exec sleep 600", "kill -STOP $$"] {
            let why = error_of(hung);
            assert!(why.contains("did not start within 0.5 s"), "{why}");
            assert!(why.ends_with("it was killed by signal 9"), "{why}");
        }
        assert_eq!(error_of("echo -n no LUO >&0; exec sleep 600 <&-"), "no LUO");
    }
}
