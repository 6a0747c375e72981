//! Another build of the VMM takes a guest over, in the same kernel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::command;
use serde_json::{Value, json};

use super::reports::{healthy, same_guest};
use super::{Cx, Scenario, ports};
use crate::check::equal;
use crate::fdbox;
use crate::guest::{ApiClient, Guest, INITRAMFS, KERNEL, Runner, SPARED, Spec, VMM};
use crate::network::{self, Links};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "upgrade/guest-memfd",
        about: "another VMM takes a guest over, with its sockets and their clients",
        host: HostKind::GuestAlone,
        stages: &[guest_memfd],
    },
    &Scenario {
        name: "upgrade/memfd",
        about: "the same with a memfd, a disk in a file, a tap passed as a descriptor, a second console \
                and sockets",
        host: HostKind::GuestAlone,
        stages: &[memfd],
    },
    &Scenario {
        name: "upgrade/hugetlb",
        about: "the same with huge pages",
        host: HostKind::GuestAlone,
        stages: &[hugetlb],
    },
    &Scenario {
        name: "upgrade/sizes",
        about: "the blackouts of a guest of 128 MiB and one of 1 GiB, for comparison",
        host: HostKind::GuestAlone,
        stages: &[sizes],
    },
    &Scenario {
        name: "upgrade/bench",
        about: "vmm-example bench upgrades itself under guests and reports the blackouts as \
                JSON",
        host: HostKind::GuestAlone,
        stages: &[bench],
    },
];

/// A disk on a tmpfs, which would not survive a kexec.
const DISK: &str = "/run/upgrade.img";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn boot(name: &'static str, ram: &str, mib: u64, cpus: u32) -> Result<Guest> {
    let ram = ram.to_owned();
    boot_spec(Spec {
        name,
        ram,
        mib,
        cpus,
        number: None,
    })
}

pub(super) fn boot_spec(spec: Spec) -> Result<Guest> {
    let port = Arc::new(EventPort::open()?);
    let mut guest = Guest::boot(spec, &port)?;
    healthy(&guest.report()?)?;
    Ok(guest)
}

/// Upgrades once and returns the report.
pub(super) fn upgrade(guest: &Guest) -> Result<Value> {
    guest.upgrade(VMM, &[])?.expect(0)?;
    let report = guest.resume_report()?;
    equal("The result", &report["result"], &json!("done"))?;
    equal("The box is gone", &report["box_deleted"], &json!(true))?;
    let boot_id = fs::read_to_string(BOOT_ID)?;
    equal(
        "The host's boot_id",
        &report["host"]["boot_id"],
        &json!(boot_id.trim()),
    )?;
    Ok(report)
}

