//! PID 1 of the guest, or a service of one with an init of its own: fills its memory with a pattern, watches its clocks,
//! and reports.

mod button;
mod clocks;
mod deep;
mod disk;
mod frames;
mod hurry;
mod io;
mod kmsg;
mod memory;
mod nvme;
mod ports;
mod registers;
mod requests;
mod run;
mod send;
mod talk;
mod work;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::clocks::Sample;
use fdbox_lab::net;
use fdbox_lab::witness::{MARK, MODULES, Report, WitnessEvent, command};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::mount::{MountFlags, mount};
use rustix::system::RebootCommand;

use crate::button::Button;
use crate::clocks::Clocks;
use crate::deep::Deep;
use crate::frames::Frames;
use crate::hurry::Hurry;
use crate::io::Io;
use crate::kmsg::Kmsg;
use crate::memory::Memory;
use crate::nvme::Nvme;
use crate::registers::Registers;
use crate::send::Sending;
use crate::work::Work;

const CONSOLE: &str = "/dev/ttyS0";
/// The share of the free memory that is filled, and what a service may take of it.
const SHARE_PERCENT: u64 = 75;
const SHARE_OF_A_SERVICE_PERCENT: u64 = 10;
const BEAT: Duration = Duration::from_secs(1);

fn main() {
    if let Err(error) = witness() {
        eprintln!("lab-witness: {error:#}");
    }
    if !is_init() {
        return;
    }
    rustix::fs::sync();
    if let Err(error) = rustix::system::reboot(RebootCommand::PowerOff) {
        eprintln!("lab-witness: cannot switch off: {error}");
    }
}

fn is_init() -> bool {
    std::process::id() == 1
}

/// Does what an init has to do before anything else.
fn set_up() -> Result<()> {
    for (filesystem, place) in [
        (c"devtmpfs", c"/dev"),
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
    ] {
        mount(filesystem, place, filesystem, MountFlags::empty(), None)
            .with_context(|| format!("Mount {}", place.to_string_lossy()))?;
    }
    load_modules()
}

/// Keeps this program out of swap, if the guest has any: a gap between two samples must be caused by the host.
fn stay_in_memory() -> Result<()> {
    // What it never uses, like most of its threads' stacks, need not be there.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(flags).context("Lock the memory")
}

fn witness() -> Result<()> {
    let share = match is_init() {
        true => {
            set_up()?;
            SHARE_PERCENT
        }
        false => {
            stay_in_memory()?;
            SHARE_OF_A_SERVICE_PERCENT
        }
    };
    let console = OpenOptions::new().read(true).write(true).open(CONSOLE)?;
    let mut settings = rustix::termios::tcgetattr(&console)?;
    settings.make_raw();
    rustix::termios::tcsetattr(&console, rustix::termios::OptionalActions::Now, &settings)?;
    let commands = BufReader::new(console.try_clone()?);
    let console = Console(Mutex::new(console));

    let mut kmsg = Kmsg::open()?;
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let pace = net::pace_of(&cmdline);
    let io: OnceLock<Io> = OnceLock::new();
    let frames: OnceLock<Frames> = OnceLock::new();
    let registers = Registers::default();
    let (nvme, deep) = (Nvme::default(), Deep::default());
    let sending = Sending::default();
    let button = Button::default();
    let memory = Mutex::new(Memory::fill(free_bytes()? / 100 * share)?);
    let cpus = std::thread::available_parallelism()?.get();
    let clocks = Clocks::new(cpus);
    let work = Work::default();
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (clocks, memory) = (&clocks, &memory);
            scope.spawn(move || clocks.watch(cpu, memory, pace));
        }
        scope.spawn(|| beat(&console, &clocks, &button));
        let pages = lock(&memory).pages();
        console.say(&WitnessEvent::Ready {
            pages,
            cpus: cpus as u32,
        })?;
        for line in commands.lines() {
            let line = line?;
            match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
                (command::REPORT, "") => {
                    // Before the check, like the clocks' gap: it could itself cause one.
                    let counted = frames.get().map(Frames::counted);
                    let mut report = report(&clocks, &memory, &mut kmsg, cpus as u32, io.get())?;
                    report.frames = counted;
                    console.say(&WitnessEvent::Report(Box::new(report)))?;
                }
                (command::RESET_GAP, "") => {
                    clocks.reset_gap();
                    frames.get().inspect(|frames| frames.reset_gap());
                    console.say(&WitnessEvent::Done)?;
                }
                (command::WORK, "") => {
                    work.start(scope, cpus);
                    console.say(&work.done())?;
                }
                (command::IO, "") => {
                    if let (Some(guest), None) = (net::guest_of(&cmdline), io.get()) {
                        let opened = Io::open(guest)?;
                        io.get_or_init(|| opened).start(scope, pace);
                    }
                    console.say(&io_event(io.get()))?;
                }
                (command::END_IO, "") => {
                    io.get().inspect(|io| io.end());
                    console.say(&io_event(io.get()))?;
                }
                (command::FRAMES, "") => {
                    let counted = frames::counted(&frames, scope)?;
                    console.say(&WitnessEvent::Frames(counted))?;
                }
                (command::REGISTERS, "") => {
                    registers.start(scope)?;
                    console.say(&registers.event())?;
                }
                (command::NVME, "") => {
                    nvme.start(scope, pace)?;
                    console.say(&nvme.report(&clocks))?;
                }
                (command::END_NVME, "") => {
                    nvme.end();
                    console.say(&nvme.report(&clocks))?;
                }
                (command::DEEP, "") => {
                    deep.start(scope)?;
                    console.say(&deep.event())?;
                }
                (command::END_DEEP, "") => {
                    deep.end();
                    console.say(&deep.event())?;
                }
                (command::FLOOD, depth) if depth.parse::<u32>().is_ok() => {
                    let done = deep.flood(scope, depth.parse()?)?;
                    console.say(&done)?;
                }
                (command::WRITE, generation) if generation.parse::<u32>().is_ok() => {
                    let _hurry = Hurry::new();
                    lock(&memory).write_all(generation.parse()?);
                    console.say(&WitnessEvent::Done)?;
                }
                (command::SEND, number) if number.parse::<u8>().is_ok() => {
                    sending.start(scope, number.parse()?)?;
                    console.say(&sending.event())?;
                }
                (command::SPEAK, bytes) if bytes.parse::<usize>().is_ok() => {
                    ports::speak(scope, bytes.parse()?)?;
                    console.say(&WitnessEvent::Done)?;
                }
                (command::ECHO, "") => {
                    ports::echo(scope)?;
                    console.say(&WitnessEvent::Done)?;
                }
                (command::RANDOM, "") => {
                    ports::draw()?;
                    console.say(&WitnessEvent::Done)?;
                }
                (command::POWER_OFF, "") => {
                    console.leave(&WitnessEvent::Done, RebootCommand::PowerOff)?
                }
                (command::RESET, "") => {
                    console.leave(&WitnessEvent::Done, RebootCommand::Restart)?
                }
                (command::RUN, text) => console.say(&run::in_a_shell(text)?)?,
                (command::CLOCKS, "") => console.say(&WitnessEvent::Clocks(Sample::now()))?,
                (command::BE_DEAF, "") => {
                    button.ignore();
                    console.say(&WitnessEvent::Done)?;
                }
                ("", "") => {}
                _ => console.say(&WitnessEvent::What)?,
            }
        }
        anyhow::bail!("The console was closed")
    })
}

