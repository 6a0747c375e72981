//! PID 1 of a lifeboat's kernel. Its only output is the console.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use fdbox_lab::event::{Event, FROM_BOAT};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::RebootCommand;

use crate::setup;

/// The word of the command line that marks a boat's kernel, and says what it should do.
const WORD: &str = "lab.boat";
/// The word that names the scenario in which the host dies, and the stage in which it does.
const SCENARIO: &str = "lab.scenario";
const STAGE_OF_DEAD_HOST: usize = 2;
/// The word with what a guest is told.
const GUEST_IS_TOLD: &str = "lab.guest-is-told";
/// The fate of one that carries guests, and does something else as well.
const CARRY_AND: &str = "carry-and-";
/// The helper that waits for the host, and the box by which it does that.
const MEET_HOST: &str = "meet-host,meeting";
const SCENARIOS: &str = "/bin/lab-scenarios";
const VMM: &str = "/bin/vmm-example";
const MODULE: &str = "/lib/modules/fdbox-boat.ko";
const BOXES_MODULE: &str = "/lib/modules/fdbox.ko";
/// The module's message when a host watches the boat.
const HOST_BEATS: &str = "fdbox-boat: the host beats";

/// Within this time the boat has to say that its host is silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(180);
/// Whether it has.
static IS_SAID: AtomicBool = AtomicBool::new(false);

/// What the boat should do, if this is one.
pub(crate) fn fate(cmdline: &str) -> Option<&str> {
    value_of(cmdline, WORD)
}

fn value_of<'a>(cmdline: &'a str, name: &str) -> Option<&'a str> {
    let mut words = cmdline.split_ascii_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// Returns only on failure, after reporting the reason.
pub(crate) fn run(fate: &str) {
    if let Err(error) = meet(fate) {
        say(&format!("lab-init: {error:#}"));
    }
}

/// Writes a line to the console, through the kernel's log. Without its end it would appear with the next one.
fn say(line: &str) {
    let log = OpenOptions::new().write(true).open("/dev/kmsg");
    // There is no other output.
    let _ = log.and_then(|mut log| log.write_all(format!("{line}\n").as_bytes()));
}

fn meet(fate: &str) -> Result<()> {
    if fate != "silent-from-the-start" {
        setup::load_module(MODULE)?;
    }
    match fate {
        "stay" | "silent-from-the-start" => {}
        "carry" => carry(None)?,
        _ if fate.starts_with(CARRY_AND) => carry(Some(Deed::of(fate)?))?,
        // The machine belongs to the host: it must not be powered off.
        "halt" => {
            wait_for_host()?;
            rustix::system::reboot(RebootCommand::Restart)?;
        }
        "panic" => {
            wait_for_host()?;
            fs::write("/proc/sysrq-trigger", "c")?;
        }
        "fall-silent" => {
            wait_for_host()?;
            rustix::system::delete_module(c"fdbox_boat", libc::O_NONBLOCK)?;
        }
        _ => {
            let arguments = fate.strip_prefix("help:");
            let arguments = arguments.with_context(|| format!("An unknown fate: {fate}"))?;
            help(arguments)?;
        }
    }
    loop {
        rustix::event::pause();
    }
}

/// Runs a helper of the scenarios, and reports what it prints.
fn help(arguments: &str) -> Result<()> {
    let output = Command::new(SCENARIOS)
        .arg("help")
        .args(arguments.split(','))
        .output()
        .context("Run a helper")?;
    let (out, errors) = (&output.stdout, &output.stderr);
    for line in [out, errors].map(|text| String::from_utf8_lossy(text)) {
        line.lines().for_each(say);
    }
    if !output.status.success() {
        bail!("The helper {arguments}: {}", output.status);
    }
    say("lab-init: the helper is done");
    Ok(())
}

/// What is done once, while guests are carried.
struct Deed {
    what: What,
    /// In the line after which it is done.
    after: &'static str,
}

#[derive(Clone, Copy)]
enum What {
    /// Kills the guests' VMMs.
    Kill,
    /// Carries nobody until the host wants that.
    Wait,
    /// Panics when the host wants that.
    Panic,
    /// Lets the host die when it wants that, and then judges.
    Outlive,
    /// Lets the host die by itself, and then judges.
    Stay,
    /// Lets the host come back by itself.
    Expect,
    /// Tells the guest something, and lets the host wait until it has done it.
    Tell,
    /// Ends the run if the host does not come back.
    Await,
    /// Reports by this helper how the guests of a dead host are, which ends the run.
    Judge(&'static str),
}

impl Deed {
    /// `carry-and-WHAT:WHEN`.
    fn of(fate: &str) -> Result<Self> {
        let deed = fate.strip_prefix(CARRY_AND).unwrap_or_default();
        let (what, after) = match deed.split_once(':') {
            Some((what, "ready")) => (what, "a VMM waits for it"),
            Some((what, "aboard")) => (what, "runs here"),
            _ => bail!("An unknown fate: {fate}"),
        };
        let what = match what {
            "kill" => What::Kill,
            "wait" => What::Wait,
            "panic" => What::Panic,
            "outlive" => What::Outlive,
            "expect" => What::Expect,
            "tell" => What::Tell,
            "stay" => What::Stay,
            _ => bail!("An unknown fate: {fate}"),
        };
        Ok(Self { what, after })
    }

