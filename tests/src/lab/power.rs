//! How a machine goes off: because the host wanted to, or because a CPU could not continue.
//!
//! QEMU stops a machine that goes off but keeps it until the lab lets it exit, so that the lab can
//! still query the CPUs of a host that reset silently.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use fdbox_lab::qmp::Qmp;
use serde_json::Value;

/// The monitor socket reserved for this.
pub(crate) const SOCKET: &str = "power.sock";

/// Waits for the end of a machine.
#[derive(Debug)]
pub(crate) struct Power(JoinHandle<Result<Option<PathBuf>>>);

impl Power {
    /// `monitor` is connected to [`SOCKET`]; evidence is written to `dir`.
    pub(crate) fn watch(monitor: UnixStream, dir: &Path) -> Result<Self> {
        let place = dir.join("reset.txt");
        let thread = std::thread::Builder::new().name("power".into());
        Ok(Self(thread.spawn(move || wait(monitor, place))?))
    }

    /// Where the evidence is, if the machine was reset. The machine must be off.
    pub(crate) fn end(self) -> Result<Option<PathBuf>> {
        self.0.join().ok().context("The watch over the machine")?
    }
}

fn wait(monitor: UnixStream, place: PathBuf) -> Result<Option<PathBuf>> {
    let mut qmp = Qmp::connect(monitor)?;
    let Some(end) = qmp.event("SHUTDOWN")? else {
        return Ok(None);
    };
    let evidence = match is_reset(&end) {
        true => {
            let mut out = File::create(&place)?;
            writeln!(out, "## {end}")?;
            let registers = qmp.human("info registers -a")?;
            let stacks = stack_pointers(&registers).flat_map(dump);
            writeln!(out, "## info registers -a\n{registers}")?;
            for command in ["info lapic".to_owned(), "info pic".to_owned()]
                .into_iter()
                .chain(stacks)
            {
                writeln!(out, "## {command}\n{}", qmp.human(&command)?)?;
            }
            Some(place)
        }
        false => None,
    };
    qmp.quit()?;
    Ok(evidence)
}

/// Of each CPU, from what `info registers -a` prints.
fn stack_pointers(registers: &str) -> impl Iterator<Item = u64> {
    let after = registers.split("RSP=").skip(1);
    after.filter_map(|text| u64::from_str_radix(text.get(..16)?, 16).ok())
}

/// The commands that print a stack, whose oldest frames say what began a series of faults. The kernel's stacks have 4 pages.
/// A command ends where nothing is mapped: of a stack that is full, that is the first page.
fn dump(stack_pointer: u64) -> impl Iterator<Item = String> {
    let first = stack_pointer & !0xfff;
    (0..=4).map(move |page| format!("x /512gx {:#x}", first.saturating_add(page * 4096)))
}

/// A host of the lab never resets itself: it kexecs, or powers off.
fn is_reset(end: &Value) -> bool {
    end["data"]["reason"] == "guest-reset"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    /// Sends what QEMU would send, and records the commands it receives.
    fn qemu(stream: UnixStream, reason: &str) -> Vec<String> {
        let mut answers = Vec::new();
        let mut out = stream.try_clone().unwrap();
        writeln!(out, "{{\"QMP\":{{}}}}").unwrap();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            let answer = "registers RSP=ffffc9000001bf58 RBP=0 RSP=00007ffd00000010";
            writeln!(out, "{{\"return\":\"{answer}\"}}").unwrap();
            if line.contains("qmp_capabilities") {
                writeln!(out, "{{\"event\":\"RESUME\"}}").unwrap();
                let event = "{\"event\":\"SHUTDOWN\",\"data\":{\"reason\":\"REASON\"}}";
                writeln!(out, "{}", event.replace("REASON", reason)).unwrap();
            }
            let quit = line.contains("\"quit\"");
            answers.push(line);
            if quit {
                break;
            }
        }
        answers
    }

    fn end(reason: &'static str) -> (Option<String>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let qemu = std::thread::spawn(move || qemu(far, reason));
        let evidence = Power::watch(near, dir.path()).unwrap().end().unwrap();
        let text = evidence.map(|place| std::fs::read_to_string(place).unwrap());
        (text, qemu.join().unwrap().len())
    }

    #[test]
    fn a_machine_that_switches_itself_off_is_let_go() {
        assert_eq!(end("guest-shutdown"), (None, 2));
    }

    #[test]
    fn a_machine_that_is_reset_is_asked_first() {
        let (text, answers) = end("guest-reset");
        let text = text.unwrap();
        assert!(text.contains("info registers -a\nregisters"), "{text}");
        for page in ["0xffffc9000001b000", "0xffffc9000001f000", "0x7ffd00004000"] {
            assert!(text.contains(&format!("x /512gx {page}")), "{text}");
        }
        assert_eq!(answers, 15);
    }
}
