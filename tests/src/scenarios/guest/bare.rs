//! A guest without a kernel: a few instructions that change CPU state in ways that Linux does not allow programs to,
//! and that many CPUs cost little.
//!
//! Each byte on its console is a command. It answers with lines, the last of which is `done`. The instructions are in
//! bare.S.

#![allow(
    unsafe_code,
    reason = "this file is the thin layer around the guest's instructions"
)]

use std::arch::global_asm;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{END_LIMIT, Ended, VMM, Vmm, command, host_update};

/// The MSRs that the guest writes, and the values: none of them is in KVM's list of MSRs to save.
///
/// Memory types: the default and the enable bits, a variable range and its mask, one of the fixed
/// ranges. Machine checks: which errors of the first, the fourth and the last bank are reported.
const MSRS: [(u32, u64); 8] = [
    (0x2ff, 0xc00),
    (0x200, 0xd000_0000),
    (0x201, 0xf_f000_0800),
    (0x20f, 0xf_ff00_0800),
    (0x26f, 0x0505_0505_0505_0505),
    (0x400, u64::MAX),
    (0x40c, u64::MAX),
    (0x47c, u64::MAX),
];

global_asm!(include_str!("bare.S"));

unsafe extern "C" {
    static bare_guest_start: u8;
    static bare_guest_end: u8;
}

/// The guest's instructions, followed by the number of its CPUs besides the first and the MSRs that it uses.
fn program(cpus: u8) -> Vec<u8> {
    let (start, end) = (&raw const bare_guest_start, &raw const bare_guest_end);
    // SAFETY: both are labels in one section of constants; the assembler has put all bytes between
    // them, and nothing ever writes to them.
    let code = unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) };
    let mut program = code.to_vec();
    program.extend(u64::from(cpus - 1).to_le_bytes());
    for (index, value) in MSRS {
        program.extend(u64::from(index).to_le_bytes());
        program.extend(value.to_le_bytes());
    }
    program.extend([0; 16]);
    program
}

/// A kernel image with this program, in the format of Documentation/arch/x86/boot.rst.
fn image(cpus: u8) -> Vec<u8> {
    const SECTOR: usize = 512;
    let mut image = vec![0; 2 * SECTOR];
    let mut put = |at: usize, value: &[u8]| image[at..at + value.len()].copy_from_slice(value);
    // One sector of setup code after the first one.
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    // Loaded high, at 1 MiB, with a 64-bit entry.
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x236, &[1]);
    put(0x258, &0x10_0000_u64.to_le_bytes());
    put(0x260, &0x1_0000_u32.to_le_bytes());
    // The entry is at offset 0x200.
    image.extend([0; 0x200]);
    image.extend(program(cpus));
    image
}

/// The guest, and the process that runs it, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct BareGuest {
    name: &'static str,
    vmm: Vmm,
    console: BufReader<UnixStream>,
}

impl BareGuest {
    pub(crate) fn boot(name: &'static str) -> Result<Self> {
        Self::boot_with(name, 1)
    }

    /// The same with this number of CPUs.
    pub(crate) fn boot_with(name: &'static str, cpus: u8) -> Result<Self> {
        let kernel = path(name, "kernel");
        fs::write(&kernel, image(cpus))?;
        let mut run = Command::new(VMM);
        run.arg("run").arg("--kernel").arg(&kernel);
        run.args(["--name", name, "--no-reboot", "--memory", "size=64M"]);
        run.args(["--cpus", &cpus.to_string()]);
        Self::start(run, name)
    }

    /// Takes it out of its box, with additional arguments for the VMM.
    pub(crate) fn resume(name: &'static str, more: &[&str]) -> Result<Self> {
        let mut resume = Command::new(VMM);
        resume.args(["resume", "--box", name]).args(more);
        Self::start(resume, name)
    }

