//! What is no lifeboat: each refusal by its errno, and by name.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::{Cx, Scenario};
use crate::boat::{self, Boat, LOADED, Load, OFF, Spec};
use crate::check::{equal, fails};
use crate::host;
use crate::spare::{comes_back, set_online};
use crate::uapi::{self, Bytes};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/refused",
        about: "kernels, command lines, CPUs and sizes that make no boat are refused by name",
        host: HostKind::LifeboatOneBoot,
        stages: &[refused],
    },
    &Scenario {
        name: "lifeboat/refused-start",
        about: "a boat is not started on a CPU that is online, nor where a kexec would halt it",
        host: HostKind::LifeboatOneBoot,
        stages: &[refused_start],
    },
    &Scenario {
        name: "lifeboat/refused-next-kernel",
        about: "a next kernel that would take the boat's CPUs or its memory is named beforehand",
        host: HostKind::LifeboatOneBoot,
        stages: &[refused_next_kernel],
    },
    &Scenario {
        name: "lifeboat/arguments",
        about: "wrong arguments, unknown commands, and callers without CAP_SYS_BOOT are refused",
        host: HostKind::LifeboatOneBoot,
        stages: &[arguments],
    },
    &Scenario {
        name: "lifeboat/without-kho",
        about: "without KHO there is no boat",
        host: HostKind::WithoutKho,
        stages: &[without_kho],
    },
    &Scenario {
        name: "lifeboat/unpatched",
        about: "an unpatched kernel takes no rescue kernel along, and names the patch",
        host: HostKind::Unpatched,
        stages: &[unpatched],
    },
];

const CPU: u32 = 1;
const FORGED: &str = "/tmp/forged-kernel";
const LARGE: &str = "/tmp/large-initramfs";
const LARGE_BYTES: u64 = 60 << 20;

/// A byte of a bzImage's header, its value, and what is said of it then.
const HEADERS: &[(u64, u8, &str)] = &[
    (0x1fe, 0, "it is no bzImage"),
    (0x202, b'h', "it is no bzImage"),
    (0x206, 0x0b, "older than boot protocol 2.12"),
    (0x211, 0, "it is a zImage"),
    (0x236, 0b10, "no 64-bit entry"),
    (0x236, 0b01, "above 4 GiB"),
    (0x234, 0, "it is not relocatable"),
    // A protected-mode part of 4 GiB.
    (0x1f7, 0xff, "it is cut short"),
];

/// Words on the boat's command line, and the one that is named.
const WORDS: &[(&str, &str)] = &[
    ("quiet pci=noacpi", "pci on"),
    ("noapic", "noapic on"),
    ("acpi=off", "acpi on"),
    ("acpi-sci=level", "acpi_sci on"),
    ("nr_cpus=4", "nr_cpus on"),
    ("maxcpus=1", "maxcpus on"),
    ("kho=on", "kho on"),
    ("a=\"b c\" reboot=t", "reboot on"),
    ("memmap=4G@0", "memmap on"),
];

/// CPUs that are nobody's, and what is said.
const CPUS: &[(&[u32], &str)] = &[
    (&[], "from 1 to 64 CPUs"),
    (&[0], "CPU 0 stays the host's"),
    (&[1, 3], "there is no CPU 3"),
    (&[1, 2, 1], "CPU 1 is named twice"),
];

fn good() -> Spec {
    Spec::new("stay", &[CPU])
}

/// LOAD of something that is no boat.
fn no_load(boat: &Boat, spec: &Spec, errno: Errno, words: &str) -> Result<()> {
    let what = format!("LOAD of {spec:?}");
    boat.is_refused(&what, boat.try_load(spec)?, errno, words)?;
    equal("The state", boat.status()?.state, OFF)
}

