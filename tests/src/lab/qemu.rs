//! One emulated machine: its consoles are read line by line, and every wait has a time limit.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fdbox_lab::qmp::Qmp;
use fdbox_lab::scenario::Devices;

use crate::attached::{self, Attached};
use crate::drive;
use crate::emulator::Emulator;
use crate::lines::{self, Line, LineContent};
use crate::nudge::{self, Nudge};
use crate::outside::{Outside, Seen};
use crate::power::{self, Power};
use crate::toolchain::Toolchain;
use crate::tsc::Clocks;

/// How long QEMU may take to open its sockets.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// The time for a hung machine to print the state of its CPUs and tasks.
const EVIDENCE_LIMIT: Duration = Duration::from_secs(20);

const NICENESS: &str = "-15";

/// The configuration of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub memory_mib: u64,
    /// Number of NUMA nodes that share the memory; the CPUs are on the first.
    pub nodes: u64,
    pub cpus: u32,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub cmdline: String,
    /// Number of guests: there is a drive for each, and a network card if there are any. The images
    /// are in the run's folder.
    pub guests: u8,
    /// The devices to pass through.
    pub devices: Devices,
    pub emulator: Emulator,
    pub clocks: Clocks,
}

impl Machine {
    /// QEMU in the toolchain, with everything but the two serial ports and the monitor. `dir` is
    /// the run's folder.
    pub(crate) fn command(&self, toolchain: &Toolchain, dir: &Path) -> Result<Command> {
        let folder = |path: &Path| {
            path.parent()
                .map(Path::to_owned)
                .context("A path of a file")
        };
        let kernel_dir = folder(&self.kernel)?;
        let initramfs_dir = folder(&self.initramfs)?;
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let mut mounts = vec![
            (dir, "/lab/run"),
            (kernel_dir.as_path(), "/lab/boot"),
            (initramfs_dir.as_path(), "/lab/image"),
        ];
        mounts.extend(self.emulator.mount());
        // With a higher priority than the machine's other work: a kernel that boots while its
        // emulator is starved finds its timers broken.
        let mut qemu = toolchain.command(&mounts, "nice");
        qemu.args(["-n", NICENESS]).args(self.emulator.words());
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none"]);
        // AMD SVM is the hardware virtualisation that TCG emulates.
        qemu.args(["-machine", "q35,kernel-irqchip=split,hpet=off"]);
        match self.clocks {
            Clocks::Time => qemu.args(["-accel", "tcg,thread=multi"]),
            // While the CPU is idle, time advances as it does outside: what the host waits for
            // takes its real time.
            Clocks::Instructions => {
                qemu.args(["-accel", "tcg,thread=single", "-icount", "shift=0"])
            }
        };
        qemu.args(["-cpu", "EPYC-v4,+svm,+npt"]);
        qemu.args(["-device", attached::iommu(self.devices)]);
        qemu.args(attached::arguments(self.devices));
        qemu.arg("-smp").arg(self.cpus.to_string());
        qemu.arg("-m").arg(self.memory_mib.to_string());
        qemu.args(self.numa());
        qemu.arg("-kernel")
            .arg(format!("/lab/boot/{}", name(&self.kernel)));
        qemu.arg("-initrd")
            .arg(format!("/lab/image/{}", name(&self.initramfs)));
        qemu.arg("-append").arg(&self.cmdline);
        for number in 0..self.guests {
            qemu.arg("-drive").arg(format!(
                "if=none,id=disk{number},format=raw,file=/lab/run/disk{number}.img"
            ));
            qemu.arg("-device")
                .arg(format!("virtio-blk-pci,drive=disk{number}"));
        }
        if self.guests > 0 {
            qemu.args(drive::slow());
        }
        Ok(qemu)
    }

    /// The arguments that distribute the memory over nodes, if there is more than one.
    fn numa(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        for node in (0..self.nodes).filter(|_| self.nodes > 1) {
            let rest = if node == 0 {
                self.memory_mib % self.nodes
            } else {
                0
            };
            let mib = self.memory_mib / self.nodes + rest;
            arguments.push("-object".to_owned());
            arguments.push(format!("memory-backend-ram,id=memory{node},size={mib}M"));
            arguments.push("-numa".to_owned());
            let cpus = match node {
                0 => format!(",cpus=0-{}", self.cpus - 1),
                _ => String::new(),
            };
            arguments.push(format!("node,nodeid={node},memdev=memory{node}{cpus}"));
        }
        arguments
    }

