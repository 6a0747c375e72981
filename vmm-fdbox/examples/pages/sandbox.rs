//! What the processes of this example may do: exactly what the library says it needs, plus what
//! every program does.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use rustix::ioctl::Opcode;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use vmm_fdbox::sandbox::{
    ARRIVING_SYSCALLS, BOX_IOCTLS, BOX_SYSCALLS, CONTROL_IOCTLS, CONTROL_PATHS, CONTROL_SYSCALLS,
    COORDINATOR_SYSCALLS, KEXEC_PATHS, KEXEC_SYSCALLS, LEAVING_SYSCALLS, Syscall,
};
use vmm_fdbox::update::PartyError;

/// Names a system call to leave out, to show that the library does make it.
pub(crate) const WITHOUT: &str = "PAGES_WITHOUT";

/// What every program calls for its memory, its threads and its exit, and this one for output.
const EVERY_PROGRAM: &[Syscall] = &[
    ("brk", libc::SYS_brk),
    ("clock_gettime", libc::SYS_clock_gettime),
    ("clone3", libc::SYS_clone3),
    ("exit", libc::SYS_exit),
    ("exit_group", libc::SYS_exit_group),
    ("futex", libc::SYS_futex),
    ("getrandom", libc::SYS_getrandom),
    ("gettid", libc::SYS_gettid),
    ("madvise", libc::SYS_madvise),
    ("mmap", libc::SYS_mmap),
    ("mprotect", libc::SYS_mprotect),
    ("mremap", libc::SYS_mremap),
    ("munmap", libc::SYS_munmap),
    ("nanosleep", libc::SYS_nanosleep),
    ("clock_nanosleep", libc::SYS_clock_nanosleep),
    ("prctl", libc::SYS_prctl),
    ("rseq", libc::SYS_rseq),
    ("rt_sigaction", libc::SYS_rt_sigaction),
    ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
    ("sched_getaffinity", libc::SYS_sched_getaffinity),
    ("sched_yield", libc::SYS_sched_yield),
    ("set_robust_list", libc::SYS_set_robust_list),
    ("sigaltstack", libc::SYS_sigaltstack),
    ("write", libc::SYS_write),
];

/// What the example's guest does with its memory.
const GUEST: &[Syscall] = &[
    ("pread64", libc::SYS_pread64),
    ("pwrite64", libc::SYS_pwrite64),
];

/// A part of this example: the system calls that the library makes in it, its ioctls and its files.
pub(crate) struct Part {
    pub(crate) calls: &'static [&'static [Syscall]],
    /// The example's own system calls.
    own: &'static [Syscall],
    ioctls: &'static [&'static [Opcode]],
    /// Directories in which it opens files for reading and writing.
    writes: &'static [&'static str],
    /// Paths that it reads.
    reads: &'static [&'static str],
}

pub(crate) const LEAVING: Part = Part {
    calls: &[LEAVING_SYSCALLS, BOX_SYSCALLS],
    own: GUEST,
    ioctls: &[BOX_IOCTLS],
    writes: &[],
    reads: &[],
};

pub(crate) const ARRIVING: Part = Part {
    calls: &[ARRIVING_SYSCALLS, BOX_SYSCALLS],
    ..LEAVING
};

/// An update; starting its VMMs comes before.
pub(crate) const UPDATING: Part = Part {
    calls: &[
        COORDINATOR_SYSCALLS,
        CONTROL_SYSCALLS,
        BOX_SYSCALLS,
        KEXEC_SYSCALLS,
    ],
    own: &[],
    ioctls: &[BOX_IOCTLS, CONTROL_IOCTLS],
    writes: CONTROL_PATHS,
    reads: KEXEC_PATHS,
};

/// A resume.
pub(crate) const RESUMING: Part = Part {
    calls: &[COORDINATOR_SYSCALLS, CONTROL_SYSCALLS, BOX_SYSCALLS],
    reads: &[],
    ..UPDATING
};

impl Part {
    /// Restricts this thread, and each thread it starts, to this part; anything else ends the
    /// process. It may also read `files`.
    pub(crate) fn confine(&self, files: &[&str]) -> Result<(), PartyError> {
        self.confine_paths(files)?;
        let without = std::env::var(WITHOUT).unwrap_or_default();
        let calls = self.calls.iter().copied().flatten();
        let own = EVERY_PROGRAM.iter().chain(self.own);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = calls
            .chain(own)
            .filter(|(name, _)| *name != without)
            .map(|(_, number)| (*number, Vec::new()))
            .collect();
        if let Some(ioctls) = rules.get_mut(&libc::SYS_ioctl) {
            *ioctls = self.ioctl_rules()?;
        }
        let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
        let filter = SeccompFilter::new(rules, kill, allow, TargetArch::x86_64)?;
        Ok(apply_filter(&BpfProgram::try_from(filter)?)?)
    }

    fn ioctl_rules(&self) -> Result<Vec<SeccompRule>, PartyError> {
        let opcodes = self.ioctls.iter().copied().flatten();
        let rules = opcodes.map(|opcode| {
            let (len, is) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
            let opcode = SeccompCondition::new(1, len, is, u64::from(*opcode))?;
            SeccompRule::new(vec![opcode])
        });
        Ok(rules.collect::<Result<_, _>>()?)
    }

    fn confine_paths(&self, files: &[&str]) -> Result<(), PartyError> {
        let abi = ABI::V5;
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .create()?;
        let write = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let writes = self.writes.iter().map(|path| (*path, write));
        let reads = self.reads.iter().map(|path| (*path, read));
        let files = files.iter().map(|path| (*path, AccessFs::ReadFile.into()));
        for (path, rights) in writes.chain(reads).chain(files) {
            // Missing paths are skipped.
            if let Ok(path) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(path, rights))?;
            }
        }
        rules.restrict_self()?;
        Ok(())
    }
}