fn refused(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    of_kernels(&boat)?;
    for (words, named) in WORDS {
        let mut spec = good();
        spec.cmdline.push(' ');
        spec.cmdline.push_str(words);
        no_load(&boat, &spec, Errno::INVAL, named)?;
    }
    for (cpus, words) in CPUS {
        let cpus = cpus.to_vec();
        no_load(&boat, &Spec { cpus, ..good() }, Errno::INVAL, words)?;
    }
    for memory_mib in [0, 32, 96] {
        let spec = Spec {
            memory_mib,
            ..good()
        };
        no_load(&boat, &spec, Errno::INVAL, "is no power of two from 64 on")?;
    }
    // The host has half of it.
    let spec = Spec {
        memory_mib: 4096,
        ..good()
    };
    no_load(&boat, &spec, Errno::NOMEM, "no 4096 MiB in one piece")?;
    // This kernel has LUO's handover.
    let spec = Spec {
        rescue: true,
        ..good()
    };
    let words = "with liveupdate=on the next kernel frees";
    no_load(&boat, &spec, Errno::OPNOTSUPP, words)?;
    let cmdline = "x".repeat(2048);
    no_load(
        &boat,
        &Spec { cmdline, ..good() },
        Errno::INVAL,
        "at most 2047 bytes",
    )?;
    let cmdline = "x".repeat(2000);
    no_load(
        &boat,
        &Spec { cmdline, ..good() },
        Errno::INVAL,
        "with the module's words",
    )?;
    let cmdline = "a\0b".to_owned();
    no_load(
        &boat,
        &Spec { cmdline, ..good() },
        Errno::INVAL,
        "a NUL in the command line",
    )
}

fn of_kernels(boat: &Boat) -> Result<()> {
    for (offset, byte, words) in HEADERS {
        fs::copy(good().kernel, FORGED)?;
        let file = OpenOptions::new().write(true).open(FORGED)?;
        file.write_all_at(&[*byte], *offset)?;
        let kernel = FORGED.to_owned();
        let open = Spec {
            kernel: kernel.clone(),
            ..good()
        };
        no_load(boat, &open, Errno::TXTBSY, "cannot be read")?;
        drop(file);
        no_load(boat, &Spec { kernel, ..good() }, Errno::NOEXEC, words)?;
    }
    File::create(FORGED)?.set_len(100)?;
    let kernel = FORGED.to_owned();
    no_load(
        boat,
        &Spec { kernel, ..good() },
        Errno::NOEXEC,
        "no bzImage",
    )?;
    fs::remove_file(FORGED)?;
    let kernel = "/tmp".to_owned();
    no_load(
        boat,
        &Spec { kernel, ..good() },
        Errno::INVAL,
        "cannot be read",
    )?;
    File::create(LARGE)?.set_len(LARGE_BYTES)?;
    let initramfs = Some(LARGE.to_owned());
    no_load(
        boat,
        &Spec {
            initramfs,
            ..good()
        },
        Errno::FBIG,
        "more than the boat's 64 MiB",
    )?;
    Ok(fs::remove_file(LARGE)?)
}

fn refused_start(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    boat.load(&good())?;
    boat.is_refused(
        "A second LOAD",
        boat.try_load(&good())?,
        Errno::BUSY,
        "there is a boat",
    )?;
    boat.is_refused(
        "START on a CPU that is online",
        boat.try_start(0, 0),
        Errno::BUSY,
        "CPU 1 is online",
    )?;
    set_online(CPU, false)?;
    boat.is_refused(
        "START in a host of two CPUs",
        boat.try_start(0, 0),
        Errno::OPNOTSUPP,
        "boot it with no_ipi_broadcast=1",
    )?;
    // Nothing was claimed.
    comes_back(CPU)?;
    equal("The state", boat.status()?.state, LOADED)?;
    boat.stop()?;
    equal("The state", boat.status()?.state, OFF)
}

fn refused_next_kernel(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    let check = |line| boat.try_check(line);
    boat.is_refused("CHECK", check("maxcpus=1"), Errno::NXIO, "there is no boat")?;
    boat.load(&good())?;
    for (line, words) in [
        ("", "without maxcpus=1"),
        ("quiet -- maxcpus=1", "without maxcpus=1"),
        ("maxcpus=2", "maxcpus=2 is not from 1 to 1"),
        ("maxcpus=1 maxcpus=3", "maxcpus=3 is not from 1 to 1"),
        ("maxcpus=0", "maxcpus=0 is not from 1 to 1"),
        ("maxcpus=one", "maxcpus=one is not from 1 to 1"),
        ("maxcpus=1 kho=off", "with kho=off"),
        ("maxcpus=1 panic=10", "with panic=10"),
        ("maxcpus=1 panic=-1", "with panic=-1"),
    ] {
        boat.is_refused(line, check(line), Errno::INVAL, words)?;
    }
    for line in [
        "maxcpus=1",
        "maxcpus=1 panic=-1 panic=0",
        "kho=on quiet maxcpus=3 maxcpus=1 -- maxcpus=2",
    ] {
        check(line).with_context(|| format!("CHECK of {line:?}"))?;
    }
    boat.stop()?;
    boat.load(&Spec {
        cpus: vec![2],
        ..good()
    })?;
    check("maxcpus=2").context("CHECK, of a boat that has the third CPU")?;
    boat.stop()
}

