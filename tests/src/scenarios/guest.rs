//! A guest under the VMM, with the witness in it.

mod bare;
mod control;
mod debian;
mod process;
mod upgrade;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::bench::HIDES_NOTHING;
use fdbox_lab::event::EventPort;
use fdbox_lab::witness::{Report, WitnessEvent, command};
use fdbox_lab::{net, plan};
use serde_json::Value;

use crate::check::equal;
use crate::console::{Console, REPORT_LIMIT};
use crate::host;
use crate::hugetlb::{Pool, Size};
use crate::network::{self, Links};
pub(crate) use bare::BareGuest;
pub(crate) use control::{Updating, Watch, command};
pub(crate) use process::{Ended, Vmm, kill_all, sleeps};
pub(crate) use upgrade::{ApiClient, Holds, Runner};

pub(crate) const VMM: &str = "/bin/vmm-example";
pub(crate) const KERNEL: &str = "/guest/kernel";
pub(crate) const INITRAMFS: &str = "/guest/initramfs";
/// `reboot=k`: the guest resets through the keyboard controller, so a triple fault is always a
/// crash.
pub(crate) const CMDLINE: &str = "console=ttyS0 loglevel=5 panic=-1 reboot=k";

/// Hides a feature from guests that the emulator does not handle correctly: KVM's paravirtual EOI.
///
/// QEMU 10.0's emulation of SVM delivers an injected interrupt a second time, masked or not, if
/// anything makes it leave the guest's instructions before the guest's next exit: `helper_vmrun()`
/// leaves the vector in the variable for pending exceptions. The guest may then deadlock on a lock
/// that it holds itself. An interrupt handler that signals EOI through the APIC, and not through a
/// word in memory, exits at once.
pub(crate) const SPARED: &str = "--hide-cpuid=leaf=0x40000001,eax=0x40";

/// The time limit for booting a guest under two layers of emulation and writing its pattern.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(300);
pub(crate) const END_LIMIT: Duration = Duration::from_secs(60);

/// Whether the VMM is one that `bench against` compares with and that opens its box itself: it runs
/// as root, creates no directory for its sockets, and works around the emulator without being asked.
fn is_from_before_users() -> bool {
    std::env::var_os(HIDES_NOTHING).is_some()
}

/// The properties of a guest.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// The base of the names of box, sockets and files, so that several guests can run at the same
    /// time.
    pub(crate) name: &'static str,
    /// `guest_memfd`, `memfd` or `hugetlb`.
    pub(crate) ram: String,
    pub(crate) mib: u64,
    pub(crate) cpus: u32,
    /// The number of its drive and tap; `None` for neither.
    pub(crate) number: Option<u8>,
}

impl Spec {
    fn path(&self, ending: &str) -> PathBuf {
        PathBuf::from(format!("/run/{}{ending}", self.name))
    }

    pub(crate) fn api(&self) -> PathBuf {
        self.in_folder("api")
    }

    fn console(&self) -> PathBuf {
        self.in_folder("console")
    }

    /// A path in the directory of its VMM's user.
    fn in_folder(&self, ending: &str) -> PathBuf {
        self.path(&format!("/{}.{ending}", self.name))
    }

    /// The user that its VMM runs as. The next VMM gets it from the box.
    pub(crate) fn user(&self) -> u32 {
        self.number
            .map_or_else(|| net::user_of(self.name), net::user)
    }
}

/// A guest, and the process that runs it. Both end when this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) spec: Spec,
    vmm: Vmm,
    pub(crate) console: Console,
}

impl Guest {
    /// Boots it and waits until the witness has written its pattern.
    pub(crate) fn boot(spec: Spec, port: &Arc<EventPort>) -> Result<Self> {
        Self::boot_with(spec, &[], port)
    }

    /// The same with additional arguments for the VMM.
    pub(crate) fn boot_with(spec: Spec, more: &[String], port: &Arc<EventPort>) -> Result<Self> {
        let links = spec.number.map(Links::by_name).transpose()?;
        Self::boot_by(&mut Command::new(VMM), spec, links.as_ref(), more, port)
    }

