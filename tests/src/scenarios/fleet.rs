//! Several guests on one host, each with the witness.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::witness::{Report, WitnessEvent, command};
use fdbox_lab::{net, plan};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::console::Console;
use crate::guest::{
    self, CMDLINE, END_LIMIT, Ended, INITRAMFS, KERNEL, READY_LIMIT, SPARED, VMM, Vmm,
};
use crate::network;

/// The directory in which the VMMs listen.
const RUN_DIR: &str = "/run/vmm-example";

/// The properties of one guest of several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberSpec<'a> {
    pub(crate) name: &'a str,
    /// `guest_memfd`, `memfd` or `hugetlb`.
    pub(crate) kind: &'a str,
    pub(crate) mib: u32,
    /// The number of its drive and tap; `None` for neither.
    pub(crate) number: Option<u8>,
    /// How many guests run at a time: it leaves time to the others.
    pub(crate) among: u8,
}

impl<'a> MemberSpec<'a> {
    /// Of the usual size, without devices.
    pub(crate) fn new(name: &'a str, kind: &'a str, among: u8) -> Self {
        Self {
            name,
            kind,
            mib: 128,
            number: None,
            among,
        }
    }
}

/// One guest of several.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// `None` if another process started its VMM.
    vmm: Option<Vmm>,
    pub(crate) console: Console,
}

fn path(name: &str, ending: &str) -> PathBuf {
    PathBuf::from(format!("{RUN_DIR}/{name}/{name}.{ending}"))
}