/// Upgrades while clients connect and disconnect, each of which must get an answer.
fn upgrade_while_asked(guest: &Guest) -> Result<(Value, u64)> {
    let (path, done) = (guest.api_path(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&done);
    let asking = thread::spawn(move || -> Result<u64> {
        let mut asked = 0;
        while !seen.load(Ordering::SeqCst) {
            ApiClient::connect(&path)?.status()?;
            asked += 1;
            // The host may have only one CPU.
            thread::sleep(Duration::from_millis(5));
        }
        Ok(asked)
    });
    let report = upgrade(guest);
    done.store(true, Ordering::SeqCst);
    let asked = asking.join().ok().context("The clients' thread")?;
    Ok((report?, asked.context("A client during the upgrade")?))
}

pub(super) fn blackout(report: &Value) -> Result<u64> {
    let total = &report["blackout"]["total_ns"];
    total.as_u64().context("The report has a blackout")
}

/// Returns the process that runs the guest afterwards.
fn takes_over(cx: &Cx<'_>, guest: &mut Guest) -> Result<Runner> {
    let (old, info) = (guest.runner()?, fdbox::info()?);
    let mut client = guest.api_client()?;
    equal("The process", &client.status()?["pid"], &json!(old.pid()))?;
    guest.reset_gap()?;
    let before = guest.report()?;
    cx.value("witness", &before)?;
    let (report, asked) = upgrade_while_asked(guest)?;
    cx.value("asked", asked)?;
    equal("The RAM", &report["ram_kind"], &json!(guest.spec.ram))?;
    equal("Its size", &report["ram_mib"], &json!(guest.spec.mib))?;
    equal("The vCPUs", &report["vcpus"], &json!(guest.spec.cpus))?;
    let new = guest.runner()?;
    ensure!(new != old, "The VMM is still the old one");
    // The same connections, now to another process.
    equal("The process", &client.status()?["pid"], &json!(new.pid()))?;
    let after = guest.report()?;
    same_guest(&before, &after)?;
    cx.value("resume", report)?;
    cx.value("witness", after)?;
    // The guest is fully functional: it can write to all its memory.
    guest.write(77)?;
    healthy(&guest.report()?)?;
    equal("The module's figures", fdbox::info()?, info)?;
    Ok(new)
}

fn guest_memfd(cx: &Cx<'_>) -> Result<()> {
    let mut guest = boot("upgrade", "guest_memfd", 256, 2)?;
    let runner = takes_over(cx, &mut guest)?;
    guest.power_off_under(&runner)
}

fn hugetlb(cx: &Cx<'_>) -> Result<()> {
    let mut guest = boot("upgrade-hugetlb", "hugetlb", 256, 1)?;
    let runner = takes_over(cx, &mut guest)?;
    guest.power_off_under(&runner)
}

/// With all devices it can have: none of them can be opened a second time by name.
fn memfd(cx: &Cx<'_>) -> Result<()> {
    let spec = Spec {
        name: "upgrade-memfd",
        ram: "memfd".to_owned(),
        mib: 128,
        // The host has one CPU: with two CPUs to watch, the guest would have no time to work.
        cpus: 1,
        number: Some(0),
    };
    let links = Links::handed_in(0)?.on_file(0, Path::new(DISK))?;
    let port = Arc::new(EventPort::open()?);
    let vmm = &mut Command::new(VMM);
    let mut guest = Guest::boot_by(vmm, spec, Some(&links), &ports::arguments(), &port)?;
    drop(links);
    guest.tell(command::ECHO)?;
    let mut clients = ports::Clients::connect()?;
    clients.echo()?;
    let before = guest.console.wait_for_io(None)?;
    let runner = takes_over(cx, &mut guest)?;
    // A client of the console stays connected; connections of sockets end, and can be reopened.
    clients.console_echoes().context("The same client")?;
    clients.socket_was_reset()?;
    drop(clients);
    ports::Clients::connect()?.echo()?;
    guest.console.wait_for_io(Some(&before))?;
    cx.value("io", guest.console.end_io()?)?;
    guest.power_off_under(&runner)?;
    // Where the lab looks for the data written by the guest.
    fs::copy(DISK, network::drive(0))?;
    Ok(fs::File::open(network::drive(0))?.sync_all()?)
}

/// Compares nothing: on a shared machine no two times are alike.
fn sizes(cx: &Cx<'_>) -> Result<()> {
    for (name, mib) in [("small", 128), ("large", 1024)] {
        let guest = boot(name, "guest_memfd", mib, 1)?;
        let mut runner = guest.runner()?;
        let mut blackouts = Vec::new();
        for _ in 0..10 {
            blackouts.push(blackout(&upgrade(&guest)?)?);
            runner = guest.runner()?;
        }
        blackouts.sort_unstable();
        let value = json!({"ram_mib": mib, "least_ns": blackouts[0], "median_ns": blackouts[5]});
        println!("{value}");
        cx.value(name, value)?;
        guest.power_off_under(&runner)?;
    }
    as_a_user()
}

/// The new VMM runs as the same user as the old one, and opens nothing that the user may not open.
fn as_a_user() -> Result<()> {
    let spec = Spec {
        name: "user",
        ram: "guest_memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: None,
    };
    let user = spec.user();
    let mut guest = Guest::boot(spec, &Arc::new(EventPort::open()?))?;
    let before = guest.report()?;
    upgrade(&guest)?;
    let runner = guest.runner()?;
    let status = fs::read_to_string(format!("/proc/{}/status", runner.pid()))?;
    for name in ["Uid", "Gid"] {
        let line = format!("{name}:\t{user}\t{user}\t{user}\t{user}\n");
        ensure!(status.contains(&line), "Not {line:?}: {status}");
    }
    guest.wait_for_beat()?;
    same_guest(&before, &guest.report()?)
}

fn bench(_: &Cx<'_>) -> Result<()> {
    let mut bench = Command::new(VMM);
    bench.args([
        "bench",
        SPARED,
        "--json",
        "--ram",
        "64",
        "--repeats",
        "3",
        "--settle",
        "1",
    ]);
    bench.args(["--kernel", KERNEL, "--initramfs", INITRAMFS]);
    let output = bench.output().context("Run vmm-example bench")?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {message}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let rows = report["binary_upgrade"].as_array().context("The rows")?;
    let kinds: Vec<_> = rows.iter().map(|row| row["ram_kind"].as_str()).collect();
    equal("The kinds", kinds, vec![Some("guest_memfd"), Some("memfd")])?;
    for row in rows {
        equal("The runs", &row["runs"], &json!(3))?;
        ensure!(row["blackout_ns"]["min"].as_u64() > Some(0), "{row}");
    }
    // Neither the guest nor any file of it is left.
    equal("The boxes", fdbox::boxes()?.len(), 0)?;
    let left: Vec<_> = fs::read_dir("/run")?
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("vmm-example-bench"))
        .collect();
    equal("The files that are left", left, Vec::new())
}
