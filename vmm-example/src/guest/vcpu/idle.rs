//! vCPUs before they belong to a machine: their state can be restored, their threads wait.

use std::convert::Infallible;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_ioctls::VcpuFd;

use super::gate::Gate;
use super::{Buses, OnEnd, VcpuError, Vcpus, each, kick, lock};

/// vCPUs with threads, but without buses for their accesses so far. Starting a thread takes longer
/// than handing it the buses.
#[derive(Debug)]
pub(crate) struct IdleVcpus {
    /// Dropped first: a thread whose sender is gone ends.
    starts: Vec<Sender<Buses>>,
    /// Closed by the threads when they wait.
    begin: Receiver<Infallible>,
    vcpus: Vcpus,
}

impl IdleVcpus {
    /// Starts a thread for each vCPU.
    pub(crate) fn spawn(fds: Vec<VcpuFd>, end: &OnEnd) -> Result<Self, VcpuError> {
        kick::install_handler().map_err(VcpuError::InstallHandler)?;
        let (beginning, begin) = mpsc::channel();
        let mut all = Self {
            begin,
            starts: Vec::with_capacity(fds.len()),
            vcpus: Vcpus {
                gate: Arc::new(Gate::new()),
                first_entry: Arc::default(),
                ended: Arc::default(),
                waiting: Mutex::new(None),
                vcpus: Vec::with_capacity(fds.len()),
            },
        };
        for (id, fd) in (0u8..).zip(fds) {
            let (start, buses) = mpsc::channel();
            all.vcpus.spawn(id, fd, (buses, beginning.clone()), end)?;
            all.starts.push(start);
        }
        Ok(all)
    }

    /// Waits until all threads have started and only wait for their buses.
    pub(crate) fn wait_until_idle(&self) {
        let _ = self.begin.recv();
    }

    /// The vCPUs, sorted by ID.
    pub(crate) fn fds(&self) -> impl Iterator<Item = MutexGuard<'_, VcpuFd>> {
        self.vcpus.fds()
    }

    /// Calls the function for each vCPU and its item, for many in parallel, and returns the results
    /// sorted by ID.
    pub(crate) fn each_with<S: Sync, T: Send, E: Send>(
        &self,
        with: &[S],
        work: impl Fn(&VcpuFd, &S) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let pairs: Vec<_> = self.vcpus.vcpus.iter().zip(with).collect();
        each::each(&pairs, each::threads(pairs.len()), |(vcpu, with)| {
            work(&lock(&vcpu.fd), with)
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.vcpus.count()
    }

    /// Makes them vCPUs of a machine, parked.
    pub(crate) fn connect(self, buses: &Buses) -> Vcpus {
        let Self {
            starts, mut vcpus, ..
        } = self;
        vcpus.waiting = Mutex::new(Some((starts, buses.clone())));
        vcpus
    }
}
