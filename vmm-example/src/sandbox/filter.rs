//! Seccomp filters, built from the lists in [`syscalls`](super::syscalls).

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::syscalls::{
    BOX_TYPE, CONNECTING, DEVICES, EVERYWHERE, FCNTL, HARMLESS, KEEPER, KVM_IRQ_LINE, KVM_IRQFD,
    KVM_RUN, KVM_SET_GSI_ROUTING, KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2,
    KVM_TYPE, LUO_TYPE, MISSING, PR_GET_AUXV, REFUSED, SERVICE, TAP, TUN_OFFLOAD, TYPE_MASK,
    VFIO_TYPE,
};
use super::{Level, Sandbox, SandboxError, Thread};

/// System calls with the rules for their arguments; without rules, any arguments are allowed.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// The filters of a process: its own, which all threads inherit, and those of each kind of thread.
#[derive(Debug)]
pub(super) struct Filters {
    process: Vec<BpfProgram>,
    vcpu: BpfProgram,
    device: BpfProgram,
    api: BpfProgram,
}

impl Filters {
    /// `None` if this kernel has no seccomp.
    pub(super) fn build(sandbox: &Sandbox) -> Result<Option<Self>, SandboxError> {
        if !is_there() {
            return Ok(None);
        }
        build(sandbox).map(Some).map_err(SandboxError::BuildFilter)
    }

    /// Installs the process's filters. There is only one thread.
    pub(super) fn enter(&self) -> Result<(), SandboxError> {
        enter(&self.process)
    }

    /// Installs the narrower filter of the calling thread.
    pub(super) fn confine(&self, kind: Thread) -> Result<(), SandboxError> {
        apply(match kind {
            Thread::Vcpu => &self.vcpu,
            Thread::Device => &self.device,
            Thread::Api => &self.api,
        })
    }
}

/// The filters of a keeper's process; `None` if this kernel has no seccomp.
pub(super) fn of_keeper() -> Result<Option<Vec<BpfProgram>>, SandboxError> {
    if !is_there() {
        return Ok(None);
    }
    let programs = keeper().and_then(|rules| whole_process(rules, Level::On));
    programs.map(Some).map_err(SandboxError::BuildFilter)
}

pub(super) fn enter(programs: &[BpfProgram]) -> Result<(), SandboxError> {
    programs.iter().try_for_each(apply)
}

fn apply(program: &BpfProgram) -> Result<(), SandboxError> {
    seccompiler::apply_filter(program).map_err(SandboxError::ApplyFilter)
}

/// Whether /proc shows seccomp for this process.
fn is_there() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Seccomp:"))
}

fn build(sandbox: &Sandbox) -> Result<Filters, BackendError> {
    let device = device(sandbox)?;
    let vcpu = vcpu(&device)?;
    let api = api(&device)?;
    let mut process = api.clone();
    for (call, rules) in &vcpu {
        // A call without rules is already allowed with any arguments.
        if !rules.is_empty() {
            add(&mut process, *call, rules.clone());
        }
    }
    let allow = |rules| allowed(rules, sandbox.level);
    Ok(Filters {
        process: whole_process(process, sandbox.level)?,
        vcpu: allow(vcpu)?,
        device: allow(device)?,
        api: allow(api)?,
    })
}

/// The programs for a process that makes these calls.
fn whole_process(rules: Rules, level: Level) -> Result<Vec<BpfProgram>, BackendError> {
    // The strictest of all filters applies.
    let errno = |calls: &[c_long], errno: c_int| {
        let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
        let action = SeccompAction::Errno(errno.unsigned_abs());
        compile(rules, SeccompAction::Allow, action)
    };
    Ok(vec![
        errno(MISSING, libc::ENOSYS)?,
        errno(REFUSED, libc::EACCES)?,
        allowed(rules, level)?,
    ])
}

fn allowed(rules: Rules, level: Level) -> Result<BpfProgram, BackendError> {
    let otherwise = match level {
        Level::Log => SeccompAction::Log,
        Level::On | Level::Off => SeccompAction::KillProcess,
    };
    compile(rules, otherwise, SeccompAction::Allow)
}

/// The rules for any thread that makes these calls.
fn thread(calls: &[c_long]) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in [EVERYWHERE, calls, REFUSED, MISSING].concat() {
        rules.insert(call, Vec::new());
    }
    // Writable memory is never executable.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        add(&mut rules, call, [masked(2, libc::PROT_EXEC, 0)?]);
    }
    for command in FCNTL {
        add(&mut rules, libc::SYS_fcntl, [equal(1, *command)?]);
    }
    // How a library finds the vDSO.
    add(&mut rules, libc::SYS_prctl, [equal(0, PR_GET_AUXV)?]);
    // A thread that cannot continue aborts this process.
    let ourselves = std::process::id().cast_signed();
    add(&mut rules, libc::SYS_tgkill, [equal(0, ourselves)?]);
    Ok(rules)
}