    /// Starts the machine with its consoles connected to the lab.
    pub(crate) fn start(&self, toolchain: &Toolchain, dir: &Path) -> Result<Running> {
        let mut qemu = self.command(toolchain, dir)?;
        for (id, socket) in [("console", "console.sock"), ("events", "events.sock")] {
            qemu.arg("-chardev");
            qemu.arg(format!(
                "socket,id={id},path=/lab/run/{socket},server=on,wait=on"
            ));
            qemu.arg("-serial").arg(format!("chardev:{id}"));
        }
        if self.guests > 0 {
            let cable = "stream,id=cable,server=on,addr.type=unix,addr.path=/lab/run/cable.sock";
            qemu.args(["-netdev", cable]);
            // No boot ROM: the host boots without one.
            qemu.args(["-device", "virtio-net-pci,netdev=cable,romfile="]);
        }
        qemu.args(["-qmp", "unix:/lab/run/qmp.sock,server=on,wait=off"]);
        qemu.args(["-qmp", "unix:/lab/run/power.sock,server=on,wait=off"]);
        qemu.args(["-action", "reboot=shutdown,shutdown=pause"]);
        // Logs why a CPU could not continue; resets are rare.
        qemu.args(["-d", "cpu_reset,guest_errors", "-D", "/lab/run/cpu.log"]);
        let log = File::create(dir.join("qemu.log"))?;
        qemu.stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = Instant::now();
        let child = qemu.spawn().context("Start QEMU")?;
        let mut machine = Process(child);

        // QEMU opens its sockets one after the other, each when the previous one is connected.
        let console = connect(dir, "console.sock", &mut machine)?;
        let events = connect(dir, "events.sock", &mut machine)?;
        let attached = Attached::start(self.devices, dir, started)?;
        let (sender, lines) = mpsc::channel();
        let keys = console.try_clone()?;
        let nudge = Nudge::new(events.try_clone()?, dir)?;
        let power = Power::watch(connect(dir, power::SOCKET, &mut machine)?, dir)?;
        let outside = match self.guests {
            0 => None,
            guests => {
                let cable = connect(dir, "cable.sock", &mut machine)?;
                Some(Outside::start(cable, guests)?)
            }
        };
        let mut ports: Vec<(UnixStream, &str, lines::Reader)> = vec![
            (console, "console.log", LineContent::console),
            (events, "events.log", LineContent::event),
        ];
        if self.devices.have_boat_console() {
            let boat = connect(dir, attached::BOAT_SOCKET, &mut machine)?;
            ports.push((boat, "boat.log", LineContent::boat));
        }
        let open = ports.len();
        for (stream, log, content) in ports {
            lines::read(stream, dir.join(log), started, sender.clone(), content)?;
        }
        Ok(Running {
            attached,
            _process: machine,
            lines,
            started,
            keys,
            nudge,
            dir: dir.to_owned(),
            open,
            outside,
            power: Some(power),
        })
    }
}

/// A running machine. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    /// Dropped before the machine.
    pub(crate) attached: Attached,
    _process: Process,
    lines: Receiver<Line>,
    started: Instant,
    /// The console's input.
    keys: UnixStream,
    nudge: Nudge,
    dir: PathBuf,
    /// How many of its ports are not closed.
    open: usize,
    outside: Option<Outside>,
    power: Option<Power>,
}

/// Why there is no line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The machine is off, and all its output was read.
    Off,
    /// The time limit was reached.
    Timeout,
}

impl Running {
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The next line, until `deadline` (since the start).
    pub(crate) fn line(&mut self, deadline: Duration) -> Result<Line, Silence> {
        loop {
            if self.open == 0 {
                return Err(Silence::Off);
            }
            let left = deadline.saturating_sub(self.started.elapsed());
            match self.lines.recv_timeout(left.min(nudge::SILENCE)) {
                Ok(Line {
                    content: LineContent::Closed,
                    ..
                }) => self.open -= 1,
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) if left > nudge::SILENCE => {
                    self.nudge.give(self.started.elapsed());
                }
                Err(RecvTimeoutError::Timeout) => return Err(Silence::Timeout),
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Off),
            }
        }
    }

    /// What was seen of each guest from outside. The machine must be off.
    pub(crate) fn seen_from_outside(&mut self) -> Result<Vec<Seen>> {
        self.outside.take().map_or(Ok(Vec::new()), Outside::end)
    }

    /// Where the evidence is, if the machine was reset. The machine must be off.
    pub(crate) fn reset(&mut self) -> Result<Option<PathBuf>> {
        self.power.take().map_or(Ok(None), Power::end)
    }

    /// Queries the state of a machine that hangs, and writes it to the run's folder.
    pub(crate) fn collect_evidence(&mut self) -> Result<PathBuf> {
        let place = self.dir.join("evidence.txt");
        let mut out = File::create(&place)?;
        let mut qmp = Qmp::connect(open_socket(&self.dir, "qmp.sock")?)?;
        for command in ["info status", "info registers -a", "info lapic", "info pic"] {
            writeln!(out, "## {command}\n{}", qmp.human(command)?)?;
        }
        writeln!(
            out,
            "## console, after SysRq l (CPUs), w (blocked tasks) and t (tasks)"
        )?;
        for key in [b"l", b"w", b"t"] {
            qmp.human("chardev-send-break console")?;
            self.keys.write_all(key)?;
        }
        let deadline = self.started.elapsed() + EVIDENCE_LIMIT;
        while let Ok(line) = self.line(deadline) {
            if let LineContent::Console(text) = line.content {
                writeln!(out, "{text}")?;
            }
        }
        Ok(place)
    }
}

/// QEMU's process, killed when dropped.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it is already gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects to a socket in the run's folder, whose path may be too long for a socket address.
fn open_socket(dir: &Path, name: &str) -> std::io::Result<UnixStream> {
    use std::os::fd::AsRawFd;
    let dir = File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

fn connect(dir: &Path, name: &str, machine: &mut Process) -> Result<UnixStream> {
    let deadline = Instant::now() + OPEN_LIMIT;
    loop {
        match open_socket(dir, name) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("QEMU does not open its sockets");
            }
            Err(_) => {}
        }
        if let Some(status) = machine.0.try_wait()? {
            let log = std::fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
            bail!("QEMU ended: {status}\n{}", log.trim_end());
        }
        // The socket is created by another process, and there is nothing to wait on.
        std::thread::sleep(Duration::from_millis(20));
    }
}