    fn start(mut command: Command, name: &'static str) -> Result<Self> {
        let socket = path(name, "console");
        command.arg(format!("--console=socket={}", socket.display()));
        command.arg("--api-socket").arg(path(name, "api"));
        let mut vmm = Vmm::start(&mut command)?;
        let deadline = Instant::now() + END_LIMIT;
        let console = loop {
            match UnixStream::connect(&socket) {
                Ok(console) => break console,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("Connect to the guest's console");
                }
                Err(_) => vmm.still_runs()?,
            }
            // The socket appears when the VMM is ready.
            std::thread::sleep(Duration::from_millis(5));
        };
        console.set_read_timeout(Some(END_LIMIT))?;
        let console = BufReader::new(console);
        Ok(Self { name, vmm, console })
    }

    pub(crate) fn api(&self) -> PathBuf {
        path(self.name, "api")
    }

    /// Sends it a command, and returns the lines of its answer.
    fn ask(&mut self, command: u8) -> Result<Vec<String>> {
        self.tell(command)?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let count = self.console.read_line(&mut line);
            ensure!(
                count.context("The guest's answer")? > 0,
                "The guest's console closed"
            );
            match line.trim_end() {
                "done" => return Ok(lines),
                line => lines.push(line.to_owned()),
            }
        }
    }

    /// The same for a command without an answer.
    fn tell(&mut self, command: u8) -> Result<()> {
        let console = self.console.get_mut();
        console.write_all(&[command]).context("Ask the guest")
    }

    /// Makes it write its MSRs, and checks that the values differ from those of a new CPU.
    pub(crate) fn write_msrs(&mut self) -> Result<()> {
        ensure!(
            self.holds_msrs().is_err(),
            "A new CPU has these MSRs already"
        );
        self.ask(b'w')?;
        self.holds_msrs()
    }

    /// Makes it read its MSRs, which must be as it wrote them.
    pub(crate) fn holds_msrs(&mut self) -> Result<()> {
        let lines = self.ask(b'r')?;
        ensure!(lines.len() == MSRS.len(), "It read {lines:?}");
        let mut lost = Vec::new();
        for ((index, value), line) in MSRS.iter().zip(&lines) {
            if u64::from_str_radix(line, 16)? != *value {
                lost.push(format!("{index:#x} is {line} and was {value:016x}"));
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        bail!("MSRs are not as the guest wrote them: {}", lost.join(", "))
    }

    /// Makes it start its other CPUs, each of which keeps its number in an MSR.
    pub(crate) fn start_cpus(&mut self) -> Result<()> {
        self.ask(b's').map(drop)
    }

    /// Makes all others compare their MSR with their number, and returns how many found it.
    pub(crate) fn count_cpus(&mut self) -> Result<u64> {
        let lines = self.ask(b'n')?;
        let [count] = &lines[..] else {
            bail!("It said {lines:?}");
        };
        Ok(u64::from_str_radix(count, 16)?)
    }

    /// Makes it do something that KVM cannot handle, and returns the VMM's exit status.
    pub(crate) fn crash(mut self) -> Result<i32> {
        self.tell(b'x')?;
        let status = self.vmm.wait(END_LIMIT)?;
        status.code().context("The VMM was killed")
    }

    /// Powers it off, whichever process runs it now.
    pub(crate) fn end(self) -> Result<()> {
        command("shutdown", &self.api())?.expect(0)
    }

    /// Updates the host; returns only on failure.
    pub(crate) fn update_host(&self) -> Result<()> {
        let mut update = host_update(&self.api(), &["--box", self.name])?;
        // Its output is shown as it arrives: there is no reader at the end.
        let status = update.stdin(Stdio::null()).status()?;
        bail!("The host was not updated: {status}")
    }

    /// An update in this kernel with these arguments, which must succeed.
    pub(crate) fn update(&self, arguments: &[&str]) -> Result<()> {
        let mut update = Command::new(VMM);
        update
            .arg("live-update")
            .arg("--api-socket")
            .arg(self.api());
        Ended::of(update.args(arguments))?.expect(0)
    }
}

fn path(name: &str, ending: &str) -> PathBuf {
    Path::new("/run").join(format!("{name}.{ending}"))
}