/// Loads what this kernel needs before anything else.
fn load_modules() -> Result<()> {
    let Ok(paths) = fs::read_to_string(MODULES) else {
        // It has everything built in.
        return Ok(());
    };
    for path in paths.lines() {
        let module = File::open(path).with_context(|| format!("Open {path}"))?;
        rustix::system::finit_module(&module, c"", 0).with_context(|| format!("Load {path}"))?;
    }
    Ok(())
}

fn report(
    clocks: &Clocks,
    memory: &Mutex<Memory>,
    kmsg: &mut Kmsg,
    cpus: u32,
    io: Option<&Io>,
) -> Result<Report> {
    // The gap is read first: checking every page could itself cause one.
    let gap = clocks.gap();
    let _hurry = Hurry::new();
    let check = lock(memory).check();
    let io = io.map(|io| {
        io.check();
        io.done()
    });
    let (kernel_warnings, warnings) = kmsg.complaints()?;
    let backwards = clocks.backwards();
    let trimmed = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    Ok(Report {
        boot_id: trimmed("/proc/sys/kernel/random/boot_id")?,
        release: trimmed("/proc/sys/kernel/osrelease")?,
        cpus,
        uptime_ns: clocks::boottime_ns(),
        tsc: fdbox_lab::tsc(),
        counter: clocks.counter(),
        counters: clocks.counters(),
        counter_went_back: !backwards.is_empty(),
        backwards,
        largest_gap_ns: gap.monotonic_ns,
        largest_gap_tsc_ns: clocks.tsc_to_ns(gap.tsc),
        largest_gap_at_ns: gap.ended_ns,
        pages_checked: check.pages,
        pages_bad: check.bad,
        bad: check.examples,
        rewritten: lock(memory).rewritten(),
        kernel_warnings,
        warnings,
        io,
        frames: None,
    })
}

/// The results of disk and network, if they are in use.
fn io_event(io: Option<&Io>) -> WitnessEvent {
    io.map_or(WitnessEvent::What, |io| {
        WitnessEvent::Io(Box::new(io.done()))
    })
}

fn beat(console: &Console, clocks: &Clocks, button: &Button) {
    loop {
        std::thread::sleep(BEAT);
        if button.is_pressed() {
            let left = console.leave(&WitnessEvent::PowerButton, RebootCommand::PowerOff);
            eprintln!("lab-witness: cannot switch off: {left:?}");
        }
        let uptime_ms = clocks::boottime_ns() / 1_000_000;
        let beat = WitnessEvent::Beat {
            uptime_ms,
            counter: clocks.counter(),
        };
        if let Err(error) = console.say(&beat) {
            eprintln!("lab-witness: {error:#}");
        }
    }
}

fn free_bytes() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("No MemAvailable")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// The console; each line is a single write.
struct Console(Mutex<fs::File>);

impl Console {
    /// Sends the last event.
    fn leave(&self, event: &WitnessEvent, how: RebootCommand) -> Result<()> {
        self.say(event)?;
        rustix::termios::tcdrain(&*lock(&self.0))?;
        rustix::fs::sync();
        Ok(rustix::system::reboot(how)?)
    }

    fn say(&self, event: &WitnessEvent) -> Result<()> {
        let line = format!("{MARK}{}\r\n", serde_json::to_string(event)?);
        Ok(lock(&self.0).write_all(line.as_bytes())?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
