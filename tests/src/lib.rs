//! What the programs of the lab share: the plan that the emulated host follows, the events that it
//! reports, and the rules by which a console is judged.
//!
//! The lab has four programs. `lab` runs on the developer's machine: it builds, boots and judges.
//! `lab-init` is PID 1 of the emulated host, `lab-scenarios` contains the tests that run in it, and
//! `lab-witness` is PID 1 of the guest.

#[cfg(test)]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it belongs to the kernel module, which uses all of it"
)]
#[path = "../../kmod/abi/mod.rs"]
mod abi;
pub mod bar;
pub mod bench;
pub mod choices;
pub mod clocks;
pub mod device;
pub mod disk;
pub mod event;
pub mod frame;
pub mod interface;
pub mod ioctls;
pub mod kexec;
#[cfg(test)]
mod module_abi;
pub mod net;
pub mod numbers;
pub mod packet;
pub mod plan;
pub mod qmp;
pub mod scan;
pub mod scenario;
pub mod soak;
pub mod witness;

/// The CPU's time stamp counter, which continues across a kexec.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and it does not access memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}
