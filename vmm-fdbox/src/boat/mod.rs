//! The lifeboat: a second kernel that runs on CPUs of its own beside the host's, and goes on while that one
//! kexecs. `docs/lifeboat.md` has the rules.

mod cpus;
mod host;
mod lender;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::abi;
use crate::bytes::text;
use crate::sys::boat as calls;

pub use cpus::{offline_cpus, online_cpus, set_online};
pub use host::{BOXES_WORD, LifeboatHost, RESTART_WORD};
pub use lender::CpuLender;

/// The node of the module.
pub const NODE: &str = "/dev/fdbox-boat";

/// Why a command was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BoatError {
    /// The node cannot be opened.
    #[error("Cannot open {NODE}: load fdbox-boat.ko, as root")]
    Open(#[source] std::io::Error),
    /// A file for the boat cannot be opened.
    #[error("Cannot open {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The module has refused a command.
    #[error("Cannot {what} the lifeboat: {message}")]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// The errno.
        errno: Errno,
        /// In the module's words.
        message: String,
    },
    /// A CPU of the host's did not go offline, or come online.
    #[error("Cannot take CPU {cpu} {}", if *online { "online" } else { "offline" })]
    Cpu {
        /// The CPU.
        cpu: u32,
        /// Which way.
        online: bool,
        /// Why.
        source: std::io::Error,
    },
}

/// Where a boat is between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BoatState {
    /// There is none.
    Off,
    /// It has memory with a kernel.
    Loaded,
    /// Its kernel runs.
    Running,
    /// It was started, and is silent.
    Lost,
    /// This kernel is the boat's own.
    Own(HostState),
}

/// What the boat hears of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostState {
    /// It beats.
    Beats,
    /// It does not. For so long.
    Silent(Duration),
    /// It has panicked.
    Panicked,
}

impl HostState {
    fn of(status: &abi::BoatStatus) -> Self {
        match status.state {
            abi::FDBOX_BOAT_ABOARD => Self::Beats,
            _ if status.host_panicked != 0 => Self::Panicked,
            _ => Self::Silent(Duration::from_millis(status.host_silent_ms)),
        }
    }
}

/// What is known of the boat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoatStatus {
    /// Its state.
    pub state: BoatState,
    /// How many CPUs it has.
    pub cpus: u32,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// How many kernels have watched it as its host, including this one.
    pub host_kernels: u64,
}

/// What a boat is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoatPlan {
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initramfs, whose init loads `fdbox-boat.ko` and `fdbox.ko` and runs `vmm-example boat`, or what another
    /// VMM has for that.
    pub initramfs: PathBuf,
    /// Its command line, to which the module adds words.
    pub cmdline: String,
    /// Its memory.
    pub memory_mib: u32,
    /// Its CPUs, which it gets in this order.
    pub cpus: Vec<u32>,
    /// How long it may take to start.
    pub start_limit: Duration,
}

/// The node of the boat.
#[derive(Debug)]
pub struct Boat(File);

impl Boat {
    /// Opens it.
    ///
    /// # Errors
    /// [`BoatError::Open`].
    pub fn open() -> Result<Self, BoatError> {
        let node = File::options().read(true).write(true).open(NODE);
        node.map(Self).map_err(BoatError::Open)
    }

    fn refused<T>(&self, what: &'static str, done: Result<T, Errno>) -> Result<T, BoatError> {
        done.map_err(|errno| {
            let latest = calls::message(self.0.as_fd()).ok();
            let latest =
                latest.filter(|latest| latest.error == errno.raw_os_error().unsigned_abs());
            let message = latest.map_or_else(|| errno.to_string(), |latest| text(&latest.message));
            BoatError::Refused {
                what,
                errno,
                message,
            }
        })
    }

