//! The cycle counter.

/// The cycle counter: TSC on x86-64, CNTVCT on arm64.
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC exists on every x86-64 CPU and touches no memory; Linux leaves it enabled in
    // user mode unless the process asked for PR_SET_TSC.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: Linux lets user mode read CNTVCT_EL0; no memory is touched.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        return ticks;
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    compile_error!("no cycle counter that survives a kexec is known for this architecture");
}
