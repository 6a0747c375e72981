//! A guest with Debian's kernel and user space, in which the witness is a service.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use fdbox_lab::clocks::Sample;
use fdbox_lab::event::EventPort;
use fdbox_lab::witness::{WitnessEvent, command};

use super::{Guest, INITRAMFS, KERNEL, SPARED, Spec, Starting, VMM};
use crate::network::{self, Links};

/// `loglevel=4`: what the kernel says is in the journal, and the console is slow.
const CMDLINE: &str = "console=ttyS0 loglevel=4 panic=-1 reboot=k systemd.show_status=no";
/// By how many guests' worth the witness is to work more slowly in a guest with one CPU: there is more to do in this guest.
/// Each further CPU adds one more.
const PACE: u8 = 2;
/// The time limit for a stage of its boot or its end, and for a command, under two layers of emulation.
const STAGE_LIMIT: Duration = Duration::from_secs(600);
const COMMAND_LIMIT: Duration = Duration::from_secs(900);
/// Where the guest has the lab's scripts, and the files that they write.
const SCRIPTS: &str = "/run/lab";
/// Where KVM shows each VM.
const VMS: &str = "/sys/kernel/debug/kvm";

impl Guest {
    /// Starts it, with additional words for its kernel, and does not wait for it.
    pub(crate) fn boot_debian(spec: Spec, words: &str, port: &Arc<EventPort>) -> Result<Self> {
        let number = spec.number.context("Its disk has a number")?;
        let links = Links::by_name(number)?;
        let mut run = Command::new(VMM);
        run.args(["run", "--kernel", KERNEL, "--initramfs", INITRAMFS, SPARED]);
        run.args(["--user", &spec.user().to_string()]);
        let cmdline = format!("{CMDLINE} {words}");
        let pace = PACE + u8::try_from(spec.cpus)?;
        network::give_links(&mut run, &cmdline, Some((number, &links)), pace);
        run.arg("--memory")
            .arg(format!("size={}M,kind={}", spec.mib, spec.ram));
        run.arg("--cpus")
            .arg(spec.cpus.to_string())
            .args(["--name", spec.name]);
        Starting::new(&mut run, spec)?.connect(port)
    }

    /// Waits until its boot or its end is that far. No other stage may come first: it would be that of a reboot.
    pub(crate) fn wait_for_stage(&self, wanted: &str) -> Result<()> {
        let stage = self
            .console
            .wait(wanted, STAGE_LIMIT, |event| match event {
                WitnessEvent::Stage { name } => Some(name),
                _ => None,
            })?;
        ensure!(
            stage == wanted,
            "The guest is at its stage {stage:?}, and {wanted:?} was to be next"
        );
        Ok(())
    }

    /// Waits until it is up, without another reboot, and nothing in it has failed.
    pub(crate) fn wait_until_up(&mut self) -> Result<()> {
        let up = self
            .console
            .wait("pattern", STAGE_LIMIT, |event| match event {
                WitnessEvent::Ready { cpus, .. } => Some(Ok(cpus)),
                WitnessEvent::Stage { name } => Some(Err(name)),
                _ => None,
            })?;
        let cpus =
            up.map_err(|stage| anyhow!("The guest is at its stage {stage:?} instead of being up"))?;
        ensure!(
            cpus == self.spec.cpus,
            "The guest has {cpus} CPUs, not {}",
            self.spec.cpus
        );
        self.is_sound()
    }

    /// Its systemd has started everything, and no unit has failed.
    pub(crate) fn is_sound(&mut self) -> Result<()> {
        self.shell("systemctl is-system-running --wait || systemctl --failed --plain --no-legend")
            .and_then(|state| match state.as_str() {
                "running" => Ok(()),
                state => bail!("The guest is {state}"),
            })
    }

    /// Runs a command in it, which must succeed, and returns its output.
    pub(crate) fn shell(&mut self, text: &str) -> Result<String> {
        self.console.say(&format!("{} {text}", command::RUN))?;
        let ran = |event| match event {
            WitnessEvent::Ran { status, text } => Some((status, text)),
            _ => None,
        };
        let (status, output) = self.console.wait("end of a command", COMMAND_LIMIT, ran)?;
        ensure!(
            status == 0,
            "{text:?} in the guest ended with {status}: {output}"
        );
        Ok(output)
    }

    /// A number that a command prints.
    pub(crate) fn number(&mut self, text: &str) -> Result<u64> {
        let output = self.shell(text)?;
        output
            .parse()
            .with_context(|| format!("{text:?} in the guest printed {output:?}"))
    }

    /// Starts a script of the lab's as a service.
    pub(crate) fn start_script(&mut self, name: &str) -> Result<()> {
        let run = format!("systemd-run --quiet --unit=lab-{name} {SCRIPTS}/{name}");
        self.shell(&run).map(|_| ())
    }

    /// Ends it; it must have run until now.
    pub(crate) fn stop_script(&mut self, name: &str) -> Result<()> {
        let unit = format!("lab-{name}.service");
        let stop = format!("systemctl is-active {unit} && systemctl stop {unit}");
        self.shell(&stop).map(|_| ())
    }

    /// Waits until the number that a script keeps in a file is `least`. It fails if the script says there what is wrong.
    pub(crate) fn wait_for_count(&mut self, file: &str, least: u64) -> Result<()> {
        let read = format!("cat {SCRIPTS}/{file} 2>/dev/null || echo 0");
        let is_wrong = format!("[ -s {SCRIPTS}/{file}.error ] && cat {SCRIPTS}/{file}.error");
        let pause = format!("if {is_wrong}; then exit 1; fi; sleep 0.2");
        let wait = format!("until [ \"$({read})\" -ge {least} ]; do {pause}; done");
        self.shell(&wait).map(|_| ())
    }

    /// Waits until it is that much larger than it is now.
    pub(crate) fn wait_for_more(&mut self, file: &str, more: u64) -> Result<()> {
        let now = self.number(&format!("cat {SCRIPTS}/{file}"))?;
        self.wait_for_count(file, now + more)
    }

    /// A sample of its clocks, at the host's TSC.
    pub(crate) fn clocks(&mut self) -> Result<Sample> {
        self.console.say(command::CLOCKS)?;
        let sample = |event| match event {
            WitnessEvent::Clocks(sample) => Some(sample),
            _ => None,
        };
        let sample = self.console.wait("clocks", COMMAND_LIMIT, sample)?;
        Ok(sample.by_host(self.tsc_offset()?))
    }

    /// What KVM adds to the host's TSC for it.
    fn tsc_offset(&self) -> Result<u64> {
        let its = format!("{}-", self.runner_pid()?);
        let mut vms = fs::read_dir(VMS).context("KVM in debugfs")?.flatten();
        let vm = vms.find(|vm| vm.file_name().to_string_lossy().starts_with(&its));
        let path = vm
            .context("KVM has the guest")?
            .path()
            .join("vcpu0/tsc-offset");
        let text = fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))?;
        let offset: i64 = text.trim().parse().context("An offset")?;
        Ok(offset.cast_unsigned())
    }

    /// Makes its systemd power it off, and waits for the VMM to end.
    pub(crate) fn power_off_debian(mut self) -> Result<()> {
        let runner = self.runner()?;
        self.shell("systemctl poweroff")?;
        runner.wait(STAGE_LIMIT)?;
        ensure!(
            !self.spec.api().exists(),
            "The API socket is there after the guest's end"
        );
        Ok(())
    }
}