    /// Loads kernel and initramfs, for a start with the first `first_cpus` CPUs of the plan; 0: with all. With `rescue`, the kernel that is loaded for a kexec is taken along, to
    /// [`restart`](Self::restart) the host by it.
    ///
    /// # Errors
    /// [`BoatError::File`], [`BoatError::Refused`].
    pub fn load(&self, plan: &BoatPlan, first_cpus: u32, rescue: bool) -> Result<(), BoatError> {
        let open = |path: &PathBuf| {
            File::open(path).map_err(|source| BoatError::File {
                path: path.clone(),
                source,
            })
        };
        let (kernel, initramfs) = (open(&plan.kernel)?, open(&plan.initramfs)?);
        let load = calls::Load {
            kernel: kernel.as_fd(),
            initramfs: Some(initramfs.as_fd()),
            cmdline: &plan.cmdline,
            memory_mib: plan.memory_mib,
            cpus: &plan.cpus,
            first_cpus,
            rescue,
        };
        self.refused("load", calls::load(self.0.as_fd(), &load))
    }

    /// Starts it, and waits until it runs.
    ///
    /// # Errors
    /// [`BoatError::Refused`].
    pub fn start(&self, limit: Duration) -> Result<(), BoatError> {
        self.refused("start", calls::start(self.0.as_fd(), millis(limit)))
    }

    /// Gives it this number of the CPUs that it was loaded with, and waits until it has brought them up.
    ///
    /// # Errors
    /// [`BoatError::Refused`]: EBUSY if one is online; ETIMEDOUT if the boat did not bring them up in time.
    pub fn lend(&self, cpus: u32, limit: Duration) -> Result<(), BoatError> {
        let lent = calls::lend(self.0.as_fd(), cpus, millis(limit));
        self.refused("lend CPUs to", lent)
    }

    /// Stops it, and frees its memory. Its CPUs are offline then.
    ///
    /// # Errors
    /// [`BoatError::Refused`]: EBUSY if it has a box of this host's.
    pub fn stop(&self, limit: Duration) -> Result<(), BoatError> {
        self.refused("stop", calls::stop(self.0.as_fd(), millis(limit)))
    }

    /// What is known of it.
    ///
    /// # Errors
    /// [`BoatError::Refused`].
    pub fn status(&self) -> Result<BoatStatus, BoatError> {
        let status = self.refused("look at", calls::status(self.0.as_fd()))?;
        Ok(BoatStatus {
            state: match status.state {
                abi::FDBOX_BOAT_OFF => BoatState::Off,
                abi::FDBOX_BOAT_LOADED => BoatState::Loaded,
                abi::FDBOX_BOAT_RUNNING => BoatState::Running,
                abi::FDBOX_BOAT_ABOARD | abi::FDBOX_BOAT_ALONE => {
                    BoatState::Own(HostState::of(&status))
                }
                _ => BoatState::Lost,
            },
            cpus: status.nr_cpus,
            memory_bytes: status.memory_bytes,
            host_kernels: status.kernels,
        })
    }

    /// Waits until its state is another one than the last [`status`](Self::status) told, but not longer than
    /// `limit`. Returns whether it is.
    ///
    /// # Errors
    /// The errno of poll(2).
    pub fn wait(&self, limit: Option<Duration>) -> Result<bool, Errno> {
        let mut watched = [PollFd::new(&self.0, PollFlags::PRI)];
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        Ok(poll(&mut watched, limit.as_ref())? > 0)
    }

    /// In the boat: starts the host in the rescue kernel, if it has been silent for so long or has panicked.
    ///
    /// # Errors
    /// [`BoatError::Refused`].
    pub fn restart(&self, silent: Duration) -> Result<(), BoatError> {
        let restarted = calls::restart(self.0.as_fd(), millis(silent));
        self.refused("restart the host from", restarted)
    }

    /// Whether a kernel with this command line leaves its CPUs alone.
    ///
    /// # Errors
    /// [`BoatError::Refused`]: EINVAL if it does not.
    pub fn check(&self, cmdline: &str) -> Result<(), BoatError> {
        let checked = calls::check(self.0.as_fd(), cmdline);
        self.refused("leave this kernel with", checked)
    }
}

fn millis(limit: Duration) -> u32 {
    u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)
}
