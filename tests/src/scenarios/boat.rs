//! The lifeboat, as the scenarios use it: its ioctls, written down from the header by hand.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::check::{equal, fails};
use crate::host;
use crate::spare::set_online;
use crate::uapi::{self, Plain, io, text};

const LOAD: u32 = io(0x10);
const START: u32 = io(0x11);
const STOP: u32 = io(0x12);
const STATUS: u32 = io(0x13);
const CHECK: u32 = io(0x14);
const MESSAGE: u32 = io(0x15);
const RESTART: u32 = io(0x16);
const LEND: u32 = io(0x17);

/// Of LOAD: the kernel that is loaded for a kexec is taken along.
const LOAD_RESCUE: u32 = 1;

pub(crate) const OFF: u32 = 0;
pub(crate) const LOADED: u32 = 1;
pub(crate) const RUNNING: u32 = 2;
pub(crate) const LOST: u32 = 3;
/// In the boat: its host beats.
pub(crate) const ABOARD: u32 = 4;
/// In the boat: its host is silent, or has panicked.
pub(crate) const ALONE: u32 = 5;

const MODULE: &str = "fdbox-boat";
/// As the kernel calls it.
pub(crate) const MODULE_NAME: &str = "fdbox_boat";
pub(crate) const NODE: &str = "/dev/fdbox-boat";
pub(crate) const KERNEL: &str = "/boat/kernel";
pub(crate) const INITRAMFS: &str = "/boat/initramfs";
/// As sysfs has it.
const CONSOLE_PORT: &str = "0x3E8";
/// The port that the lab reads a boat's console from, and all that its init writes there.
pub(crate) const CONSOLE: &str =
    "console=uart8250,io,0x3e8,115200n8 keep_bootcon printk.devkmsg=on";
/// How long a boat's state may take to become another one.
const LIMIT: Timespec = Timespec {
    tv_sec: 120,
    tv_nsec: 0,
};
/// The same in a START, in milliseconds: an emulated machine may be busy.
const START_MS: u32 = 120_000;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Load {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) kernel_fd: i32,
    pub(crate) initramfs_fd: i32,
    pub(crate) cmdline: u64,
    pub(crate) cmdline_len: u32,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u64,
    pub(crate) nr_cpus: u32,
    pub(crate) nr_start: u32,
}

/// START; STOP and RESTART with their limit in the first number; LEND with a number of CPUs there, and then its limit.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Limits {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) first_ms: u32,
    pub(crate) second_ms: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[repr(C)]
pub(crate) struct Status {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) state: u32,
    pub(crate) nr_cpus: u32,
    pub(crate) memory: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) life: u64,
    pub(crate) beats: u64,
    pub(crate) largest_gap_ns: u64,
    pub(crate) host_beats: u64,
    pub(crate) kernels: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Check {
    size: u32,
    flags: u32,
    cmdline: u64,
    cmdline_len: u32,
    pad: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Message {
    size: u32,
    flags: u32,
    error: u32,
    pad: u32,
    message: [u8; 256],
}

// SAFETY: integers without gaps between them (the sizes are checked below).
unsafe impl Plain for Load {}
// SAFETY: as above.
unsafe impl Plain for Limits {}
// SAFETY: as above.
unsafe impl Plain for Status {}
// SAFETY: as above.
unsafe impl Plain for Check {}
// SAFETY: as above, and an array of bytes.
unsafe impl Plain for Message {}
const _: () = {
    assert!(size_of::<Load>() == 48);
    assert!(size_of::<Limits>() == 16);
    assert!(size_of::<Status>() == 72);
    assert!(size_of::<Check>() == 24);
    assert!(size_of::<Message>() == 272);
};

/// A boat to be loaded: a good one, until somebody changes it.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) kernel: String,
    pub(crate) initramfs: Option<String>,
    pub(crate) cmdline: String,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: Vec<u32>,
    /// How many of them it starts with; 0: all.
    pub(crate) nr_start: u32,
    /// Whether the kernel that is loaded for a kexec is taken along.
    pub(crate) rescue: bool,
}

impl Spec {
    /// One that ends as its init's `fate` says.
    pub(crate) fn new(fate: &str, cpus: &[u32]) -> Self {
        Self {
            kernel: KERNEL.to_owned(),
            initramfs: Some(INITRAMFS.to_owned()),
            cmdline: format!("{CONSOLE} lab.boat={fate}"),
            memory_mib: 64,
            cpus: cpus.to_vec(),
            nr_start: 0,
            rescue: false,
        }
    }
}

