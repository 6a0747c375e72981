//! `cargo lab demo`: updates the host under a guest, and reports what everyone involved saw.

mod many;
mod report;
mod timeline;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::Value;

use crate::cli::{DemoArgs, DeviceKind, Home, IommuKind, Ram};
use crate::hostcmd;
use crate::lab::Lab;
use crate::proof::{self, Card, Device, Lifeboat, Nvme, Traffic, Update};
use crate::run::Record;
use crate::scenario_host::Group;

pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    ensure!(
        args.home == Home::Fdbox || args.binary == (args.home == Home::Holder),
        "--home holder goes with --binary, and --home luo without"
    );
    ensure!(
        !(args.lifeboat && ram(args) == Ram::Hugetlb),
        "Huge pages cannot be lent to a lifeboat: --lifeboat goes with --ram memfd and guest_memfd"
    );
    let device = device(args)?;
    let lab = Lab::open()?;
    if args.guests > 1 {
        return many::run(&lab, args);
    }
    let (record, dir) = follow(&lab, &group(args, device), args.verbose)?;
    let update = judge(&record).and_then(|update| {
        ensure!(
            device.is_some() == update.device.is_some(),
            "The guest had no device that it was to have"
        );
        ensure!(
            device != Some(DeviceKind::E1000e) || proof::iommu(&record) == Some(args.iommu.name()),
            "The host's IOMMU was another one than it was to be"
        );
        ensure!(
            args.lifeboat == update.lifeboat.is_some(),
            "The guest was in no lifeboat"
        );
        Ok(update)
    });
    write_json(args.json.as_deref(), &report::of(&record, &update, None))?;
    match update {
        Ok(update) => {
            summary(&record, &update);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(failed(&error, &dir)),
    }
}

/// The device that the guest drives.
fn device(args: &DemoArgs) -> Result<Option<DeviceKind>> {
    match (args.device, args.iommu) {
        (device, IommuKind::VtD) => Ok(device),
        (None | Some(DeviceKind::E1000e), _) => Ok(Some(DeviceKind::E1000e)),
        (Some(DeviceKind::Nvme), _) => bail!("A drive goes with --iommu vt-d only"),
    }
}

/// The kind of the guest's memory.
fn ram(args: &DemoArgs) -> Ram {
    args.ram.unwrap_or(match args.lifeboat {
        true => Ram::Memfd,
        false => Ram::GuestMemfd,
    })
}

/// The scenario behind the demo, and its host.
fn group(args: &DemoArgs, device: Option<DeviceKind>) -> Group<'static> {
    let (kind, name) = match (device, args.binary) {
        _ if args.home == Home::Luo => (HostKind::GuestLuo, "homes/guest-luo"),
        _ if args.home == Home::Holder => (HostKind::GuestHolder, "homes/guest-holder"),
        (Some(DeviceKind::E1000e), _) if args.lifeboat => {
            (HostKind::GuestLifeboatPassthrough, "lifeboat/device")
        }
        (Some(DeviceKind::Nvme), _) if args.lifeboat => {
            (HostKind::GuestLifeboatNvme, "lifeboat/nvme")
        }
        (Some(DeviceKind::E1000e), _) => match args.iommu {
            IommuKind::VtD => (HostKind::GuestPassthrough, "passthrough/guest"),
            IommuKind::Scalable => (
                HostKind::GuestPassthroughScalable,
                "passthrough/scalable-guest",
            ),
            IommuKind::Amd => (HostKind::GuestPassthroughAmdVi, "passthrough/amd-guest"),
        },
        (Some(DeviceKind::Nvme), _) => (HostKind::GuestNvme, "passthrough/nvme"),
        (None, true) => (HostKind::GuestAlone, "devices/another-binary"),
        (None, false) if args.lifeboat => (HostKind::GuestLifeboat, "lifeboat/update"),
        (None, false) => (HostKind::Guest, "devices/across-a-kexec"),
    };
    Group {
        kind,
        kernels: if args.binary { 1 } else { 2 },
        names: vec![name],
        environment: format!(
            "LAB_GUEST_RAM={} LAB_GUEST_MIB={} LAB_GUEST_CPUS={}",
            ram(args).name(),
            args.memory,
            args.cpus
        ),
        guests: 1,
        more_memory_mib: args.memory.saturating_sub(256),
        debug: false,
        other: None,
        cpus: None,
    }
}

