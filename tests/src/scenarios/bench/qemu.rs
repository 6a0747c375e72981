//! QEMU with an equal guest, which replaces itself by cpr-transfer: it passes the guest's memory to
//! the new process as a descriptor, and all other state through a migration (QEMU's
//! docs/devel/migration/CPR.rst).

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::bench::QEMU;
use fdbox_lab::event::EventPort;
use fdbox_lab::qmp::Qmp;
use fdbox_lab::witness::WitnessEvent;
use serde_json::{Value, json};

use crate::console::Console;
use crate::guest::{CMDLINE, INITRAMFS, KERNEL, READY_LIMIT, Vmm};

const START_LIMIT: Duration = Duration::from_secs(30);
/// The polling interval for states that QEMU does not report.
const LOOK: Duration = Duration::from_millis(10);

/// A QEMU process with the guest. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Qemu {
    process: Vmm,
    /// How many were started before it.
    number: u32,
    mib: u64,
    console: Console,
}

impl Qemu {
    /// Boots the guest and waits until its witness has written the pattern.
    pub(super) fn boot(mib: u64, port: &Arc<EventPort>) -> Result<Self> {
        let process = Vmm::start(&mut command(0, mib))?;
        let qemu = Self::connect(process, 0, mib, port)?;
        let ready = |event| matches!(event, WitnessEvent::Ready { .. }).then_some(());
        qemu.console.wait("pattern", READY_LIMIT, ready)?;
        Ok(qemu)
    }

    fn connect(mut process: Vmm, number: u32, mib: u64, port: &Arc<EventPort>) -> Result<Self> {
        let alive = || process.still_runs();
        let path = place(number, "console");
        let console = Console::connect(&path, Arc::clone(port), START_LIMIT, alive)?;
        Ok(Self {
            process,
            number,
            mib,
            console,
        })
    }

    /// Transfers the guest to another QEMU. Returns that, and how long the guest was stopped.
    pub(super) fn transfer(mut self, port: &Arc<EventPort>) -> Result<(Self, u64)> {
        let number = self.number + 1;
        let channels = json!([channel("main", number), channel("cpr", number)]);
        let mut incoming = command(number, self.mib);
        for channel in channels.as_array().into_iter().flatten() {
            incoming.arg("-incoming").arg(channel.to_string());
        }
        let mut process = Vmm::start(&mut incoming)?;
        wait_for(&place(number, "cpr"), &mut process)?;

        let mut monitor = Qmp::connect(UnixStream::connect(place(self.number, "qmp"))?)?;
        monitor.execute("migrate-set-parameters", json!({"mode": "cpr-transfer"}))?;
        monitor.execute("migrate", json!({ "channels": channels }))?;
        let next = Self::connect(process, number, self.mib, port)?;
        next.console.wait_for_beat()?;

        let status = monitor.execute("query-migrate", json!({}))?;
        ensure!(status["status"] == "completed", "The transfer is {status}");
        monitor.execute("quit", json!({}))?;
        self.process.wait(START_LIMIT)?;
        let stopped = logged(self.number, "running 0")?;
        let started = logged(number, "running 1")?;
        let ns = started.checked_sub(stopped);
        Ok((next, ns.context("The guest ran before it was stopped")?))
    }
}

fn place(number: u32, what: &str) -> PathBuf {
    PathBuf::from(format!("/run/qemu-{number}.{what}"))
}

/// The socket of one of the two channels of a transfer to QEMU number `number`.
fn channel(kind: &str, number: u32) -> Value {
    json!({
        "channel-type": kind,
        "addr": {"transport": "socket", "type": "unix", "path": place(number, kind)},
    })
}

/// QEMU without anything the guest does not need, because `vmm-example` has nothing else either.
fn command(number: u32, mib: u64) -> Command {
    let mut qemu = Command::new(format!("{QEMU}/ld.so"));
    qemu.args(["--library-path", &format!("{QEMU}/lib")]);
    qemu.arg(format!("{QEMU}/qemu-system-x86_64"));
    qemu.args([
        "-L",
        &format!("{QEMU}/rom"),
        "-nodefaults",
        "-display",
        "none",
    ]);
    qemu.args([
        "-machine",
        "q35,accel=kvm,aux-ram-share=on,memory-backend=ram",
    ]);
    qemu.arg("-object");
    qemu.arg(format!("memory-backend-memfd,id=ram,size={mib}M,share=on"));
    qemu.args(["-cpu", "host", "-smp", "1", "-m", &format!("{mib}M")]);
    qemu.args(["-kernel", KERNEL, "-initrd", INITRAMFS, "-append", CMDLINE]);
    let socket = |what| format!("{},server=on,wait=off", place(number, what).display());
    qemu.arg("-chardev");
    qemu.arg(format!("socket,id=console,path={}", socket("console")));
    qemu.args(["-serial", "chardev:console", "-qmp"]);
    qemu.arg(format!("unix:{}", socket("qmp")));
    // Logs the times at which the guest is stopped and started, in wall-clock time.
    qemu.args(["-msg", "timestamp=on", "-d", "trace:vm_state_notify", "-D"]);
    qemu.arg(place(number, "log"));
    qemu
}

/// Waits for a socket that QEMU creates when it is ready.
fn wait_for(path: &Path, process: &mut Vmm) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while !path.exists() {
        process.still_runs()?;
        ensure!(
            Instant::now() < deadline,
            "QEMU does not make {}",
            path.display()
        );
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The wall-clock time at which a QEMU last logged that the guest entered a state, in ns.
fn logged(number: u32, state: &str) -> Result<u64> {
    let log = fs::read_to_string(place(number, "log")).context("Read QEMU's log")?;
    let line = log.lines().rfind(|line| line.contains(state));
    let Some(line) = line else {
        bail!("QEMU did not log vm_state_notify {state}: {log}");
    };
    time_of(line).with_context(|| format!("There is no time in {line:?}"))
}

/// `PID@SECONDS.MICROS:EVENT`
fn time_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once('@')?;
    let (seconds, rest) = rest.split_once('.')?;
    let (micros, _) = rest.split_once(':')?;
    let (seconds, micros) = (seconds.parse::<u64>().ok()?, micros.parse::<u64>().ok()?);
    Some(seconds * 1_000_000_000 + micros * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_has_its_time() {
        let line = "117@1763781234.000123:vm_state_notify running 0 reason 5 (paused)";
        assert_eq!(time_of(line), Some(1_763_781_234_000_123_000));
        assert_eq!(time_of("vm_state_notify running 0"), None);
    }
}
