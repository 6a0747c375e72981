//! Makes a vCPU thread leave the guest.
//!
//! A signal alone can arrive just before KVM_RUN and be lost. So its handler also sets
//! `immediate_exit` in the `kvm_run` of the thread it interrupts: whenever the signal arrives, the
//! next KVM_RUN returns.

#![allow(
    unsafe_code,
    reason = "a signal handler and the memory it shares with KVM"
)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

thread_local! {
    /// The flag of this thread's vCPU; null in threads without one.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Target` keeps the pointer valid for as long as it is set, and this
        // handler runs in the thread that set it.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler. Once per process, before the first vCPU runs.
pub(super) fn install_handler() -> errno::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick)
}

/// Lets kicks reach the calling thread, whatever signal mask the VMM was started with.
pub(super) fn unblock() {
    // It can only fail for invalid signal numbers.
    let _ = unblock_signal(SIGRTMIN());
}

/// Interrupts a vCPU thread, in the guest or on its way there.
pub(super) fn kick(thread: &JoinHandle<()>) {
    // It can only fail if the thread has ended, and then there is nothing to interrupt.
    let _ = thread.kill(SIGRTMIN());
}

/// Directs this thread's kicks to a vCPU for the lifetime of this value.
#[derive(Debug)]
pub(super) struct Target<'a> {
    vcpu: &'a mut VcpuFd,
}

impl<'a> Target<'a> {
    pub(super) fn new(vcpu: &'a mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        Self { vcpu }
    }

    pub(super) fn vcpu(&mut self) -> &mut VcpuFd {
        self.vcpu
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        // The vCPU may be unmapped from here on.
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