/// Runs a host to its end and reports on it meanwhile. Also returns the folder of its logs.
fn follow(lab: &Lab, group: &Group<'_>, verbose: bool) -> Result<(Record, std::path::PathBuf)> {
    let host = group.prepare(lab)?;
    timeline::head();
    let record = host.run(lab, |line| match verbose {
        true => hostcmd::show(line),
        false => timeline::tell(line),
    })?;
    Ok((record, host.dir))
}

/// Fails if anything went wrong in the run.
fn sound(record: &Record) -> Result<()> {
    let wrong = record.faults();
    ensure!(wrong.is_empty(), "{}", wrong.join("\nlab: "));
    Ok(())
}

/// The only update of the run, if nothing went wrong in it.
fn judge(record: &Record) -> Result<Update> {
    sound(record)?;
    let updates = match record.hellos.len() {
        // Without a kexec: the host also has to start the other VMM meanwhile.
        1 => proof::updates_in_a_crowd(record)?,
        _ => proof::updates(record)?,
    };
    let update = updates.into_iter().next_back();
    let update = update.context("No update was seen")?;
    in_the_last_host(record, &update)?;
    Ok(update)
}

/// A guest must run in the host that exists at the end.
fn in_the_last_host(record: &Record, update: &Update) -> Result<()> {
    let last = record.hellos.last().context("No host was seen")?;
    ensure!(
        update.resume.host.boot_id == last.1.boot_id,
        "The guest runs in another host than the last one"
    );
    Ok(())
}

fn write_json(path: Option<&Path>, report: &Value) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(path, text).with_context(|| format!("Write {}", path.display()))
}

fn failed(error: &anyhow::Error, dir: &Path) -> ExitCode {
    let logs = dir.display();
    eprintln!("lab: {error:#}\nlab: the logs are in {logs}");
    ExitCode::FAILURE
}

fn say(text: &str) {
    // If nobody reads the output, the exit status still has the result.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn summary(record: &Record, update: &Update) {
    let after = &update.after;
    let kernels: Vec<&str> = record
        .hellos
        .iter()
        .map(|(_, hello)| hello.release.as_str())
        .collect();
    let lived = Duration::from_nanos(after.uptime_ns - update.before.uptime_ns);
    say("");
    match kernels.as_slice() {
        [kernel] => say(&format!(
            "The host stayed in {kernel}: same boot_id. Another process runs the guest now."
        )),
        kernels => say(&format!(
            "The host went from {}: another boot_id.",
            kernels.join(" to ")
        )),
    }
    say(&format!(
        "The guest ({} CPU, {} MiB of {}) did not reboot: it has the same boot_id.",
        update.resume.vcpus, update.resume.ram_mib, update.resume.ram_kind
    ));
    say("");
    say(&format!(
        "memory  {} pages checked by the guest, {} bad",
        after.pages_checked, after.pages_bad
    ));
    say(&format!(
        "clocks  none went back; the guest stood still for {:.1} ms of {:.1} s",
        millis(after.largest_gap_ns),
        lived.as_secs_f64()
    ));
    if let Some(traffic) = &update.traffic {
        tell_traffic(traffic);
    }
    match &update.device {
        Some(Device::Card(card)) => tell_card(card, update.lifeboat.is_some()),
        Some(Device::Nvme(nvme)) => tell_nvme(nvme),
        None => {}
    }
    if let Some(lifeboat) = &update.lifeboat {
        tell_lifeboat(lifeboat);
    }
    say(&format!(
        "kernel  {} complaints in the guest, 0 in the host",
        after.kernel_warnings
    ));
    say("");
    say(&format!(
        "The blackout, as the VMM measured it: {:.1} ms",
        millis(update.blackout.total_ns)
    ));
    for phase in &update.blackout.phases {
        say(&format!("  {:16} {:9.1} ms", phase.name, millis(phase.ns)));
    }
    say("Emulation makes these figures many times larger than a real machine's.");
}

