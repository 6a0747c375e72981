//! A host to boot: its stages' kernels, files and commands, combined into images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::plan::{Plan, STAGE_WORD, Stage, Then};
use fdbox_lab::scenario::Devices;

use crate::debian_guest::DebianGuest;
use crate::drive;
use crate::emulator::{Emulator, Traits};
use crate::image::Image;
use crate::kernel::{Flavour, Kernel};
use crate::lab::Lab;
use crate::lines::Line;
use crate::programs::{self, Programs};
use crate::qemu::Machine;
use crate::run::{Record, Run};
use crate::tsc::Clocks;

/// Every host's command line. `loglevel=5` shows warnings: `quiet` would hide them from the judge.
/// The TSC is the machine's own: it needs no watchdog (`tsc=reliable`), and `tsc_early_khz` sets
/// its frequency. If each kernel measured it under emulation, on a busy machine, the kernels would
/// get different frequencies, and a guest's timers would go wrong. For the same reason the check of
/// the timer interrupt is disabled (`no_timer_check`).
const CMDLINE: &str = "console=ttyS0 loglevel=5 panic=-1 kho=on liveupdate=on intel_iommu=on \
    tsc=reliable no_timer_check";

/// One kernel of the host.
#[derive(Debug, Clone)]
pub(crate) struct StageSpec {
    pub kernel: Flavour,
    /// Modules to load first, by name without .ko.
    pub modules: Vec<String>,
    /// Run one after the other by /bin/sh.
    pub commands: Vec<String>,
    /// (local path, path in the host), in this stage only.
    pub files: Vec<(PathBuf, String)>,
    pub then: Ending,
}

/// How a stage ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    PowerOff,
    Kexec,
    CommandJumps,
    Shell,
}

#[derive(Debug, Clone)]
pub(crate) struct HostSpec {
    pub name: String,
    pub memory_mib: u64,
    pub cpus: u32,
    /// Appended to every stage's command line.
    pub cmdline: String,
    /// (local path, path in the host), in every stage.
    pub files: Vec<(PathBuf, String)>,
    /// Whether the modules are in /lib/modules, for a stage or a command to load.
    pub with_modules: bool,
    /// The devices to pass through.
    pub devices: Devices,
    pub stages: Vec<StageSpec>,
    pub stage_limit: Duration,
    /// The maximum number of guests with a disk and a network.
    pub guests: u8,
    pub clocks: Clocks,
}

/// A host whose images have been written.
#[derive(Debug)]
pub(crate) struct Host {
    pub machine: Machine,
    pub dir: PathBuf,
    releases: Vec<String>,
    stage_limit: Duration,
    /// A drive's image with a file system, which is checked at the end, and then removed.
    disk: Option<PathBuf>,
}