fn arguments(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    let call = |number, mut bytes: Bytes| uapi::call(&boat.0, uapi::io(number), &mut bytes);
    // (number, size of the argument in the first version, and now)
    for (number, size, now) in [
        (0x10, 48, 48),
        (0x11, 16, 16),
        (0x12, 16, 16),
        (0x13, 72, 88),
        (0x14, 24, 24),
        (0x15, 272, 272),
        (0x17, 16, 16),
    ] {
        let what = format!("Command {number:#x}");
        let short = Bytes::growable(size - 1, 0, 0);
        fails(&what, call(number, short), Errno::INVAL)?;
        let flagged = Bytes::growable(size, 1 << 31, 0);
        fails(&what, call(number, flagged), Errno::INVAL)?;
        let newer = Bytes::growable(now + 8, 0, 1);
        fails(&what, call(number, newer), Errno::TOOBIG)?;
        fails(
            &what,
            uapi::call_plain(&boat.0, uapi::io(number), 0),
            Errno::FAULT,
        )?;
        let none = host::without(CapabilitySet::SYS_BOOT, || {
            call(number, Bytes::growable(size, 0, 0))
        })?;
        fails(&what, none, Errno::PERM)?;
    }
    for number in [0x0f, 0x18] {
        let bytes = Bytes::growable(16, 0, 0);
        fails("An unknown command", call(number, bytes), Errno::NOTTY)?;
    }
    let opened = host::without(CapabilitySet::SYS_BOOT, || File::open(boat::NODE))?;
    let error = opened.err().context("The node was opened")?;
    equal("The error", Errno::from_io_error(&error), Some(Errno::PERM))?;
    boat.is_refused(
        "RESTART by the host",
        boat.try_restart(0),
        Errno::NXIO,
        "only its boat restarts it",
    )?;
    fails("STOP of none", boat.try_stop(0), Errno::INVAL)?;
    fails("START of none", boat.try_start(0, 0), Errno::INVAL)?;
    with_bad_members(&boat)
}

/// LOAD with descriptors and addresses that are none.
fn with_bad_members(boat: &Boat) -> Result<()> {
    let kernel = File::open(good().kernel)?;
    let cpus = [CPU];
    let load = Load {
        size: size_of::<Load>() as u32,
        flags: 0,
        kernel_fd: kernel.as_raw_fd(),
        initramfs_fd: -1,
        cmdline: 0,
        cmdline_len: 0,
        memory_mib: 64,
        cpus: cpus.as_ptr() as u64,
        nr_cpus: 1,
        nr_start: 0,
    };
    let try_load = |mut load: Load| boat.try_load_raw(&mut load);
    for fd in [-1, 1000] {
        let kernel_fd = fd;
        fails(
            "No kernel",
            try_load(Load { kernel_fd, ..load }),
            Errno::BADF,
        )?;
    }
    let initramfs_fd = 1000;
    fails(
        "No initramfs",
        try_load(Load {
            initramfs_fd,
            ..load
        }),
        Errno::BADF,
    )?;
    fails("No CPUs", try_load(Load { cpus: 8, ..load }), Errno::FAULT)?;
    let cmdline_len = 5;
    fails(
        "No command line",
        try_load(Load {
            cmdline_len,
            ..load
        }),
        Errno::FAULT,
    )?;
    // Without a command line and an initramfs it is a boat, if none that comes far.
    try_load(load).context("LOAD of a kernel alone")?;
    let status = boat.status()?;
    ensure!(
        status.state == LOADED && status.beats == 0,
        "A boat that was loaded: {status:?}"
    );
    boat.stop()
}

/// A kernel that refuses each boat, before it looks at one.
fn refuses_any(rescue: bool, words: &str) -> Result<()> {
    let boat = Boat::open()?;
    let spec = Spec {
        kernel: "/init".to_owned(),
        initramfs: None,
        rescue,
        ..good()
    };
    no_load(&boat, &spec, Errno::OPNOTSUPP, words)?;
    drop(boat);
    host::unload_module(boat::MODULE_NAME).context("Unload the module")
}

fn without_kho(_: &Cx<'_>) -> Result<()> {
    refuses_any(false, "boot it with kho=on")
}

fn unpatched(_: &Cx<'_>) -> Result<()> {
    refuses_any(true, "it lacks patch 0023")
}