fn tell_traffic(traffic: &Traffic) {
    let (disk, image) = (&traffic.guest.disk, &traffic.image);
    say(&format!(
        "disk    {} blocks written, {} read back by the guest, {} bad; {} checked in the image \
         afterwards, {} bad",
        disk.writes, disk.verified, disk.bad, image.blocks, image.bad
    ));
    say(&format!(
        "TCP     one connection from outside, {}: {} KiB both ways, {} bytes lost, {} twice; \
         longest silence {:.1} ms",
        if traffic.is_reset() {
            "reset"
        } else {
            "never reset"
        },
        traffic.bytes_sent() >> 10,
        traffic.bytes_lost(),
        traffic.bytes_repeated(),
        traffic.outside.tcp.largest_gap.as_secs_f64() * 1e3
    ));
    let ping = &traffic.outside.ping;
    say(&format!(
        "ping    {} of {} answered; longest silence {:.1} ms",
        ping.answered,
        ping.sent,
        ping.largest_gap.as_secs_f64() * 1e3
    ));
}

fn tell_lifeboat(lifeboat: &Lifeboat) {
    for moved in &lifeboat.handovers {
        say(&format!(
            "boat    {} to {}: stopped for {:.1} ms",
            moved.from,
            moved.to,
            millis(moved.stop_to_run_ns)
        ));
    }
    say(&format!(
        "boat    the guest's largest gap is 1/{:.1} of its host's kexec, {:.1} ms; it computed for {:.1} ms in the \
         boat",
        lifeboat.host_kexec_ns as f64 / lifeboat.guest_largest_gap_ns.max(1) as f64,
        millis(lifeboat.host_kexec_ns),
        millis(lifeboat.vcpu_time_in_boat_ns)
    ));
    if let Some(gap_ns) = lifeboat.frames_largest_gap_ns {
        say(&format!(
            "boat    the largest gap between two frames from the device was {:.1} ms",
            millis(gap_ns)
        ));
    }
}

fn tell_card(card: &Card, was_in_lifeboat: bool) {
    let when = match was_in_lifeboat {
        true => "during the kexec",
        false => "in the blackout",
    };
    say(&format!(
        "device  {}, {}: {} frames sent, {} received, {} lost, {} repeated, {} torn; {} were sent {when}",
        card.kind,
        if card.reset { "reset" } else { "never reset" },
        card.frames_sent,
        card.frames_received,
        card.frames_lost,
        card.frames_repeated,
        card.frames_torn,
        card.frames_during_blackout
    ));
}

fn tell_nvme(nvme: &Nvme) {
    if let Some(during_kexec) = nvme.written_during_kexec {
        say(&format!(
            "device  {}, {}: {} blocks written, {} checked, {} bad; {during_kexec} came to the drive during the kexec",
            nvme.kind,
            if nvme.reset { "reset" } else { "never reset" },
            nvme.writes,
            nvme.verified,
            nvme.bad,
        ));
        return;
    }
    say(&format!(
        "device  {}, {}: {} blocks written, {} checked, {} bad; {} writes were in flight when the guest was \
         stopped, {} of them came to the drive in the blackout, {} of those under the new kernel",
        nvme.kind,
        if nvme.reset { "reset" } else { "never reset" },
        nvme.writes,
        nvme.verified,
        nvme.bad,
        nvme.in_flight,
        nvme.written_during_blackout,
        nvme.written_under_the_new_kernel
    ));
}

fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunFailure;

    #[test]
    fn a_run_with_a_failure_is_no_success() {
        let mut record = Record::default();
        assert!(judge(&record).is_err(), "a run that showed nothing");
        let text = "Host kernel (bug:): BUG: x".into();
        record.failures.push(RunFailure { text, during: None });
        assert!(judge(&record).unwrap_err().to_string().contains("BUG: x"));
    }
}