    /// The same with a command that becomes the VMM, and with the host's names of the guest's disk
    /// and card.
    pub(crate) fn boot_by(
        run: &mut Command,
        spec: Spec,
        links: Option<&Links>,
        more: &[String],
        port: &Arc<EventPort>,
    ) -> Result<Self> {
        if spec.ram == "hugetlb" {
            Pool(Size::TwoMib).grow(spec.mib / 2)?;
        }
        run.args(["run", "--kernel", KERNEL, "--initramfs", INITRAMFS]);
        if !is_from_before_users() {
            run.arg(SPARED).args(["--user", &spec.user().to_string()]);
        }
        let more_words = std::env::var(plan::GUEST_CMDLINE).unwrap_or_default();
        let cmdline = format!("{CMDLINE} {more_words}");
        network::give_links(run, &cmdline, spec.number.zip(links), 1);
        run.arg("--memory")
            .arg(format!("size={}M,kind={}", spec.mib, spec.ram));
        run.arg("--cpus")
            .arg(spec.cpus.to_string())
            .args(["--name", spec.name])
            .args(more);
        let guest = Self::start(run, spec, port)?;
        let cpus = guest
            .console
            .wait("pattern", READY_LIMIT, |event| match event {
                WitnessEvent::Ready { cpus, .. } => Some(cpus),
                _ => None,
            })?;
        equal("The number of the guest's CPUs", cpus, guest.spec.cpus)?;
        Ok(guest)
    }

    /// Resumes the guest that an update left in a box, and waits for a heartbeat.
    pub(crate) fn resume(spec: Spec, port: &Arc<EventPort>) -> Result<Self> {
        let links = spec.number.map(Links::by_name).transpose()?;
        Self::resume_with(spec, links.as_ref(), port)
    }

    /// The same for a paused guest, which has no heartbeat.
    pub(crate) fn resume_paused(spec: Spec, port: &Arc<EventPort>) -> Result<Self> {
        Self::resume_and(spec, &[], port)
    }

    /// The same with additional arguments for the command.
    pub(crate) fn resume_and(spec: Spec, more: &[&str], port: &Arc<EventPort>) -> Result<Self> {
        let mut resume = Command::new(VMM);
        resume.args(["resume", "--box", spec.name]).args(more);
        Self::start(&mut resume, spec, port)
    }

    /// The same with the host's names of its disk and its card.
    pub(crate) fn resume_with(
        spec: Spec,
        links: Option<&Links>,
        port: &Arc<EventPort>,
    ) -> Result<Self> {
        let mut resume = Command::new(VMM);
        resume
            .args(["resume", "--box", spec.name])
            .args(links.map(Links::net_for_resume).unwrap_or_default())
            .arg("--report")
            .arg(spec.path(".report"));
        let guest = Self::start(&mut resume, spec, port)?;
        guest.wait_for_beat()?;
        Ok(guest)
    }

    /// A resume that is to fail at a step chosen by the test.
    pub(crate) fn fail_to_resume(spec: &Spec, step: &str) -> Result<Ended> {
        let mut resume = Command::new(VMM);
        resume.args(["resume", "--box", spec.name, "--fail-at", step]);
        resume.arg("--api-socket").arg(spec.api());
        Ended::of(&mut resume)
    }

    /// The same for an init that has been running for `uptime` seconds: starts the VMM before
    /// anything else.
    pub(crate) fn start_resume(spec: Spec, uptime: f64) -> Result<Starting> {
        let mut resume = Command::new(VMM);
        resume
            .args(["resume", "--box", spec.name])
            .arg("--report")
            .arg(spec.path(".report"))
            .arg("--init-uptime")
            .arg(format!("{uptime:.9}"));
        Starting::new(&mut resume, spec)
    }

    fn start(command: &mut Command, spec: Spec, port: &Arc<EventPort>) -> Result<Self> {
        Starting::new(command, spec)?.connect(port)
    }

    /// The VMM's report of the update that brought the guest here.
    pub(crate) fn resume_report(&self) -> Result<Value> {
        let path = self.spec.path(".report");
        // It is written when the guest has run for a while.
        host::until("The report of the resume is there", || Ok(path.exists()))?;
        let text = std::fs::read(&path).with_context(|| format!("Read {}", path.display()))?;
        serde_json::from_slice(&text).context("The report of the resume")
    }

    pub(crate) fn wait_for_beat(&self) -> Result<()> {
        self.console.wait_for_beat()
    }

    /// Makes the witness check all its memory.
    pub(crate) fn report(&mut self) -> Result<Report> {
        self.console.report()
    }

    /// Makes the witness work continuously, if it does not yet, and report how much it has done.
    pub(crate) fn work(&mut self) -> Result<(u64, u64)> {
        self.console.say(command::WORK)?;
        self.console
            .wait("work", REPORT_LIMIT, |event| match event {
                WitnessEvent::Work { units, at_ns } => Some((units, at_ns)),
                _ => None,
            })
    }

    /// Makes the witness rewrite every page.
    pub(crate) fn write(&mut self, generation: u32) -> Result<()> {
        self.tell(&format!("{} {generation}", command::WRITE))
    }

