//! The process of a VMM that receives a guest.
//!
//! Until the guest runs, everything is part of the blackout, except for what is done while the
//! guest still runs in another VMM. So whatever can be opened in advance is opened before the box
//! is, and reports are made after the guest was first entered.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use vmm_fdbox::frame::{Frame, KnownSection};
use vmm_fdbox::member::{Arrive, ArrivingVmm, Lent};
use vmm_fdbox::update::{Arrival, Arriving, Finished, PartyError, Step};
use vmm_fdbox::{BoxName, BoxStore, FdName, Home};

use super::{cpu, environment};
use crate::cli::MemberArgs;
use crate::commands::serve::Environment;
use crate::commands::signal;
use crate::devices::pci;
use crate::devices::vfio::PassedFds;
use crate::devices::virtio;
use crate::guest::machine::{Boot, Machine, SavedDevices, Shell};
use crate::guest::state::{self, GuestState};
use crate::kvm::Host;
use crate::kvm::vcpu::RestoreNotes;
use crate::memory::GuestRam;
use crate::sandbox::Sandbox;
use crate::service::api::ApiPaths;
use crate::service::endpoints::fd;
use crate::service::report::{HostReport, ResumeReport};
use crate::service::vmm::Vmm;
use crate::spec::ConsoleSpec;
use crate::update::handover_info::HandoverInfo;
use crate::update::{MEMORY_FD, VM_FD, party_error};

/// The phase in which the guest is restored into KVM; before it, descriptors are taken out of the
/// box.
const REBUILD: &str = "rebuild";

/// How long the guest runs undisturbed before its VMM reports.
const HEAD_START: Duration = Duration::from_millis(200);

/// What was built before the guest was paused in its old VMM.
struct Prebuilt {
    info: HandoverInfo,
    shell: Shell,
}

/// What was opened for a guest that waits in its box.
struct Reserved {
    state: GuestState,
    sandbox: Sandbox,
    boot: Option<Boot>,
    devices: Vec<virtio::Opened>,
}

/// A VMM without a guest; see the module's documentation.
pub(super) struct ArrivingGuest<'a> {
    args: &'a MemberArgs,
    box_name: Option<BoxName>,
    /// The home of the box.
    home: Home,
    /// Whether the guest is to arrive paused.
    paused: bool,
    is_ready: bool,
    /// For the report.
    on_host: HostReport,
    host: Option<Host>,
    environment: Option<Environment>,
    prebuilt: Option<Prebuilt>,
    /// `Err` if something could not be opened.
    reserved: Option<Result<Reserved, PartyError>>,
    /// The guest, which does not run yet.
    parked: Option<Machine>,
    notes: RestoreNotes,
    vmm: Option<Vmm>,
}

fn missing(what: &str) -> PartyError {
    format!("{what} is missing: the coordinator left a step out").into()
}

/// Wraps an error with several layers for the library.
fn layered(error: anyhow::Error) -> PartyError {
    format!("{error:#}").into()
}

impl<'a> ArrivingGuest<'a> {
    pub(super) fn new(args: &'a MemberArgs) -> Self {
        Self {
            args,
            box_name: None,
            home: Home::default(),
            paused: false,
            is_ready: false,
            on_host: HostReport::read(),
            host: None,
            environment: None,
            prebuilt: None,
            reserved: None,
            parked: None,
            notes: RestoreNotes::default(),
            vmm: None,
        }
    }

    /// Whether it got as far as the box.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The guest, and everything that it needs.
    pub(super) fn into_parts(self) -> Option<(Environment, Vmm)> {
        Some((self.environment?, self.vmm?))
    }

    /// Called when a step is requested: a test may want the process to hang there.
    fn reach(&self, step: Step) {
        if self.args.stop_at == Some(step) {
            signal::send(std::process::id(), Signal::STOP);
        }
    }

    fn host(&self) -> Result<&Host, PartyError> {
        self.host.as_ref().ok_or_else(|| missing("KVM"))
    }

    fn environment(&self) -> Result<&Environment, PartyError> {
        self.environment
            .as_ref()
            .ok_or_else(|| missing("The console"))
    }

    /// The VMM's sandbox, without what depends on the guest.
    fn base_sandbox(&self, api: &ApiPaths, console: &ConsoleSpec) -> Sandbox {
        let mut sandbox = self.args.privileges.sandbox();
        sandbox.sockets.extend(api.iter().cloned());
        if let ConsoleSpec::Socket(path) = console {
            sandbox.sockets.push(path.clone());
        }
        sandbox
    }