/// Removes the directory of a guest of this name that belonged to another user: the VMM could not remove its sockets
/// from it.
fn leave_to(user: u32, name: &str) -> Result<()> {
    let folder = Path::new(RUN_DIR).join(name);
    match folder.metadata() {
        Ok(found) if found.uid() != user => {
            fs::remove_dir_all(&folder).with_context(|| format!("Remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

impl Member {
    /// Starts a guest, with `more` arguments for the VMM, and does not wait for it.
    pub(crate) fn start(
        spec: MemberSpec<'_>,
        more: &[String],
        port: &Arc<EventPort>,
    ) -> Result<Self> {
        let MemberSpec {
            name,
            kind,
            mib,
            number,
            among,
        } = spec;
        fs::create_dir_all(RUN_DIR)?;
        let mut run = Command::new(VMM);
        run.args(["run", "--kernel", KERNEL, "--initramfs", INITRAMFS, SPARED]);
        let user = number.map_or_else(|| net::user_of(name), net::user);
        leave_to(user, name)?;
        run.args(["--name", name, "--user", &user.to_string()]);
        network::give(&mut run, CMDLINE, number, among)?;
        run.arg(format!("--memory=size={mib}M,kind={kind}"));
        run.arg("--api-socket").arg(path(name, "sock")).args(more);
        let console = path(name, "console");
        run.arg(format!("--console=socket={}", console.display()));
        let mut vmm = Vmm::start(&mut run)?;
        let alive = || vmm.still_runs();
        let console = Console::connect(&console, Arc::clone(port), END_LIMIT, alive)?;
        Ok(Self {
            name: name.to_owned(),
            vmm: Some(vmm),
            console,
        })
    }

    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        let ready = |event| matches!(event, WitnessEvent::Ready { .. }).then_some(());
        self.console.wait("pattern", READY_LIMIT, ready)
    }

    /// A guest that `resume --all` has resumed.
    pub(crate) fn attach(name: &str, port: &Arc<EventPort>) -> Result<Self> {
        let console = path(name, "console");
        Ok(Self {
            name: name.to_owned(),
            vmm: None,
            console: Console::connect(&console, Arc::clone(port), END_LIMIT, || Ok(()))?,
        })
    }

    pub(crate) fn wait_for_beat(&self) -> Result<()> {
        self.console.wait_for_beat()
    }

    pub(crate) fn report(&mut self) -> Result<Report> {
        self.console.report()
    }

    /// Gives the witness a command that it only confirms.
    pub(crate) fn tell(&mut self, command: &str) -> Result<()> {
        self.console.tell(command)
    }

    pub(crate) fn api(&self) -> PathBuf {
        path(&self.name, "sock")
    }

    /// `vmm-example VERB` for it.
    pub(crate) fn command(&self, verb: &str) -> Result<Ended> {
        guest::command(verb, &self.api())
    }

    /// Whether it runs or is paused, by its VMM.
    pub(crate) fn state(&self) -> Result<Value> {
        Ok(guest::status(Some(&self.api()))?["state"].clone())
    }

    /// Stops its VMM, and so the guest, until the returned value is dropped.
    pub(crate) fn stop(&self) -> Result<Stopped> {
        let vmm = self.vmm.as_ref().context("Its VMM is not ours")?;
        vmm.signal(Signal::STOP)?;
        Ok(Stopped(vmm.pid()?))
    }

    /// Kills its VMM, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let vmm = self.vmm.as_mut().context("Its VMM is not ours")?;
        vmm.signal(Signal::KILL)?;
        vmm.wait(END_LIMIT)?;
        Ok(())
    }

    /// Waits for the VMM to exit successfully.
    pub(crate) fn wait_for_vmm(mut self) -> Result<()> {
        let mut vmm = self.vmm.take().context("Its VMM is not ours")?;
        let status = vmm.wait(END_LIMIT)?;
        ensure!(status.success(), "{}: the VMM ended: {status}", self.name);
        Ok(())
    }

    /// Powers the guest off from inside, and waits for its VMM to exit.
    pub(crate) fn power_off(mut self) -> Result<()> {
        self.console.say(command::POWER_OFF)?;
        if self.vmm.is_some() {
            return self.wait_for_vmm();
        }
        // Its socket is removed with it.
        let deadline = Instant::now() + END_LIMIT;
        while self.api().exists() {
            if Instant::now() > deadline {
                bail!("{}: the VMM has not ended", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Runs `act` for all of them in parallel, and returns the results in their order: while a guest
/// works on its answer, the others do less other work.
pub(crate) fn side_by_side<T: Send>(
    members: &mut [Member],
    act: impl Fn(&mut Member) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let act = |member: &mut Member| {
        let name = member.name.clone();
        act(member).with_context(|| name)
    };
    std::thread::scope(|scope| {
        let acting: Vec<_> = members
            .iter_mut()
            .map(|member| scope.spawn(|| act(member)))
            .collect();
        let ended = acting.into_iter().map(|thread| thread.join());
        ended
            .map(|ended| ended.unwrap_or_else(|_| bail!("A thread panicked")))
            .collect()
    })
}

/// A stopped VMM.
#[derive(Debug)]
pub(crate) struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It fails only if it is already gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// `live-update --all` to the host's next kernel, with additional arguments.
pub(crate) fn update_all(arguments: &[&str]) -> Result<Command> {
    let cmdline = std::env::var(plan::NEXT_CMDLINE).context("The plan has no next kernel")?;
    let mut update = Command::new(VMM);
    update.args(["live-update", "--all", "--kernel", plan::NEXT_KERNEL]);
    update.args(["--initramfs", plan::NEXT_INITRAMFS, "--cmdline", &cmdline]);
    update.args(arguments);
    Ok(update)
}

/// `resume --all`, with each guest's report and the total in a directory.
pub(crate) fn resume_all(folder: &str, arguments: &[&str]) -> Result<Ended> {
    std::fs::create_dir_all(folder)?;
    let mut resume = Command::new(VMM);
    resume.args(["resume", "--all", "--report", folder]);
    resume.args(arguments);
    Ended::of_long_lived(&mut resume)
}

/// A report written by `resume --all`.
pub(crate) fn read_report(folder: &str, name: &str) -> Result<Value> {
    let path = format!("{folder}/{name}.json");
    let text = std::fs::read(&path).with_context(|| format!("Read {path}"))?;
    serde_json::from_slice(&text).with_context(|| path)
}