    /// Makes the witness discard the longest gap so far.
    ///
    /// Waits for a heartbeat after that: a gap only counts from the first sample of the clock on,
    /// so a pause before it would not be counted.
    pub(crate) fn reset_gap(&mut self) -> Result<()> {
        self.tell(command::RESET_GAP)?;
        self.wait_for_beat()
    }

    /// Gives the witness a command that it only confirms.
    pub(crate) fn tell(&mut self, command: &str) -> Result<()> {
        self.console.tell(command)
    }

    /// The process that runs the guest.
    pub(crate) fn pid(&self) -> u32 {
        self.vmm.id()
    }

    /// Updates the host; returns only on failure.
    pub(crate) fn update_host(&self) -> Result<()> {
        self.update_host_with(&[])
    }

    /// The same with additional arguments.
    pub(crate) fn update_host_with(&self, arguments: &[&str]) -> Result<()> {
        // Its output is shown as it arrives: there is no reader at the end.
        let mut update = self.update_command(arguments)?;
        let status = update.stdin(Stdio::null()).status()?;
        bail!("The host was not updated: vmm-example live-update ended: {status}")
    }

    /// `vmm-example live-update` with additional arguments, which must not leave the host.
    pub(crate) fn live_update(&self, arguments: &[&str]) -> Result<Ended> {
        Ended::of(&mut self.update_command(arguments)?)
    }

    fn update_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut update = host_update(&self.spec.api(), arguments)?;
        update.args(["--box", self.spec.name]);
        Ok(update)
    }

    /// Hands the guest over to another VMM in this kernel, and waits for the old one to exit.
    pub(crate) fn hand_over_here(mut self) -> Result<(Spec, ExitStatus)> {
        let mut update = Command::new(VMM);
        update
            .arg("live-update")
            .arg("--api-socket")
            .arg(self.spec.api());
        update.args(["--no-kexec", "--box", self.spec.name]);
        Ended::of(&mut update)?.expect(0)?;
        let status = self.vmm.wait(END_LIMIT)?;
        Ok((self.spec.clone(), status))
    }

    /// Powers the guest off from inside, and checks the VMM's exit status.
    pub(crate) fn power_off(mut self) -> Result<()> {
        self.console.say(command::POWER_OFF)?;
        let status = self.vmm.wait(END_LIMIT)?;
        ensure!(
            status.success(),
            "The VMM ended with {status} after the guest powered off"
        );
        Ok(())
    }
}

/// A VMM that is about to create its guest's console.
#[derive(Debug)]
pub(crate) struct Starting {
    spec: Spec,
    vmm: Vmm,
}

impl Starting {
    fn new(command: &mut Command, spec: Spec) -> Result<Self> {
        if is_from_before_users() {
            fs::create_dir_all(spec.path("")).context("Create the directory of the sockets")?;
        }
        command.arg("--api-socket").arg(spec.api());
        command
            .arg("--console")
            .arg(format!("socket={}", spec.console().display()));
        let vmm = Vmm::start(command)?;
        Ok(Self { spec, vmm })
    }

    pub(crate) fn connect(self, port: &Arc<EventPort>) -> Result<Guest> {
        let Self { spec, mut vmm } = self;
        let alive = || vmm.still_runs();
        let console = Console::connect(&spec.console(), Arc::clone(port), END_LIMIT, alive)?;
        Ok(Guest { spec, vmm, console })
    }
}

/// `vmm-example live-update` to the next kernel of the plan, with additional arguments.
fn host_update(api: &Path, arguments: &[&str]) -> Result<Command> {
    let cmdline = std::env::var(plan::NEXT_CMDLINE).context("The plan has no next kernel")?;
    let mut update = Command::new(VMM);
    update.arg("live-update").arg("--api-socket").arg(api);
    for (option, value) in [
        ("--kernel", plan::NEXT_KERNEL),
        ("--initramfs", plan::NEXT_INITRAMFS),
        ("--cmdline", &cmdline),
    ] {
        if !arguments.contains(&option) {
            update.args([option, value]);
        }
    }
    update.args(arguments);
    Ok(update)
}

/// `vmm-example status --json`, for a guest or for the host's boxes.
pub(crate) fn status(api: Option<&Path>) -> Result<Value> {
    let mut status = Command::new(VMM);
    status.args(["status", "--json"]);
    if let Some(api) = api {
        status.arg("--api-socket").arg(api);
    }
    let output = status.output().context("Run vmm-example status")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    serde_json::from_slice(&output.stdout).context("The status is JSON")
}

impl Spec {
    pub(crate) fn status(&self) -> Result<Value> {
        status(Some(&self.api()))
    }
}