/// Adds what a thread needs to start others.
fn starts_threads(rules: &mut Rules) -> Result<(), BackendError> {
    // Threads, but no processes.
    let thread = masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?;
    add(rules, libc::SYS_clone, [thread]);
    // A new thread sets its name.
    for setting in [libc::PR_SET_NAME, libc::PR_SET_VMA] {
        add(rules, libc::SYS_prctl, [equal(0, setting)?]);
    }
    Ok(())
}

fn keeper() -> Result<Rules, BackendError> {
    let mut rules = thread(KEEPER)?;
    starts_threads(&mut rules)?;
    add(&mut rules, libc::SYS_ioctl, [letter(LUO_TYPE)?]);
    Ok(rules)
}

/// The rules for a device's thread.
fn device(sandbox: &Sandbox) -> Result<Rules, BackendError> {
    let mut rules = thread(DEVICES)?;
    // A device's socket must not block.
    for number in [TUN_OFFLOAD, libc::FIONBIO] {
        add(&mut rules, libc::SYS_ioctl, [request(number)?]);
    }
    if sandbox.connects.is_some() {
        for call in CONNECTING {
            rules.insert(*call, Vec::new());
        }
        add(&mut rules, libc::SYS_socket, [equal(0, libc::AF_UNIX)?]);
    }
    Ok(rules)
}

/// The rules for a vCPU's thread: those of devices, which the guest's accesses lead to, and running
/// the guest.
fn vcpu(device: &Rules) -> Result<Rules, BackendError> {
    let mut rules = device.clone();
    let numbers = [
        KVM_RUN,
        KVM_IRQ_LINE,
        KVM_IRQFD,
        KVM_SET_GSI_ROUTING,
        KVM_SET_USER_MEMORY_REGION,
        KVM_SET_USER_MEMORY_REGION2,
    ];
    let mut requests = numbers
        .map(request)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    requests.push(letter(VFIO_TYPE)?);
    add_first(&mut rules, libc::SYS_ioctl, requests);
    Ok(rules)
}

/// The rules for a thread that serves clients: it saves the guest, fills its box and starts
/// threads.
fn api(device: &Rules) -> Result<Rules, BackendError> {
    let mut rules = device.clone();
    for call in SERVICE {
        rules.insert(*call, Vec::new());
    }
    for number in [HARMLESS, TAP].concat() {
        add(&mut rules, libc::SYS_ioctl, [request(number)?]);
    }
    let letters = [KVM_TYPE, VFIO_TYPE, BOX_TYPE].map(letter);
    let letters = letters.into_iter().collect::<Result<_, _>>()?;
    add_first(&mut rules, libc::SYS_ioctl, letters);
    starts_threads(&mut rules)?;
    // A new thread narrows its filter.
    let setting = equal(0, libc::PR_SET_NO_NEW_PRIVS)?;
    add(&mut rules, libc::SYS_prctl, [setting]);
    Ok(rules)
}

fn add(rules: &mut Rules, call: c_long, more: impl IntoIterator<Item = SeccompRule>) {
    rules.entry(call).or_default().extend(more);
}

/// Adds rules before the others of this call: they are tried one after the other, and a vCPU's
/// thread calls KVM after each exit of the guest.
fn add_first(rules: &mut Rules, call: c_long, mut more: Vec<SeccompRule>) {
    let rules = rules.entry(call).or_default();
    more.append(rules);
    *rules = more;
}

/// A rule that an argument has this value.
fn equal(argument: u8, number: c_int) -> Result<SeccompRule, BackendError> {
    let number = u64::from(number.cast_unsigned());
    condition(argument, SeccompCmpOp::Eq, number)
}

/// A rule that, of the bits in `mask`, exactly these are set.
fn masked(argument: u8, mask: c_int, bits: c_int) -> Result<SeccompRule, BackendError> {
    let mask = u64::from(mask.cast_unsigned());
    let bits = u64::from(bits.cast_unsigned());
    condition(argument, SeccompCmpOp::MaskedEq(mask), bits)
}

/// A rule for one ioctl request.
fn request(number: u64) -> Result<SeccompRule, BackendError> {
    condition(1, SeccompCmpOp::Eq, number)
}

/// A rule for all ioctl requests of a type.
fn letter(of: u64) -> Result<SeccompRule, BackendError> {
    condition(1, SeccompCmpOp::MaskedEq(TYPE_MASK), of)
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?;
    SeccompRule::new(vec![condition])
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::x86_64;
    SeccompFilter::new(rules, otherwise, matching, arch)?.try_into()
}