/// The node of the boat.
#[derive(Debug)]
pub(crate) struct Boat(pub(crate) File);

impl Boat {
    /// Loads the module, if it is not loaded.
    pub(crate) fn open() -> Result<Self> {
        host::load_module(MODULE)?;
        let node = OpenOptions::new().read(true).write(true).open(NODE);
        Ok(Self(node.with_context(|| format!("Open {NODE}"))?))
    }

    pub(crate) fn try_load(&self, spec: &Spec) -> Result<Result<(), Errno>> {
        let open = |path: &String| File::open(path).with_context(|| format!("Open {path}"));
        let kernel = open(&spec.kernel)?;
        let initramfs = spec.initramfs.as_ref().map(open).transpose()?;
        let mut load = Load {
            size: size_of::<Load>() as u32,
            flags: if spec.rescue { LOAD_RESCUE } else { 0 },
            kernel_fd: kernel.as_raw_fd(),
            initramfs_fd: initramfs.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            cmdline: spec.cmdline.as_ptr() as u64,
            cmdline_len: spec.cmdline.len() as u32,
            memory_mib: spec.memory_mib,
            cpus: spec.cpus.as_ptr() as u64,
            nr_cpus: spec.cpus.len() as u32,
            nr_start: spec.nr_start,
        };
        Ok(self.try_load_raw(&mut load))
    }

    pub(crate) fn try_load_raw(&self, load: &mut Load) -> Result<(), Errno> {
        uapi::call(&self.0, LOAD, load).map(drop)
    }

    pub(crate) fn load(&self, spec: &Spec) -> Result<()> {
        self.done("Load the boat", self.try_load(spec)?)
    }

    pub(crate) fn try_start(&self, start_ms: u32, silence_ms: u32) -> Result<(), Errno> {
        let mut limits = limits(start_ms, silence_ms);
        uapi::call(&self.0, START, &mut limits).map(drop)
    }

    /// Lost after so much silence. The host must not use the port of the boat's console.
    pub(crate) fn start(&self, silence_ms: u32) -> Result<()> {
        for tty in fs::read_dir("/sys/class/tty").context("List the host's terminals")? {
            let tty = tty?.path();
            // Only serial ports have this file.
            let port = fs::read_to_string(tty.join("port")).unwrap_or_default();
            ensure!(
                port.trim() != CONSOLE_PORT,
                "{} of the host is the boat's console",
                tty.display()
            );
        }
        self.done("Start the boat", self.try_start(START_MS, silence_ms))
    }

    /// Gives it more of its CPUs, until it has so many.
    pub(crate) fn try_lend(&self, nr_cpus: u32) -> Result<(), Errno> {
        self.try_lend_within(START_MS, nr_cpus)
    }

    /// The same, and waits for so long.
    pub(crate) fn try_lend_within(&self, limit_ms: u32, nr_cpus: u32) -> Result<(), Errno> {
        let mut lend = limits(nr_cpus, limit_ms);
        uapi::call(&self.0, LEND, &mut lend).map(drop)
    }

    pub(crate) fn lend(&self, nr_cpus: u32) -> Result<()> {
        self.done("Lend the boat CPUs", self.try_lend(nr_cpus))
    }

    pub(crate) fn try_stop(&self, limit_ms: u32) -> Result<(), Errno> {
        let mut limits = limits(limit_ms, 0);
        uapi::call(&self.0, STOP, &mut limits).map(drop)
    }

    pub(crate) fn stop(&self) -> Result<()> {
        self.done("Stop the boat", self.try_stop(START_MS))
    }

    /// In the boat: restarts a host that has been silent for so long.
    pub(crate) fn try_restart(&self, silent_ms: u32) -> Result<(), Errno> {
        let mut limits = limits(silent_ms, 0);
        uapi::call(&self.0, RESTART, &mut limits).map(drop)
    }

    pub(crate) fn status(&self) -> Result<Status> {
        let mut status = Status {
            size: size_of::<Status>() as u32,
            ..Status::default()
        };
        uapi::call(&self.0, STATUS, &mut status).context("Ask for the boat's state")?;
        Ok(status)
    }