impl HostSpec {
    /// The command line of stage `index` (from 0).
    pub(crate) fn cmdline(&self, index: usize) -> String {
        let line = format!(
            "{CMDLINE} tsc_early_khz={} {} {} {STAGE_WORD}={}",
            self.clocks.tsc_khz(),
            self.devices.option(index),
            self.cmdline,
            index + 1
        );
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Builds what is missing and writes the images, the last stage's first: each is contained in
    /// the one before.
    pub(crate) fn prepare(&self, lab: &Lab, programs: &Programs) -> Result<Host> {
        let _one_at_a_time = lab.preparing();
        let kernels = lab.kernels()?;
        let dir = crate::run::folder(&lab.cache, &self.name)?;
        for number in 0..self.guests {
            drive::make(&drive::image(&dir, number))?;
        }
        if self.guests > 0 {
            drive::make(&dir.join(drive::SLOW_IMAGE))?;
        }
        if self.devices.have_nvme() {
            drive::make(&drive::nvme_image(&dir))?;
        }
        let stages = self.stages.iter();
        let booted: Vec<Kernel> = stages
            .map(|stage| kernels.get(stage.kernel))
            .collect::<Result<_>>()?;
        let stages = booted.iter().enumerate();
        let plan = Plan {
            stages: stages
                .map(|(index, kernel)| self.stage(index, kernel))
                .collect::<Result<_>>()?,
        };
        let mut next: Option<(Kernel, PathBuf)> = None;
        let mut releases = Vec::new();
        for (index, (stage, kernel)) in self.stages.iter().zip(booted).enumerate().rev() {
            let initramfs = dir.join(format!("stage{}.cpio", index + 1));
            let mut files = [self.files.as_slice(), &stage.files].concat();
            if self.with_modules {
                files.extend(modules(lab, &kernel)?);
            }
            let image = next.as_ref().map(|(kernel, _)| kernel.image());
            Image {
                busybox: &lab.busybox(),
                init: &programs.path(programs::INIT),
                plan: &plan,
                files: &files,
                next: next
                    .as_ref()
                    .zip(image.as_deref())
                    .map(|((_, cpio), image)| (image, cpio.as_path())),
            }
            .write(&initramfs)?;
            if let Some((_, inner)) = &next {
                // The image just written contains it.
                std::fs::remove_file(inner)?;
            }
            releases.insert(0, kernel.release.clone());
            next = Some((kernel, initramfs));
        }
        // Stages after a power-off are there to be loaded, not to be entered.
        let last = self
            .stages
            .iter()
            .position(|stage| stage.then == Ending::PowerOff);
        releases.truncate(last.map_or(releases.len(), |last| last + 1));
        let (kernel, initramfs) = next.context("A host has at least one stage")?;
        let traits = Traits {
            devices: self.devices,
            has_guests: self.guests > 0,
            cpus: self.cpus,
            clocks: self.clocks,
        };
        let machine = Machine {
            memory_mib: self.memory_mib,
            nodes: if self.stages.iter().all(|stage| stage.kernel.knows_nodes()) {
                2
            } else {
                1
            },
            cpus: self.cpus,
            kernel: kernel.image(),
            initramfs,
            cmdline: self.cmdline(0),
            guests: self.guests,
            devices: self.devices,
            emulator: Emulator::get(lab, traits)?,
            clocks: self.clocks,
        };
        Ok(Host {
            machine,
            dir,
            releases,
            stage_limit: self.stage_limit,
            disk: None,
        })
    }

    fn stage(&self, index: usize, kernel: &Kernel) -> Result<Stage> {
        let spec = &self.stages[index];
        let needed = kernel.needed_modules()?;
        let needed = needed.iter().map(|path| place_of(path));
        let asked = spec.modules.iter().map(|name| module_place(name));
        Ok(Stage {
            modules: needed.chain(asked).collect(),
            commands: spec.commands.clone(),
            next_cmdline: (index + 1 < self.stages.len()).then(|| self.cmdline(index + 1)),
            then: match spec.then {
                Ending::PowerOff => Then::PowerOff,
                Ending::Kexec => Then::Kexec,
                Ending::CommandJumps => Then::CommandJumps,
                Ending::Shell => Then::Shell,
            },
        })
    }
}

impl Host {
    /// A host whose images were written elsewhere.
    pub(crate) fn of(
        machine: Machine,
        dir: PathBuf,
        releases: Vec<String>,
        stage_limit: Duration,
    ) -> Self {
        Self {
            machine,
            dir,
            releases,
            stage_limit,
            disk: None,
        }
    }

    /// The same host with a Debian guest's disk as its first drive.
    pub(crate) fn with_disk(self, guest: &DebianGuest) -> Result<Self> {
        Ok(Self {
            disk: Some(guest.put_disk(&self.dir)?),
            ..self
        })
    }

    /// The same host, with another time limit for each stage.
    pub(crate) fn within(self, stage_limit: Duration) -> Self {
        Self {
            stage_limit,
            ..self
        }
    }

    /// Runs the host to its end; then its images are removed, but its logs are kept.
    pub(crate) fn run(&self, lab: &Lab, seen: impl FnMut(&Line)) -> Result<Record> {
        let run = Run {
            machine: &self.machine,
            releases: &self.releases,
            stage_limit: self.stage_limit,
        };
        let mut record = run.follow(&lab.toolchain, &self.dir, seen);
        std::fs::remove_file(&self.machine.initramfs)?;
        if let Some(disk) = &self.disk {
            if let (Ok(record), Err(error)) = (&mut record, drive::check_file_system(disk)) {
                record.fail(format!("{error:#}"));
            }
            std::fs::remove_file(disk)?;
        }
        record
    }
}

pub(crate) fn module_place(name: &str) -> String {
    format!("/lib/modules/{name}.ko")
}

fn place_of(module: &Path) -> String {
    module_place(&module.file_stem().unwrap_or_default().to_string_lossy())
}

pub(crate) fn modules(lab: &Lab, kernel: &Kernel) -> Result<Vec<(PathBuf, String)>> {
    let mut paths = match kernel.takes_module() {
        true => lab.modules(kernel)?.paths()?,
        false => Vec::new(),
    };
    paths.extend(kernel.own_modules()?);
    Ok(paths
        .into_iter()
        .map(|path| (path.clone(), place_of(&path)))
        .collect())
}