    fn sandbox(&self, state: &GuestState) -> Sandbox {
        let base = self.base_sandbox(&self.args.api_paths(), &self.args.console);
        let (sockets, connects) = virtio::state::sockets(&state.virtio);
        Sandbox {
            sockets: [sockets, base.sockets].concat(),
            connects,
            locks_memory: state.pci.is_some(),
            ..base
        }
    }

    /// Opens what a guest's state names, and locks its disks. Nothing is taken out of the box.
    fn open_all(&self, frame: &Frame<Vec<u8>>) -> Result<Reserved, PartyError> {
        let environment = self.environment()?;
        let state = GuestState::read(frame).map_err(party_error)?;
        // Before anything is taken out: a host that cannot run the guest leaves the box unchanged.
        cpu::check(self.host()?, &state, self.args.force.force_cpu)?;
        let sandbox = self.sandbox(&state);
        let boot = state.boot.as_ref().map(Boot::again);
        let (taps, ownership) = (self.args.handed_in(), &environment.ownership);
        let devices = virtio::reopen(&state.virtio, &taps, ownership).map_err(party_error)?;
        Ok(Reserved {
            state,
            sandbox,
            boot,
            devices,
        })
    }

    /// Takes everything out of the box and builds a parked guest from it.
    fn restore_from_box<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
    ) -> Result<(Machine, RestoreNotes), PartyError> {
        // Before anything is taken out: what cannot be opened leaves the box unchanged.
        let reserved = self.reserved.take();
        let Reserved {
            state,
            sandbox,
            boot,
            devices,
        } = reserved.unwrap_or_else(|| Err(missing("The state")))?;
        let (host, environment) = (self.host()?, self.environment()?);
        let machine = &state.machine;
        // The VM first: a guest_memfd comes out bound to it.
        let vm = arrival.take_if_there(&FdName::new(VM_FD)?)?;
        let ram = arrival.take(&FdName::new(MEMORY_FD)?)?;
        // Memory before the iommufd, and that before the devices.
        let mut passed = PassedFds::new();
        for name in pci::bus::names(state.pci.as_ref()) {
            let fd = arrival.take(&FdName::new(&name)?)?;
            passed.insert(name, fd);
        }
        arrival.mark(REBUILD);
        let vm = host.vm_of(vm).map_err(party_error)?;
        sandbox.enter().map_err(party_error)?;
        let ram =
            GuestRam::adopt(ram, machine.ram.clone(), machine.memory_kind).map_err(party_error)?;
        let cpus = state.vcpus.len();
        let shell =
            Shell::build(host, vm, ram, cpus, &[], &environment.on_end).map_err(party_error)?;
        let devices = SavedDevices {
            virtio: devices,
            passed,
            boot,
            force_cpu: self.args.force.force_cpu,
        };
        let console = environment.console.clone();
        Machine::restore(shell, &state, devices, console).map_err(party_error)
    }

    /// Restores the state into what was built, with what the old VMM lends.
    fn restore_from_vmm<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
        prebuilt: Prebuilt,
        mut lent: Lent,
    ) -> Result<(Machine, RestoreNotes), PartyError> {
        let Prebuilt { info, shell } = prebuilt;
        if let Some(client) = lent.take(fd::CONSOLE_CLIENT) {
            let environment = self.environment.as_mut();
            let environment = environment.ok_or_else(|| missing("The console"))?;
            environment.adopt_client(client.into())?;
        }
        let environment = self.environment()?;
        let state = GuestState::read(&arrival.frame()).map_err(party_error)?;
        if state.machine != info.machine {
            return Err("The guest is not the one that was announced".into());
        }
        let names = pci::bus::names(state.pci.as_ref());
        let passed = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), lent.take(&name)?)))
            .collect();
        let mut fds: HashMap<String, OwnedFd> = lent.fds.into_iter().collect();
        let boot = state.boot.as_ref();
        let boot = boot.map(|boot| Boot::inherit(boot, &mut fds));
        let virtio =
            virtio::inherit(&state.virtio, fds, &environment.ownership).map_err(party_error)?;
        let devices = SavedDevices {
            virtio,
            passed,
            boot,
            force_cpu: self.args.force.force_cpu,
        };
        let console = environment.console.clone();
        Machine::restore(shell, &state, devices, console).map_err(party_error)
    }
}

