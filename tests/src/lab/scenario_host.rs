//! The host for a kind of scenario.

use std::time::Duration;

use anyhow::Result;
use fdbox_lab::scenario::{Devices, HostKind};

use crate::boat::{self, BoatFiles};
use crate::debian_guest::DebianGuest;
use crate::guest::{CARD_DRIVER, GuestFiles};
use crate::host::{Ending, Host, HostSpec, StageSpec, module_place};
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::policy;
use crate::programs::{self, Programs};
use crate::tsc::Clocks;

/// Sizes of KHO's scratch memory. Those that it chooses are multiples of what the kernel has reserved, of which KASAN's
/// shadow is an eighth of all memory: that does not fit, and KHO is disabled.
const KASAN_SCRATCH: &str = "kho_scratch=64M,0,128M";
/// The same for a host with a huge page of 1 GiB.
const LARGE_SCRATCH: &str = "kho_scratch=64M,0,384M";
/// The time limit for all scenarios of one boot, per kernel.
const STAGE_LIMIT: Duration = Duration::from_secs(240);
/// The same for scenarios that take long, for a debug kernel, in which everything takes twenty times as long, and for a
/// guest with systemd, which takes minutes to boot and to end.
const LONG_STAGE_LIMIT: Duration = Duration::from_secs(1800);
/// Additional memory for a debug kernel, in MiB: for its metadata, and a contiguous area for twice
/// the scratch memory of KHO. With 1024 MiB that area was not always available, and KHO was
/// disabled.
const DEBUG_MEMORY_MIB: u64 = 2560;
/// Where the program with the scenarios is in the host.
const PROGRAM: &str = "/bin/lab-scenarios";
/// A host's memory, in MiB, in addition to that of a guest.
const MEMORY_MIB: u64 = 2048;
const LARGE_MEMORY_MIB: u64 = 4096;

/// Whether a home of boxes is checked there.
fn checks_homes(kind: HostKind) -> bool {
    matches!(kind, HostKind::OneBoot | HostKind::Stock)
}

/// Builds the programs that run in a host of this kind.
pub(crate) fn programs(lab: &Lab, kind: HostKind) -> Result<Programs> {
    let all = [
        programs::INIT,
        programs::SCENARIOS,
        programs::VMM,
        programs::WITNESS,
        programs::LATER_VMM,
    ];
    let checked = [programs::INIT, programs::SCENARIOS, programs::HOMES];
    lab.programs(match kind {
        HostKind::GuestTwoBuilds => &all,
        _ if kind.has_guest() => &all[..4],
        _ if kind.is_as_it_comes() => &all[..3],
        _ if checks_homes(kind) => &checked,
        _ => &all[..2],
    })
}

/// Scenarios that share one boot.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) kind: HostKind,
    /// The number of kernels they run in.
    pub(crate) kernels: usize,
    pub(crate) names: Vec<&'a str>,
    /// Set for each command: `NAME=VALUE ...`, or empty.
    pub(crate) environment: String,
    /// The maximum number of guests with a disk and a network.
    pub(crate) guests: u8,
    /// What the guests need beyond the usual 256 MiB.
    pub(crate) more_memory_mib: u64,
    /// Whether it boots debug kernels, which are checked for leaks at the end.
    pub(crate) debug: bool,
    /// Other kernels than those of its kind.
    pub(crate) other: Option<OtherKernels>,
    /// Other CPUs than those of its kind.
    pub(crate) cpus: Option<u32>,
}

/// Kernels of a host and of its guests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OtherKernels {
    /// One for each stage.
    pub(crate) host: &'static [Flavour],
    pub(crate) guest: Flavour,
}

/// The CPUs of a host if nothing else is said.
fn usual_cpus(kind: HostKind) -> u32 {
    match kind {
        HostKind::Guests
        | HostKind::GuestLifeboat
        | HostKind::GuestLifeboatAstray
        | HostKind::LargeGuestLifeboat
        | HostKind::GuestLifeboatPassthrough
        | HostKind::GuestLifeboatNvme => 2,
        HostKind::Lifeboat | HostKind::GuestsLifeboat | HostKind::LifeboatOneBoot => 3,
        HostKind::OneBoot
        | HostKind::Kexec
        | HostKind::LargeKexec
        | HostKind::OwnKexec
        | HostKind::LateModule
        | HostKind::WithoutKho
        | HostKind::Unpatched => 4,
        // Several hosts run at a time, and a guest keeps one CPU busy.
        _ => 1,
    }
}

