//! A process that somebody else has taken over: system calls are made in its name.
//!
//! By ptrace, from outside: what the process may is what its credentials, its filters and its
//! descriptors say, and no program of ours has to give them up first.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

/// Bytes of the instruction that makes a system call.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// How far below the stack's end data is put: beyond what a function may use without saying so.
const BELOW: u64 = 1 << 16;

/// What became of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel answered.
    Returned(i64),
    /// The process was ended by this signal.
    Killed(i32),
}

/// See the module's documentation. The process is stopped in between, and goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Hijacked {
    pid: i32,
}

impl Hijacked {
    /// Takes over a child of this process that waits for something.
    pub(crate) fn take(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid)?;
        trace(libc::PTRACE_SEIZE, pid, 0).context("PTRACE_SEIZE")?;
        trace(libc::PTRACE_INTERRUPT, pid, 0).context("PTRACE_INTERRUPT")?;
        match wait(pid)? {
            status if libc::WIFSTOPPED(status) => Ok(Self { pid }),
            status => bail!("The process ended before it was taken over: {status:#x}"),
        }
    }

    /// Puts bytes, with a zero behind them, where the process can read them.
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
        // It is not to be taken for the call that was interrupted.
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
                // So that the next one finds it where this one did.
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
        // SAFETY: the kernel has written all of it, and any bits are registers.
        Ok(unsafe { registers.assume_init() })
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> Result<()> {
        let addr = std::ptr::from_ref(registers) as usize;
        trace(libc::PTRACE_SETREGS, self.pid, addr).context("PTRACE_SETREGS")
    }
}

impl Drop for Hijacked {
    fn drop(&mut self) {
        // It fails only when it is gone.
        let _ = trace(libc::PTRACE_DETACH, self.pid, 0);
    }
}

/// A request with what it takes as its last argument: nothing, or where the registers are.
fn trace(request: libc::c_uint, pid: i32, data: usize) -> io::Result<()> {
    // SAFETY: of the requests here only those for registers use `data` as an address, and the
    // callers pass one of a `user_regs_struct` that outlives the call.
    match unsafe { libc::ptrace(request, pid, 0usize, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Waits until the process stops or ends.
fn wait(pid: i32) -> Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is a place for what the call writes.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    ensure!(waited == pid, "waitpid: {}", io::Error::last_os_error());
    Ok(status)
}