    /// Whether a kernel of this command line would leave it alone.
    pub(crate) fn try_check(&self, cmdline: &str) -> Result<(), Errno> {
        let mut check = Check {
            size: size_of::<Check>() as u32,
            flags: 0,
            cmdline: cmdline.as_ptr() as u64,
            cmdline_len: cmdline.len() as u32,
            pad: 0,
        };
        uapi::call(&self.0, CHECK, &mut check).map(drop)
    }

    /// Why something was refused last, if anything was.
    pub(crate) fn words(&self) -> Result<String> {
        Ok(text(&self.raw_message()?.message))
    }

    /// Why something was refused, and the errno that belongs to it.
    pub(crate) fn message(&self) -> Result<(Errno, String)> {
        let message = self.raw_message()?;
        let error = Errno::from_raw_os_error(message.error as i32);
        Ok((error, text(&message.message)))
    }

    fn raw_message(&self) -> Result<Message> {
        let mut message = Message {
            size: size_of::<Message>() as u32,
            flags: 0,
            error: 0,
            pad: 0,
            message: [0; 256],
        };
        uapi::call(&self.0, MESSAGE, &mut message).context("Ask for the message")?;
        Ok(message)
    }

    /// That `what` was refused with this errno, and in words that have these among them.
    pub(crate) fn is_refused(
        &self,
        what: &str,
        done: Result<(), Errno>,
        errno: Errno,
        words: &str,
    ) -> Result<()> {
        fails(what, done, errno)?;
        let (error, message) = self.message()?;
        ensure!(
            error == errno && message.contains(words),
            "{what}: {words:?} was expected, not {error:?}: {message}"
        );
        Ok(())
    }

    /// Waits until it is something else than STATUS told last, and asks what.
    pub(crate) fn next_state(&self) -> Result<u32> {
        let mut watched = [PollFd::new(&self.0, PollFlags::PRI)];
        let ready = poll(&mut watched, Some(&LIMIT))?;
        ensure!(ready == 1, "The boat's state does not change");
        Ok(self.status()?.state)
    }

    /// Waits until it is this one.
    pub(crate) fn wait_for_state(&self, state: u32) -> Result<()> {
        while self.status()?.state != state {
            self.next_state()?;
        }
        Ok(())
    }

    fn done(&self, what: &str, done: Result<(), Errno>) -> Result<()> {
        done.with_context(|| match self.message() {
            Ok((_, message)) => format!("{what}: {message}"),
            Err(_) => what.to_owned(),
        })
    }
}

fn limits(first_ms: u32, second_ms: u32) -> Limits {
    Limits {
        size: size_of::<Limits>() as u32,
        flags: 0,
        first_ms,
        second_ms,
    }
}

/// Starts a boat, with its CPU offline.
pub(crate) fn started(boat: &Boat, spec: &Spec, silence_ms: u32) -> Result<Status> {
    equal("The state", boat.status()?.state, OFF)?;
    boat.load(spec)?;
    equal("The state", boat.status()?.state, LOADED)?;
    boat.start(silence_ms)?;
    let status = boat.status()?;
    equal("The state", status.state, RUNNING)?;
    let cpus = match spec.nr_start {
        0 => spec.cpus.len() as u32,
        some => some,
    };
    equal("Its CPUs", status.nr_cpus, cpus)?;
    equal(
        "Its memory",
        status.memory_bytes,
        u64::from(spec.memory_mib) << 20,
    )?;
    ensure!(
        status.life != 0 && status.beats > 0,
        "It does not beat: {status:?}"
    );
    Ok(status)
}

/// Both hearts beat.
pub(crate) fn both_beat(boat: &Boat) -> Result<()> {
    let first = boat.status()?;
    host::until("Both beat", || {
        let now = boat.status()?;
        Ok(now.beats > first.beats + 1 && now.host_beats > first.host_beats + 1)
    })
}

/// The CPU is the boat's as long as there is one, and the module stays.
pub(crate) fn is_kept(cpu: u32) -> Result<()> {
    let refused = set_online(cpu, true).map_err(|error| Errno::from_io_error(&error));
    fails(
        "To take a CPU of the boat's online",
        refused.map_err(|error| error.unwrap_or(Errno::IO)),
        Errno::BUSY,
    )?;
    fails(
        "To unload the module",
        host::unload_module(MODULE_NAME),
        Errno::AGAIN,
    )
}

/// The status of no boat.
pub(crate) fn of_none() -> Status {
    Status {
        size: size_of::<Status>() as u32,
        state: OFF,
        ..Status::default()
    }
}
