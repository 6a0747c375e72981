//! The thread of a vCPU: runs the guest, serves its accesses and parks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::buses::Buses;
use super::end::{Ended, GuestEnd, OnEnd};
use super::gate::{Gate, GateState};
use super::loan::Loan;
use super::{kick, lock};
use crate::devices::ports::PortWrite;
use crate::kvm::{tsc, vcpu as vcpu_state};

/// What a vCPU's thread owns.
pub(super) struct Idle {
    pub(super) gate: Arc<Gate>,
    /// Number of exits.
    pub(super) exits: Arc<AtomicU64>,
    pub(super) first_entry: Arc<AtomicU64>,
    pub(super) ended: Arc<Ended>,
    pub(super) fd: Arc<Mutex<VcpuFd>>,
    pub(super) loan: Arc<Loan>,
    pub(super) end: OnEnd,
}

/// The same, ready to run.
pub(super) struct Runner {
    pub(super) idle: Idle,
    pub(super) buses: Buses,
}

impl Runner {
    pub(super) fn run(self) {
        kick::unblock();
        while self.idle.gate.park() {
            self.idle.loan.wait();
            let mut fd = lock(&self.idle.fd);
            let mut target = kick::Target::new(&mut fd);
            let end = self.run_until_ordered(target.vcpu());
            if end.as_ref().is_some_and(GuestEnd::is_the_guests) {
                // Complete the access that caused the end: another guest may run on this vCPU.
                self.retire_pending(target.vcpu());
            }
            drop(target);
            drop(fd);
            if let Some(end) = end {
                let ended = self.idle.ended.lock();
                let mut ended = ended.unwrap_or_else(PoisonError::into_inner);
                ended.get_or_insert_with(|| end.clone());
                drop(ended);
                // Whoever is notified may let the machine run again.
                self.idle.gate.set(GateState::Park);
                (self.idle.end)(end);
            }
        }
    }

    /// Runs the guest until it ends, the gate is shut or the descriptor is requested.
    fn run_until_ordered(&self, vcpu: &mut VcpuFd) -> Option<GuestEnd> {
        if self.idle.first_entry.load(Ordering::Relaxed) == 0 {
            let now = tsc::read();
            let _ =
                self.idle
                    .first_entry
                    .compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        }
        while self.idle.gate.state() == GateState::Run && !self.idle.loan.is_wanted() {
            match self.enter(vcpu) {
                Entered::Again => {}
                Entered::Interrupted => vcpu.set_kvm_immediate_exit(0),
                Entered::End(end) => return Some(end),
            }
        }
        self.retire_pending(vcpu)
    }

    /// Lets KVM complete the access of the last exit without running the guest: until then the
    /// registers are those of an instruction half done.
    fn retire_pending(&self, vcpu: &mut VcpuFd) -> Option<GuestEnd> {
        loop {
            vcpu.set_kvm_immediate_exit(1);
            match self.enter(vcpu) {
                // A string instruction exits once per iteration.
                Entered::Again => {}
                Entered::Interrupted => {
                    vcpu.set_kvm_immediate_exit(0);
                    return None;
                }
                Entered::End(end) => return Some(end),
            }
        }
    }

    fn enter(&self, vcpu: &mut VcpuFd) -> Entered {
        let exit = vcpu.run();
        self.idle.exits.fetch_add(1, Ordering::Relaxed);
        match exit {
            Ok(VcpuExit::IoIn(port, data)) => self.buses.read_port(port, data),
            Ok(VcpuExit::IoOut(port, data)) => match self.buses.write_port(port, data) {
                PortWrite::Done => {}
                PortWrite::Reset => return Entered::End(GuestEnd::Reset),
                PortWrite::Off => return Entered::End(GuestEnd::Off),
            },
            Ok(VcpuExit::MmioRead(addr, data)) => self.buses.read_memory(addr, data),
            Ok(VcpuExit::MmioWrite(addr, data)) => self.buses.write_memory(addr, data),
            Ok(VcpuExit::Intr) => return Entered::Interrupted,
            // A PC without a keyboard controller also resets like this.
            Ok(VcpuExit::Shutdown) => return Entered::End(GuestEnd::TripleFault),
            Ok(VcpuExit::SystemEvent(..)) => return Entered::End(GuestEnd::Reset),
            Ok(VcpuExit::InternalError) => {
                return Entered::End(GuestEnd::Broken(vcpu_state::internal_error(vcpu)));
            }
            Ok(exit) => return Entered::End(GuestEnd::Broken(format!("KVM_RUN exit: {exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => return Entered::Interrupted,
            // A vCPU that was waiting for its start received an INIT.
            Err(error) if error.errno() == libc::EAGAIN => {}
            Err(error) => return Entered::End(GuestEnd::Broken(format!("KVM_RUN: {error}"))),
        }
        Entered::Again
    }
}

/// Why KVM_RUN returned.
enum Entered {
    Again,
    Interrupted,
    End(GuestEnd),
}