impl ArrivingVmm for ArrivingGuest<'_> {
    fn known(&self) -> &[KnownSection] {
        &state::KNOWN
    }

    fn get_ready(&mut self, arrive: &Arrive) -> Result<(), PartyError> {
        self.reach(Step::Preflight);
        self.box_name = Some(arrive.box_name.clone());
        self.home = arrive.module.home;
        self.paused = arrive.paused;
        if !arrive.from_vmm {
            self.host = Some(Host::open().map_err(party_error)?);
            let api = self.args.api_paths();
            let sandbox = self.base_sandbox(&api, &self.args.console);
            let group = self.args.api_group;
            sandbox.make_folders(group).map_err(party_error)?;
            let environment = Environment::open(&self.args.console, &api).map_err(layered)?;
            environment.share_api(group).map_err(layered)?;
            self.environment = Some(environment);
            // The state was written by a VMM, so it is read, and what it names is opened, as the
            // guest's own user.
            sandbox.become_user().map_err(party_error)?;
        }
        self.is_ready = true;
        Ok(())
    }

    fn reserve(&mut self, frame: &Frame<Vec<u8>>) {
        self.reserved = Some(self.open_all(frame));
    }

    fn position(&self, frame: &Frame<Vec<u8>>) -> Option<u32> {
        state::position(frame)
    }

    fn prebuild<S: BoxStore>(
        &mut self,
        arriving: &mut Arriving<S>,
        lent: Lent,
    ) -> Result<(), PartyError> {
        self.reach(Step::Prebuild);
        let info: HandoverInfo = serde_json::from_value(lent.value)?;
        let mut fds: HashMap<String, OwnedFd> = lent.fds.into_iter().collect();
        // The old VMM may have dropped the right to open it, and so may this one.
        let host = match fds.remove(fd::KVM) {
            Some(kvm) => Host::adopt(kvm),
            None => Host::open(),
        };
        self.host = Some(host.map_err(party_error)?);
        let environment = environment::adopt(&info, fds).map_err(layered)?;
        let host = self.host()?;
        // The VM first: a guest_memfd comes out bound to it.
        let vm = arriving.take_if_there(&FdName::new(VM_FD)?)?;
        let vm = host.vm_of(vm).map_err(party_error)?;
        let ram = arriving.take(&FdName::new(MEMORY_FD)?)?;
        let machine = &info.machine;
        let ram =
            GuestRam::adopt(ram, machine.ram.clone(), machine.memory_kind).map_err(party_error)?;
        let (cpus, layouts) = (info.vcpus, &info.layouts);
        let console = info.console.parse()?;
        let base = self.base_sandbox(&info.api_paths(), &console);
        let sandbox = Sandbox {
            sockets: [&info.sockets[..], &base.sockets].concat(),
            connects: info.connects.clone(),
            locks_memory: !info.host_devices.is_empty(),
            ..base
        };
        virtio::reserve_io(layouts);
        sandbox.enter().map_err(party_error)?;
        let shell =
            Shell::build(host, vm, ram, cpus, layouts, &environment.on_end).map_err(party_error)?;
        shell.wait_until_idle();
        self.environment = Some(environment);
        self.prebuilt = Some(Prebuilt { info, shell });
        Ok(())
    }

    fn restore<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
        lent: Lent,
    ) -> Result<(), PartyError> {
        self.reach(Step::Restore);
        let (machine, notes) = match self.prebuilt.take() {
            Some(prebuilt) => self.restore_from_vmm(arrival, prebuilt, lent)?,
            None => self.restore_from_box(arrival)?,
        };
        if self.paused {
            machine.hold(true);
        }
        (self.parked, self.notes) = (Some(machine), notes);
        Ok(())
    }

    fn abandon(&mut self) {
        self.parked = None;
        self.prebuilt = None;
        self.reserved = None;
    }

    fn run(&mut self) -> Result<u64, PartyError> {
        self.reach(Step::Jump);
        let machine = self.parked.take().ok_or_else(|| missing("The guest"))?;
        let environment = self.environment()?;
        let vmm = environment.start(machine);
        environment.ownership.set(true);
        let entered = wait_for_entry(vmm.machine());
        self.vmm = Some(vmm);
        Ok(entered)
    }

    fn report(&mut self, finished: Finished) -> Value {
        self.reach(Step::Finish);
        // The guest has a backlog of work, and perhaps only this CPU.
        thread::sleep(HEAD_START);
        let (Some(vmm), Some(box_name)) = (&self.vmm, &self.box_name) else {
            return Value::Null;
        };
        let host = self.on_host.clone();
        let report = ResumeReport::new(
            (box_name, self.home),
            host,
            vmm.machine(),
            &self.notes,
            &finished,
        );
        vmm.history().arrived(report.host(), report.blackout());
        serde_json::to_value(report).unwrap_or_default()
    }
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
