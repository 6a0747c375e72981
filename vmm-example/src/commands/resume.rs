//! `resume`: run a guest on that an update handed over.
//!
//! Until the guest runs, every line here is part of the blackout: what can be opened
//! before the box is, and reports come after the first entry into the guest.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use vmm_fdbox::update::{Arrival, ExitStatus, PartyError, ResumeFailed, ResumePlan, Resumed};
use vmm_fdbox::{BoxName, BoxStore, Control, FdName};

use super::resume_all;
use super::serve::Surroundings;
use crate::cli::ResumeArgs;
use crate::devices::pci;
use crate::devices::vfio::Inheritance;
use crate::devices::virtio;
use crate::error::{chain, warn};
use crate::guest::machine::{Machine, SavedDevices, Shell};
use crate::guest::state::{self, GuestState};
use crate::kvm::Host;
use crate::kvm::vcpu::RestoreNotes;
use crate::memory::GuestRam;
use crate::service::report::ResumeReport;
use crate::update::{MEMORY_FD, VM_FD, party_error};

/// The phase in which KVM gets the guest back; before it, descriptors come out of the box.
const REBUILD: &str = "rebuild";

/// How long the guest runs undisturbed before its VMM cleans up and reports.
const HEAD_START: Duration = Duration::from_millis(200);

pub(super) fn resume(args: &ResumeArgs) -> anyhow::Result<ExitStatus> {
    if args.all.all {
        return resume_all::resume(args);
    }
    let box_name = args.box_name.as_ref().context("No --box")?;
    let host = Host::open()?;
    let control = Control::open()?;
    let around = Surroundings::open(&args.console, args.api_socket.as_deref())?;
    let ((machine, notes), resumed) = match rebuild(args, box_name, &control, &host, &around) {
        Ok(rebuilt) => rebuilt,
        Err(failed) => {
            warn(&format!("Cannot resume {box_name}: {failed}"));
            if args.all.supervised {
                resume_all::tell_failure(&failed.to_string());
            }
            return Ok(failed.exit_status());
        }
    };
    let vmm = around.start(machine);
    let report = finish(args, box_name, vmm.machine(), &notes, resumed);
    vmm.chronicle().arrived(report.blackout());
    if let Err(error) = show(args, box_name, &report) {
        warn(&format!(
            "The guest runs, but its report is lost: {}",
            chain(error.as_ref())
        ));
    }
    around.serve(vmm)
}

type Rebuilt<'a, S> = ((Machine, RestoreNotes), Resumed<&'a S>);

fn rebuild<'a, S: BoxStore>(
    args: &ResumeArgs,
    box_name: &BoxName,
    store: &'a S,
    host: &Host,
    around: &Surroundings,
) -> Result<Rebuilt<'a, S>, Box<ResumeFailed>> {
    let mut plan = ResumePlan::new(box_name.clone(), &state::KNOWN);
    plan.userspace_boottime_ns = args.init_uptime.map(|seconds| (seconds * 1e9) as u64);
    plan.fail_at = args.fail_at;
    let incoming = Arrival::open(store, plan)?;
    if args.all.supervised {
        resume_all::wait_for_turn(state::position(&incoming.frame()));
    }
    incoming.restore(|incoming| build(args, incoming, host, around))
}

/// Takes everything out of the box and makes a parked guest of it.
fn build<S: BoxStore>(
    args: &ResumeArgs,
    incoming: &mut Arrival<S>,
    host: &Host,
    around: &Surroundings,
) -> Result<(Machine, RestoreNotes), PartyError> {
    let state = GuestState::read(&incoming.frame()).map_err(party_error)?;
    let machine = &state.machine;
    // Before anything is taken: what cannot be opened leaves the box as it is.
    let devices = virtio::reopen(&state.virtio, &args.handed_in(), &around.title);
    let devices = devices.map_err(party_error)?;
    // The VM first: a guest_memfd comes out bound to it.
    let vm = incoming.take(&FdName::new(VM_FD)?)?;
    let ram = incoming.take(&FdName::new(MEMORY_FD)?)?;
    // What memory is behind goes before what reaches it.
    let mut passed = Inheritance::new();
    for name in pci::bus::names(state.pci.as_ref()) {
        let fd = incoming.take(&FdName::new(&name)?)?;
        passed.insert(name, fd);
    }
    incoming.mark(REBUILD);
    let vm = host.adopt_vm(vm).map_err(party_error)?;
    let ram =
        GuestRam::adopt(ram, machine.ram.clone(), machine.memory_kind).map_err(party_error)?;
    let cpus = state.vcpus.len();
    let shell = Shell::build(host, vm, ram, cpus, &[], &around.on_end).map_err(party_error)?;
    let console = around.console.clone();
    let devices = SavedDevices {
        virtio: devices,
        passed,
    };
    Machine::restore(shell, &state, devices, console).map_err(party_error)
}