    /// When the host is silent or has panicked. If the boat does not notice, that is reported.
    fn then(what: What) -> Self {
        thread::spawn(|| {
            thread::sleep(SILENCE_LIMIT);
            if !IS_SAID.load(Ordering::Relaxed) {
                let seconds = SILENCE_LIMIT.as_secs();
                let error = anyhow!("The boat has not said within {seconds} s how its host is");
                report(Err(error));
            }
        });
        Self {
            what,
            after: "the host has ",
        }
    }
}

impl What {
    /// Returns what is to be done next.
    fn act(self, carrying: &Child) -> Result<Option<Deed>> {
        let carrying = Pid::from_child(carrying);
        match self {
            Self::Kill => kill_vmms()?,
            Self::Wait => {
                kill_process(carrying, Signal::STOP)?;
                help(MEET_HOST)?;
                kill_process(carrying, Signal::CONT)?;
            }
            Self::Panic => {
                help(MEET_HOST)?;
                fs::write("/proc/sysrq-trigger", "c")?;
            }
            Self::Outlive => {
                help(MEET_HOST)?;
                return Ok(Some(Deed::then(Self::Judge("host-is-dead,afloat"))));
            }
            Self::Tell => {
                let cmdline = fs::read_to_string("/proc/cmdline")?;
                let what = value_of(&cmdline, GUEST_IS_TOLD);
                let what = what.context("What the guest is told is missing")?;
                help(&format!("tell-guest,{what}"))?;
                help(MEET_HOST)?;
            }
            Self::Judge(helper) => {
                IS_SAID.store(true, Ordering::Relaxed);
                report(help(helper));
            }
            Self::Stay => return Ok(Some(Deed::then(Self::Judge("host-is-too-far,afloat")))),
            Self::Expect => return Ok(Some(Deed::then(Self::Await))),
            Self::Await => {
                IS_SAID.store(true, Ordering::Relaxed);
                if let Err(error) = help("host-comes-back,afloat") {
                    report(Err(error));
                }
            }
        }
        Ok(None)
    }
}

/// Ends the run in the place of a host that is dead.
fn report(found: Result<()>) {
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let scenario = Event::Scenario {
        name: value_of(&cmdline, SCENARIO).unwrap_or_default().to_owned(),
        stage: STAGE_OF_DEAD_HOST,
        error: found.err().map(|error| format!("{error:#}")),
        millis: 0,
    };
    let exit = Event::Exit {
        command: 0,
        status: 0,
    };
    for event in [scenario, exit, Event::Verdict { error: None }] {
        let event = serde_json::to_string(&event).unwrap_or_default();
        say(&format!("{FROM_BOAT}{event}"));
    }
}

/// Carries the guests that the host has named. Returns only on failure.
fn carry(mut deed: Option<Deed>) -> Result<()> {
    setup::load_module(BOXES_MODULE)?;
    let log = OpenOptions::new().write(true).open("/dev/kmsg")?;
    let mut carrying = Command::new(VMM)
        .arg("boat")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("Run vmm-example boat")?;
    let out = carrying.stdout.take().context("Its output")?;
    for line in BufReader::new(out).lines() {
        let line = line.context("Read its output")?;
        say(&line);
        if let Some(now) = deed.take_if(|deed| line.contains(deed.after)) {
            deed = now.what.act(&carrying)?;
        }
    }
    bail!("vmm-example boat ended: {}", carrying.wait()?)
}

fn kill_vmms() -> Result<()> {
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let id = process.file_name().to_string_lossy().parse();
        // It may have ended meanwhile, or be no process.
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_vmm = command
            .split(|byte| *byte == 0)
            .any(|word| word == b"member");
        if let (Some(id), true) = (id.ok().and_then(Pid::from_raw), is_vmm) {
            kill_process(id, Signal::KILL)?;
            say("lab-init: killed a VMM");
        }
    }
    Ok(())
}

/// Waits until the module reports that a host watches.
fn wait_for_host() -> Result<()> {
    let mut log = File::open("/dev/kmsg").context("Open the kernel's log")?;
    let mut record = [0; 8192];
    loop {
        // Each read returns one record.
        let len = log.read(&mut record).context("Read the kernel's log")?;
        if String::from_utf8_lossy(&record[..len]).contains(HOST_BEATS) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boat_is_known_by_its_command_line() {
        assert_eq!(fate("pci=off lab.boat=stay nr_cpus=1"), Some("stay"));
        assert_eq!(fate("console=ttyS0 stage=1"), None);
    }
}
