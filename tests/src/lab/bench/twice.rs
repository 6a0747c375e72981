//! A host that jumps from one kernel into another whose init has a single task.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use fdbox_lab::bench::FIRST;
use fdbox_lab::plan::{Plan, Stage, Then};
use fdbox_lab::scenario::Devices;
use serde::Serialize;

use super::{Bench, PROGRAM};
use crate::emulator::{Emulator, Traits};
use crate::host::{Host, HostSpec, module_place, modules};
use crate::image::{self, Image};
use crate::kernel::Flavour;
use crate::programs;
use crate::qemu::Machine;
use crate::run::{self, Record};
use crate::tsc::Clocks;

/// For a stage, with the clocks running by time.
const LIMIT: Duration = Duration::from_secs(900);
/// With the clocks running by instructions: less than two minutes, unless the guest hangs.
const LIMIT_BY_INSTRUCTIONS: Duration = Duration::from_secs(300);
/// The same for each further guest, which boots when the one before it has.
const LIMIT_OF_ANOTHER: Duration = Duration::from_secs(60);

/// The profile of the new host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// The lab's usual kernel, command line and initramfs.
    Stock,
    /// All of them optimised for a short boot: docs/fast-handover.md.
    Fast,
}

/// Additional words of a fast host's command line. The last word with a name counts. QEMU's local
/// APIC timer counts nanoseconds.
const FAST_WORDS: &str = "quiet loglevel=0 lapic_timer_khz=1000000";

impl Profile {
    fn kernel(self) -> Flavour {
        match self {
            Self::Stock => Flavour::B,
            Self::Fast => Flavour::Fast,
        }
    }
}

/// A host whose last command leaves it.
#[derive(Debug)]
pub(super) struct Twice {
    pub(super) name: &'static str,
    pub(super) memory_mib: u64,
    pub(super) cpus: u32,
    /// Run in the old kernel by the measuring program.
    pub(super) before: Vec<String>,
    /// The task of the new kernel's init.
    pub(super) first: String,
    pub(super) profile: Profile,
    pub(super) with_guest: bool,
    /// Whether both kernels have the module; without it LUO keeps what goes over.
    pub(super) with_module: bool,
}

impl Twice {
    pub(super) fn run(&self, bench: &Bench<'_>) -> Result<Record> {
        self.run_with(bench, 1)
    }

    /// The same with so many guests.
    pub(super) fn run_with(&self, bench: &Bench<'_>, guests: u32) -> Result<Record> {
        let limit = match bench.clocks {
            Clocks::Time => LIMIT,
            Clocks::Instructions => {
                LIMIT_BY_INSTRUCTIONS + LIMIT_OF_ANOTHER * guests.saturating_sub(1)
            }
        };
        bench.judge(&self.prepare(bench, limit)?)
    }

    /// Writes both images, the new kernel's first: the other one contains it.
    fn prepare(&self, bench: &Bench<'_>, limit: Duration) -> Result<Host> {
        let lab = bench.lab;
        let kernels = lab.kernels()?;
        let (old, new) = (
            kernels.get(Flavour::A)?,
            kernels.get(self.profile.kernel())?,
        );
        let dir = run::folder(&lab.cache, self.name)?;
        let guest = match self.with_guest {
            true => Some(bench.guest()?),
            false => None,
        };
        let files = |index: usize| -> Vec<(PathBuf, String)> {
            let mut files = guest
                .as_ref()
                .map_or(Vec::new(), |guest| guest.of_stage(index));
            files.push(bench.scenarios());
            files
        };
        let plan = Plan {
            stages: vec![self.stage(bench)],
        };
        let (init, busybox) = (bench.programs.path(programs::INIT), lab.busybox());
        let inner = dir.join("stage2.cpio");
        let mut new_files = [files(1), modules(lab, &new)?].concat();
        match self.profile {
            Profile::Stock => Image {
                busybox: &busybox,
                init: &init,
                plan: &plan,
                files: &new_files,
                next: None,
            }
            .write(&inner)?,
            Profile::Fast => {
                let sample = |place: &str| place.ends_with(".ko") && place != module_place("fdbox");
                new_files.retain(|(_, place)| !sample(place));
                image::write_small(&new_files, &inner)?;
            }
        }
        let outer = dir.join("stage1.cpio");
        Image {
            busybox: &busybox,
            init: &init,
            plan: &plan,
            files: &[files(0), modules(lab, &old)?].concat(),
            next: Some((&new.image(), &inner)),
        }
        .write(&outer)?;
        std::fs::remove_file(&inner)?;
        let traits = Traits {
            devices: Devices::None,
            has_guests: self.with_guest,
            cpus: self.cpus,
            clocks: bench.clocks,
        };
        let machine = Machine {
            memory_mib: self.memory_mib,
            nodes: 1,
            cpus: self.cpus,
            kernel: old.image(),
            initramfs: outer,
            cmdline: self.cmdline(0, bench.clocks),
            guests: 0,
            devices: Devices::None,
            emulator: Emulator::get(lab, traits)?,
            clocks: bench.clocks,
        };
        Ok(Host::of(
            machine,
            dir,
            vec![old.release, new.release],
            limit,
        ))
    }

    fn stage(&self, bench: &Bench<'_>) -> Stage {
        // The kernel hands words that it does not know to init as its environment.
        let first = format!(
            "{} rdinit={PROGRAM} {}{FIRST}={}",
            self.cmdline(1, bench.clocks),
            bench.environment,
            self.first
        );
        let next_cmdline = match self.profile {
            Profile::Stock => first,
            Profile::Fast => format!("{first} {FAST_WORDS}"),
        };
        Stage {
            modules: match self.with_module {
                true => vec![module_place("fdbox")],
                false => Vec::new(),
            },
            commands: self
                .before
                .iter()
                .map(|words| format!("{}{PROGRAM} bench {words}", bench.environment))
                .collect(),
            next_cmdline: Some(next_cmdline),
            then: Then::CommandJumps,
        }
    }

    /// The lab's own command line of the stage at `index`.
    fn cmdline(&self, index: usize, clocks: Clocks) -> String {
        HostSpec {
            name: String::new(),
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            cmdline: String::new(),
            files: Vec::new(),
            with_modules: true,
            devices: Devices::None,
            stages: Vec::new(),
            stage_limit: LIMIT,
            guests: 0,
            clocks,
        }
        .cmdline(index)
    }
}