/// Whether it is a host with a guest that usually has one CPU. Those with devices to pass through were not tried with more.
pub(crate) fn has_one_cpu_and_guest(kind: HostKind) -> bool {
    kind.has_guest() && usual_cpus(kind) == 1 && kind.devices() == Devices::None
}

impl Group<'_> {
    /// Builds what is missing and writes the host's images.
    pub(crate) fn prepare(&self, lab: &Lab) -> Result<Host> {
        let programs = programs(lab, self.kind)?;
        let guest = match (self.kind.debian(), self.kind.has_guest()) {
            (Some(release), _) => Some(GuestFiles::of_debian(lab, &programs, release)?),
            (None, true) => Some(GuestFiles::of(lab, &programs, self.guest_kernel())?),
            (None, false) => None,
        };
        let mut stages = self.stages(guest.as_ref());
        if self.kind.has_card_driver() {
            for stage in &mut stages {
                let driver = lab.kernels()?.get(stage.kernel)?.module(CARD_DRIVER);
                stage.files.push((driver, module_place("e1000e")));
            }
        }
        if self.kind.is_as_it_comes() {
            for stage in &mut stages {
                let vmm = programs.path(programs::VMM);
                stage.files.push((vmm, "/bin/vmm-example".to_owned()));
            }
        }
        if self.kind.has_lifeboat() {
            let boat = BoatFiles::get(lab, &programs, self.kind.has_guest())?;
            for stage in &mut stages {
                stage.files.extend(boat.files());
            }
        }
        if self.debug {
            let policy = policy::get(lab)?;
            for stage in &mut stages {
                stage.files.push((policy.clone(), policy::PLACE.to_owned()));
            }
        }
        if checks_homes(self.kind) {
            for stage in &mut stages {
                let homes = programs.path(programs::HOMES);
                stage.files.push((homes, "/bin/homes".to_owned()));
            }
        }
        if self.kind == HostKind::GuestTwoBuilds {
            for stage in &mut stages {
                let later = programs.path(programs::LATER_VMM);
                stage
                    .files
                    .push((later, "/bin/vmm-example-later".to_owned()));
            }
        }
        let spec = HostSpec {
            name: self
                .names
                .first()
                .copied()
                .unwrap_or("scenarios")
                .to_owned(),
            memory_mib: self.more_memory_mib
                + if self.debug { DEBUG_MEMORY_MIB } else { 0 }
                + match self.kind {
                    HostKind::LargeKexec => 2 * LARGE_MEMORY_MIB,
                    HostKind::LargeGuests | HostKind::LargeGuestLifeboat => LARGE_MEMORY_MIB,
                    _ => MEMORY_MIB,
                },
            cpus: self.cpus.unwrap_or_else(|| self.cpus_of_kind()),
            cmdline: match self.kind {
                _ if self.has_kasan() => KASAN_SCRATCH.to_owned(),
                HostKind::WithoutKho | HostKind::UnpatchedNoKho => "kho=off".to_owned(),
                HostKind::Lifeboat
                | HostKind::GuestLifeboat
                | HostKind::GuestLifeboatAstray
                | HostKind::LargeGuestLifeboat
                | HostKind::GuestLifeboatPassthrough
                | HostKind::GuestLifeboatNvme
                | HostKind::GuestsLifeboat => {
                    // LUO of a next kernel frees what a rescue kernel would read.
                    let luo = match self.kind {
                        HostKind::GuestLifeboatAstray => "liveupdate=off",
                        _ => "",
                    };
                    // A host that panics must not reset the machine, and its boat with it.
                    format!(
                        "{} {} maxcpus=1 no_ipi_broadcast=1 panic=0 {luo}",
                        boat::CMDLINE,
                        boat::SCRATCH
                    )
                }
                HostKind::LifeboatOneBoot => boat::CMDLINE.to_owned(),
                // Later there is no free memory that is long enough. It counts as reserved, and KHO's own choice would be
                // twice that.
                HostKind::LargeKexec => format!("hugepagesz=1G hugepages=1 {LARGE_SCRATCH}"),
                _ => String::new(),
            },
            files: vec![(programs.path(programs::SCENARIOS), PROGRAM.to_owned())],
            with_modules: true,
            devices: self.kind.devices(),
            stages,
            guests: if self.kind.has_guest() {
                self.guests
            } else {
                0
            },
            stage_limit: match self.kind {
                _ if self.debug => LONG_STAGE_LIMIT,
                HostKind::Debian(_)
                | HostKind::GuestAlone
                | HostKind::GuestHolder
                | HostKind::GuestOneBoot
                | HostKind::GuestsOneBoot
                | HostKind::GuestScalable
                | HostKind::GuestSoak
                | HostKind::GuestTwoBuilds
                | HostKind::Guests
                | HostKind::LargeGuests
                | HostKind::GuestPassthrough
                | HostKind::GuestPassthroughScalable
                | HostKind::GuestPassthroughAmdVi
                | HostKind::GuestsPassthrough
                | HostKind::GuestLifeboat
                | HostKind::GuestLifeboatAstray
                | HostKind::LargeGuestLifeboat
                | HostKind::GuestLifeboatPassthrough
                | HostKind::GuestLifeboatNvme
                | HostKind::GuestsLifeboat => LONG_STAGE_LIMIT,
                _ => STAGE_LIMIT,
            },
            clocks: Clocks::Time,
        };
        let host = spec.prepare(lab, &programs)?;
        match self.kind.debian() {
            Some(release) => host.with_disk(&DebianGuest::get(lab, &programs, release)?),
            None => Ok(host),
        }
    }

    fn cpus_of_kind(&self) -> u32 {
        match usual_cpus(self.kind) {
            4 if self.debug || self.other.is_some() => 1,
            usual => usual,
        }
    }

    fn has_kasan(&self) -> bool {
        let kernels = self.other.map_or(&[][..], |other| other.host);
        kernels.contains(&Flavour::Kasan)
    }

    /// The kernels that it boots or may load, and its guests'.
    pub(crate) fn flavours(&self) -> Vec<Flavour> {
        let stages = self.stages(None).into_iter();
        stages
            .map(|stage| stage.kernel)
            .chain([self.guest_kernel()])
            .collect()
    }

    fn guest_kernel(&self) -> Flavour {
        self.other.map_or(Flavour::Stock, |other| other.guest)
    }

    fn stages(&self, guest: Option<&GuestFiles>) -> Vec<StageSpec> {
        let mut stages: Vec<_> = (0..self.kernels)
            .map(|index| self.stage(index, guest))
            .collect();
        if self.kind.stays_with_guest() {
            // A kernel to load; it is never entered.
            stages.push(StageSpec {
                kernel: Flavour::B,
                modules: Vec::new(),
                commands: Vec::new(),
                files: Vec::new(),
                then: Ending::PowerOff,
            });
        }
        stages
    }

    /// The kernel of a stage, if the host has other kernels than those of its kind. After the last of them it is that one.
    fn other_kernel(&self, index: usize) -> Flavour {
        let host = self.other.map_or(&[][..], |other| other.host);
        let found = host.get(index).or(host.last());
        found.copied().unwrap_or(Flavour::Stock)
    }

    fn stage(&self, index: usize, guest: Option<&GuestFiles>) -> StageSpec {
        let run = |name: &&str| {
            format!("{} {PROGRAM} run {} {name}", self.environment, index + 1)
                .trim()
                .to_owned()
        };
        let mut commands: Vec<_> = self.names.iter().map(run).collect();
        if self.debug && !(self.kind.jumps() && index + 1 < self.kernels) {
            commands.push(format!("{PROGRAM} leaks {}", index + 1));
        }
        StageSpec {
            kernel: match self.kind {
                _ if self.other.is_some() => self.other_kernel(index),
                _ if self.debug => Flavour::Debug,
                HostKind::Unpatched => Flavour::Stock,
                kind if kind.is_stock() => Flavour::Stock,
                HostKind::Modular => Flavour::Modular,
                // Each kexec goes to the other kernel.
                _ if index.is_multiple_of(2) => Flavour::A,
                _ => Flavour::B,
            },
            modules: match self.kind {
                HostKind::Forged => Vec::new(),
                kind if kind.is_stock() => Vec::new(),
                _ if self.other.is_some() && !self.other_kernel(index).is_patched() => Vec::new(),
                HostKind::LateModule | HostKind::FailingLoad | HostKind::GuestsLateModule
                    if index > 0 =>
                {
                    Vec::new()
                }
                _ => vec!["fdbox".to_owned()],
            },
            commands,
            files: guest.map(|guest| guest.of_stage(index)).unwrap_or_default(),
            then: match self.kind {
                _ if index + 1 == self.kernels => Ending::PowerOff,
                kind if kind.jumps() => Ending::CommandJumps,
                _ => Ending::Kexec,
            },
        }
    }
}