/// Waits until the guest runs and deletes its box. Whatever fails here, the guest goes on.
pub(super) fn finish<S: BoxStore>(
    args: &ResumeArgs,
    box_name: &BoxName,
    machine: &Machine,
    notes: &RestoreNotes,
    mut resumed: Resumed<S>,
) -> ResumeReport {
    resumed.running_at(wait_for_entry(machine));
    if args.all.supervised {
        resume_all::tell_entry();
    }
    // The guest has a backlog, and perhaps only this CPU.
    thread::sleep(HEAD_START);
    let finished = resumed.finish();
    if let Err(error) = &finished.deleted {
        warn(&format!(
            "The guest runs, but what is left of its box stays: {}; the name {box_name} is taken \
             until the box is deleted",
            chain(error)
        ));
    }
    ResumeReport::new(box_name, machine, notes, &finished)
}

fn show(args: &ResumeArgs, box_name: &BoxName, report: &ResumeReport) -> anyhow::Result<()> {
    let json = serde_json::to_string(report)?;
    if let Some(path) = &args.report {
        write_report(&report_path(path, &box_name.to_string()), &json)?;
    }
    if args.all.supervised {
        resume_all::tell_report(report)?;
    } else if args.json {
        writeln!(io::stdout(), "{json}")?;
    } else {
        write!(io::stderr(), "{report}")?;
    }
    Ok(())
}

/// Waits until a vCPU has entered the guest and returns the TSC of that moment.
fn wait_for_entry(machine: &Machine) -> u64 {
    loop {
        match machine.first_entry_tsc() {
            0 => thread::sleep(Duration::from_micros(100)),
            tsc => return tsc,
        }
    }
}

/// Where the report of `name` goes: a directory gets a file for it.
pub(super) fn report_path(path: &Path, name: &str) -> PathBuf {
    if path.is_dir() {
        path.join(format!("{name}.json"))
    } else {
        path.into()
    }
}

/// In one piece: a reader that waits for the file finds all of it. What is there and is no regular
/// file, such as a pipe, is written to as it is.
pub(super) fn write_report(path: &Path, json: &str) -> anyhow::Result<()> {
    let context = || format!("Cannot write {}", path.display());
    let json = format!("{json}\n");
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        // Nobody waits for a pipe that nobody reads: the guest has a VMM to be.
        let mut options = OpenOptions::new();
        options
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let mut file = options.open(path).with_context(context)?;
        return file.write_all(json.as_bytes()).with_context(context);
    }
    let mut partial = OsString::from(path);
    partial.push(".partial");
    let written = fs::write(&partial, json).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // What there is of it is of no use, and takes room where there is none.
        let _ = fs::remove_file(&partial);
    }
    written.with_context(context)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_report_is_there_in_one_piece_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        write_report(&path, "{}").unwrap();
        write_report(&path, "[1]").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[1]\n");
        // A name that is taken by a folder: it cannot be put there.
        let folder = dir.path().join("folder.json");
        fs::create_dir_all(folder.join("x")).unwrap();
        assert!(write_report(&folder, "{}").is_err());
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 2, "something is left");
    }

    #[test]
    fn a_device_or_a_pipe_is_written_to_and_stays_what_it_is() {
        let error = write_report(Path::new("/dev/full"), "{}").unwrap_err();
        let text = chain(error.as_ref());
        assert!(
            text.starts_with("Cannot write /dev/full: No space left"),
            "{text}"
        );
        assert!(!fs::metadata("/dev/full").unwrap().is_file());

        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        // Nobody reads it.
        assert!(write_report(&fifo, "{}").is_err());
        let mut reader = OpenOptions::new();
        let reader = reader.read(true).custom_flags(libc::O_NONBLOCK);
        let mut reader = reader.open(&fifo).unwrap();
        write_report(&fifo, "{}").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{}\n");
    }
}
