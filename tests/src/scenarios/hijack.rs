//! Simulates a compromised process: makes system calls in its name.
//!
//! It uses ptrace from outside: what the process may do is determined by its credentials, filters
//! and descriptors, and the test's own process does not have to give up anything.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

/// The machine code of the syscall instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// How far below the stack pointer data is placed: beyond the red zone of a function.
const BELOW: u64 = 1 << 16;

/// The result of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel's return value.
    Returned(i64),
    /// The process was killed by this signal.
    Killed(i32),
}

/// See the module's documentation. The process is stopped between calls, and continues when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Hijacked {
    pid: i32,
}

impl Hijacked {
    /// Takes over a child of this process that is waiting for something.
    pub(crate) fn take(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid)?;
        trace(libc::PTRACE_SEIZE, pid, 0).context("PTRACE_SEIZE")?;
        trace(libc::PTRACE_INTERRUPT, pid, 0).context("PTRACE_INTERRUPT")?;
        match wait(pid)? {
            status if libc::WIFSTOPPED(status) => Ok(Self { pid }),
            status => bail!("The process ended before it was taken over: {status:#x}"),
        }
    }

    /// Stores bytes, followed by a zero, where the process can read them.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<u64> {
        let addr = self.registers()?.rsp - BELOW;
        let memory = OpenOptions::new()
            .write(true)
            .open(format!("/proc/{}/mem", self.pid))?;
        memory.write_all_at(&[bytes, &[0]].concat(), addr)?;
        Ok(addr)
    }

    /// Makes a system call.
    pub(crate) fn call(&self, number: i64, arguments: [u64; 6]) -> Result<Outcome> {
        let before = self.registers()?;
        let mut registers = before;
        registers.rip -= SYSCALL.len() as u64;
        let mut code = [0; SYSCALL.len()];
        let memory = OpenOptions::new()
            .read(true)
            .open(format!("/proc/{}/mem", self.pid))?;
        memory.read_exact_at(&mut code, registers.rip)?;
        ensure!(
            code == SYSCALL,
            "The process is in no system call: {code:x?}"
        );
        registers.rax = number as u64;
        // The kernel must not restart the interrupted call.
        registers.orig_rax = u64::MAX;
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ] = arguments;
        self.set_registers(&registers)?;
        trace(libc::PTRACE_SINGLESTEP, self.pid, 0).context("PTRACE_SINGLESTEP")?;
        match wait(self.pid)? {
            status if libc::WIFSIGNALED(status) => Ok(Outcome::Killed(libc::WTERMSIG(status))),
            status if libc::WIFSTOPPED(status) => {
                let result = self.registers()?.rax as i64;
                // So that the next call finds the same state.
                self.set_registers(&before)?;
                Ok(Outcome::Returned(result))
            }
            status => bail!("The process ended: {status:#x}"),
        }
    }

    fn registers(&self) -> Result<libc::user_regs_struct> {
        let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
        let addr = registers.as_mut_ptr() as usize;
        trace(libc::PTRACE_GETREGS, self.pid, addr).context("PTRACE_GETREGS")?;
        // SAFETY: the kernel has written all of it, and any bits are valid registers.
        Ok(unsafe { registers.assume_init() })
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> Result<()> {
        let addr = std::ptr::from_ref(registers) as usize;
        trace(libc::PTRACE_SETREGS, self.pid, addr).context("PTRACE_SETREGS")
    }
}

impl Drop for Hijacked {
    fn drop(&mut self) {
        // It fails only if the process is gone.
        let _ = trace(libc::PTRACE_DETACH, self.pid, 0);
    }
}

/// A request whose last argument is either unused or the address of the registers.
fn trace(request: libc::c_uint, pid: i32, data: usize) -> io::Result<()> {
    // SAFETY: of the requests used here only those for registers treat `data` as an address, and
    // the callers pass that of a `user_regs_struct` that outlives the call.
    match unsafe { libc::ptrace(request, pid, 0usize, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Waits until the process stops or ends.
fn wait(pid: i32) -> Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    ensure!(waited == pid, "waitpid: {}", io::Error::last_os_error());
    Ok(status)
}
