//! vCPU threads: running the guest, parking, and state in between.
//!
//! A vCPU's descriptor is behind a mutex that its thread holds while it runs the guest and releases
//! while it is parked, so that whoever has parked a vCPU can save it.

mod buses;
mod each;
mod end;
mod gate;
mod idle;
mod kick;
mod loan;
mod runner;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VcpuFd;
use thiserror::Error;
use vmm_sys_util::errno;

use crate::metrics::{Counted, Metrics};
use crate::sandbox;
pub(crate) use buses::Buses;
use end::Ended;
pub(crate) use end::{GuestEnd, OnEnd};
use gate::{Gate, GateState};
pub(crate) use idle::IdleVcpus;
use loan::Loan;
use runner::{Idle, Runner};

/// Why the vCPU threads could not be set up.
#[derive(Debug, Error)]
pub(crate) enum VcpuError {
    #[error("Cannot install the signal handler of the vCPU threads")]
    InstallHandler(#[source] errno::Error),
    #[error("Cannot start the thread of vCPU {id}")]
    Spawn { id: u8, source: std::io::Error },
}

/// All vCPUs of a guest.
pub(crate) struct Vcpus {
    gate: Arc<Gate>,
    first_entry: Arc<AtomicU64>,
    ended: Arc<Ended>,
    /// What the threads get when they first run, and the channels for it.
    waiting: Mutex<Option<(Vec<Sender<Buses>>, Buses)>>,
    vcpus: Vec<Vcpu>,
}

struct Vcpu {
    id: u8,
    fd: Arc<Mutex<VcpuFd>>,
    loan: Arc<Loan>,
    exits: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Vcpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vcpus")
            .field("count", &self.vcpus.len())
            .finish_non_exhaustive()
    }
}

impl Vcpus {
    /// Starts the thread of one vCPU, which waits for its buses, and drops the sender when it does.
    fn spawn(
        &mut self,
        id: u8,
        fd: VcpuFd,
        (buses, beginning): (Receiver<Buses>, Sender<Infallible>),
        end: &OnEnd,
    ) -> Result<(), VcpuError> {
        let fd = Arc::new(Mutex::new(fd));
        let (loan, exits) = (Arc::<Loan>::default(), Arc::<AtomicU64>::default());
        let idle = Idle {
            gate: self.gate.clone(),
            exits: exits.clone(),
            first_entry: self.first_entry.clone(),
            ended: self.ended.clone(),
            fd: fd.clone(),
            loan: loan.clone(),
            end: end.clone(),
        };
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || {
                sandbox::confine(sandbox::Thread::Vcpu);
                drop(beginning);
                if let Ok(buses) = buses.recv() {
                    Runner { idle, buses }.run();
                }
            })
            .map_err(|source| VcpuError::Spawn { id, source })?;
        self.vcpus.push(Vcpu {
            id,
            fd,
            loan,
            exits,
            thread: Some(thread),
        });
        Ok(())
    }

    /// Makes all vCPUs leave the guest, with no access pending.
    pub(crate) fn park(&self) {
        self.gate.set(GateState::Park);
        // A thread that never ran is not at the gate, and does nothing.
        if self.waiting().is_none() {
            self.kick();
            self.gate.wait_parked(self.vcpus.len(), || self.kick());
        }
    }

    /// Lets all vCPUs run, unless the guest has ended.
    pub(crate) fn unpark(&self) {
        if self.end().is_some() {
            return;
        }
        self.gate.set(GateState::Run);
        if let Some((starts, buses)) = self.waiting().take() {
            for start in starts {
                // A thread waits for nothing else.
                let _ = start.send(buses.clone());
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<(Vec<Sender<Buses>>, Buses)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> usize {
        self.vcpus.len()
    }

    /// The host's TSC when the first vCPU entered the guest; 0 before that.
    pub(crate) fn first_entry_tsc(&self) -> u64 {
        self.first_entry.load(Ordering::Acquire)
    }

    /// The end of the guest as found by a vCPU.
    pub(crate) fn end(&self) -> Option<GuestEnd> {
        self.ended().clone()
    }

    /// Sets or clears the end of the guest. The vCPUs are parked.
    pub(crate) fn set_end(&self, end: Option<GuestEnd>) {
        *self.ended() = end;
    }

    fn ended(&self) -> MutexGuard<'_, Option<GuestEnd>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vCPUs, sorted by ID. Blocks while they run: park them first.
    pub(crate) fn fds(&self) -> impl Iterator<Item = MutexGuard<'_, VcpuFd>> {
        self.vcpus.iter().map(|vcpu| lock(&vcpu.fd))
    }

    /// Calls the function for each vCPU, for many in parallel, and returns the results sorted by
    /// ID. Blocks while they run: park them first.
    pub(crate) fn each<T: Send, E: Send>(
        &self,
        work: impl Fn(u8, &VcpuFd) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let threads = each::threads(self.count());
        each::each(&self.vcpus, threads, |vcpu| work(vcpu.id, &lock(&vcpu.fd)))
    }

    /// Calls the function for one vCPU after the other, each of which leaves the guest meanwhile.
    /// The guest continues.
    pub(crate) fn each_in_turn<T, E>(
        &self,
        work: impl Fn(u8, &VcpuFd) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let one = |vcpu: &Vcpu| {
            let _asked = vcpu.loan.ask();
            vcpu.thread.as_ref().map(kick::kick);
            work(vcpu.id, &lock(&vcpu.fd))
        };
        self.vcpus.iter().map(one).collect()
    }

    fn kick(&self) {
        self.vcpus
            .iter()
            .filter_map(|vcpu| vcpu.thread.as_ref())
            .for_each(kick::kick);
    }
}

impl Counted for Vcpus {
    fn count(&self, metrics: &mut Metrics) {
        let names: Vec<String> = (0..self.vcpus.len()).map(|id| id.to_string()).collect();
        let labels: Vec<_> = names.iter().map(|id| [("vcpu", id.as_str())]).collect();
        let samples: Vec<_> = labels
            .iter()
            .zip(&self.vcpus)
            .map(|(labels, vcpu)| (&labels[..], vcpu.exits.load(Ordering::Relaxed)))
            .collect();
        metrics.counter(
            "vcpu_exits_total",
            "Times that the vCPU left the guest for this process.",
            &samples,
        );
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.gate.set(GateState::Quit);
        self.waiting().take();
        self.kick();
        for thread in self.vcpus.iter_mut().filter_map(|vcpu| vcpu.thread.take()) {
            // A vCPU thread that panicked has already reported it.
            let _ = thread.join();
        }
    }
}

fn lock(fd: &Mutex<VcpuFd>) -> MutexGuard<'_, VcpuFd> {
    fd.lock().unwrap_or_else(PoisonError::into_inner)
}
