//! vCPU threads: running the guest, parking, and state in between.
//!
//! A vCPU's descriptor lies behind a mutex that its thread holds while it runs the guest
//! and gives back while it is parked: who has parked a vCPU can save it.

mod each;
mod gate;
mod idle;
mod kick;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::{VcpuExit, VcpuFd};
use thiserror::Error;
use vmm_sys_util::errno;

use crate::devices::pci::PciBus;
use crate::devices::ports::{PortBus, PortWrite};
use crate::devices::virtio::VirtioBus;
use crate::kvm::{tsc, vcpu as vcpu_state};
use crate::metrics::{Counted, Metrics};
use crate::sandbox;
use gate::{Gate, GateState};
pub(crate) use idle::IdleVcpus;

/// Why the vCPU threads could not be set up.
#[derive(Debug, Error)]
pub(crate) enum VcpuError {
    #[error("Cannot install the signal handler of the vCPU threads")]
    InstallHandler(#[source] errno::Error),
    #[error("Cannot start the thread of vCPU {id}")]
    Spawn { id: u8, source: std::io::Error },
}

/// How a guest came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GuestEnd {
    /// It reset itself.
    Reset,
    /// It switched itself off.
    Off,
    /// A CPU of its could not go on: a reset that it asked for in this way, or a crash.
    TripleFault,
    /// Another VMM has it now.
    HandedOver,
    /// The operator asked for it.
    Stopped,
    /// KVM cannot go on.
    Broken(String),
}

impl GuestEnd {
    /// Why, for people.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Reset => "the guest reset itself",
            Self::Off => "the guest switched itself off",
            Self::TripleFault => "the guest reset by a triple fault",
            Self::HandedOver => "another VMM has the guest",
            Self::Stopped => "the operator asked for it",
            Self::Broken(why) => why,
        }
    }

    /// Whether the guest did it, by itself.
    pub(crate) fn is_the_guests(&self) -> bool {
        matches!(self, Self::Reset | Self::Off | Self::TripleFault)
    }
}

/// How a guest came to its end, for all of its vCPUs.
pub(crate) type Ended = Mutex<Option<GuestEnd>>;

/// Called by a vCPU thread when the guest is at its end.
pub(crate) type OnEnd = Arc<dyn Fn(GuestEnd) + Send + Sync>;

/// Where the accesses of vCPUs go that leave the guest.
#[derive(Clone, Debug)]
pub(crate) struct Buses {
    pub(crate) ports: Arc<PortBus>,
    pub(crate) virtio: Arc<VirtioBus>,
    pub(crate) pci: Arc<PciBus>,
}

impl Buses {
    pub(crate) fn new(ports: PortBus, virtio: VirtioBus, pci: PciBus) -> Self {
        Self {
            ports: Arc::new(ports),
            virtio: Arc::new(virtio),
            pci: Arc::new(pci),
        }
    }

    fn read_port(&self, port: u16, data: &mut [u8]) {
        if !self.pci.read_port(port, data) {
            self.ports.read(port, data);
        }
    }

    fn write_port(&self, port: u16, data: &[u8]) -> PortWrite {
        if self.pci.write_port(port, data) {
            PortWrite::Done
        } else {
            self.ports.write(port, data)
        }
    }

    fn read_memory(&self, addr: u64, data: &mut [u8]) {
        if !self.virtio.read(addr, data) && !self.pci.read(addr, data) {
            // Where nothing is mapped, reads float high.
            data.fill(0xff);
        }
    }

    fn write_memory(&self, addr: u64, data: &[u8]) {
        if !self.pci.write(addr, data) {
            self.virtio.write(addr, data);
        }
    }
}

/// All vCPUs of a guest.
pub(crate) struct Vcpus {
    gate: Arc<Gate>,
    first_entry: Arc<AtomicU64>,
    ended: Arc<Ended>,
    /// What the threads get when they run first, and how.
    waiting: Mutex<Option<(Vec<Sender<Buses>>, Buses)>>,
    vcpus: Vec<Vcpu>,
}

struct Vcpu {
    id: u8,
    fd: Arc<Mutex<VcpuFd>>,
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
    /// Starts the thread of one vCPU, which waits for its buses.
    fn spawn(
        &mut self,
        id: u8,
        fd: VcpuFd,
        buses: Receiver<Buses>,
        end: &OnEnd,
    ) -> Result<(), VcpuError> {
        let fd = Arc::new(Mutex::new(fd));
        let exits = Arc::<AtomicU64>::default();
        let idle = Idle {
            gate: self.gate.clone(),
            exits: exits.clone(),
            first_entry: self.first_entry.clone(),
            ended: self.ended.clone(),
            fd: fd.clone(),
            end: end.clone(),
        };
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || {
                sandbox::confine(sandbox::Thread::Vcpu);
                if let Ok(buses) = buses.recv() {
                    Runner { idle, buses }.run();
                }
            })
            .map_err(|source| VcpuError::Spawn { id, source })?;
        self.vcpus.push(Vcpu {
            id,
            fd,
            exits,
            thread: Some(thread),
        });
        Ok(())
    }

    /// Takes all vCPUs out of the guest, with no access of theirs pending.
    pub(crate) fn park(&self) {
        self.gate.set(GateState::Park);
        // A thread that never ran is not at the gate, and does nothing.
        if self.waiting().is_none() {
            self.kick();
            self.gate.wait_parked(self.vcpus.len(), || self.kick());
        }
    }

    /// Lets all vCPUs run, unless the guest is at its end.
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

    /// How a vCPU found the guest at its end.
    pub(crate) fn end(&self) -> Option<GuestEnd> {
        self.ended().clone()
    }

    /// Has the guest be at an end, or not any more. The vCPUs are parked.
    pub(crate) fn set_end(&self, end: Option<GuestEnd>) {
        *self.ended() = end;
    }

    fn ended(&self) -> MutexGuard<'_, Option<GuestEnd>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vCPUs, in order of their IDs. Blocks while they run: park them first.
    pub(crate) fn fds(&self) -> impl Iterator<Item = MutexGuard<'_, VcpuFd>> {
        self.vcpus.iter().map(|vcpu| lock(&vcpu.fd))
    }

    /// Does this for each vCPU, for many of them at a time, and returns what it comes to in order of
    /// their IDs. Blocks while they run: park them first.
    pub(crate) fn each<T: Send, E: Send>(
        &self,
        work: impl Fn(u8, &VcpuFd) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let threads = each::threads(self.count());
        each::each(&self.vcpus, threads, |vcpu| work(vcpu.id, &lock(&vcpu.fd)))
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
            // A vCPU thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

fn lock(fd: &Mutex<VcpuFd>) -> MutexGuard<'_, VcpuFd> {
    fd.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a vCPU's thread owns.
struct Idle {
    gate: Arc<Gate>,
    /// Times that the guest was left.
    exits: Arc<AtomicU64>,
    first_entry: Arc<AtomicU64>,
    ended: Arc<Ended>,
    fd: Arc<Mutex<VcpuFd>>,
    end: OnEnd,
}

/// The same, able to run.
struct Runner {
    idle: Idle,
    buses: Buses,
}

impl Runner {
    fn run(self) {
        kick::unblock();
        while self.idle.gate.park() {
            let mut fd = lock(&self.idle.fd);
            let mut target = kick::Target::new(&mut fd);
            let end = self.run_until_ordered(target.vcpu());
            if end.as_ref().is_some_and(GuestEnd::is_the_guests) {
                // The access that ended it is over too: another guest may come to run here.
                self.retire_pending(target.vcpu());
            }
            drop(target);
            drop(fd);
            if let Some(end) = end {
                let ended = self.idle.ended.lock();
                let mut ended = ended.unwrap_or_else(PoisonError::into_inner);
                ended.get_or_insert_with(|| end.clone());
                drop(ended);
                // Whoever hears of it may let the machine run again.
                self.idle.gate.set(GateState::Park);
                (self.idle.end)(end);
            }
        }
    }

    /// Runs the guest until it ends or the gate shuts.
    fn run_until_ordered(&self, vcpu: &mut VcpuFd) -> Option<GuestEnd> {
        if self.idle.first_entry.load(Ordering::Relaxed) == 0 {
            let now = tsc::read();
            let _ =
                self.idle
                    .first_entry
                    .compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        }
        while self.idle.gate.state() == GateState::Run {
            match self.enter(vcpu) {
                Entered::Again => {}
                Entered::Interrupted => vcpu.set_kvm_immediate_exit(0),
                Entered::End(end) => return Some(end),
            }
        }
        self.retire_pending(vcpu)
    }

    /// Lets KVM finish the access that the last exit was about, without running the guest:
    /// until then the registers are those of an instruction half done.
    fn retire_pending(&self, vcpu: &mut VcpuFd) -> Option<GuestEnd> {
        loop {
            vcpu.set_kvm_immediate_exit(1);
            match self.enter(vcpu) {
                // A string instruction exits once for each of its parts.
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
            // How a PC without a keyboard controller resets, too.
            Ok(VcpuExit::Shutdown) => return Entered::End(GuestEnd::TripleFault),
            Ok(VcpuExit::SystemEvent(..)) => return Entered::End(GuestEnd::Reset),
            Ok(VcpuExit::InternalError) => {
                return Entered::End(GuestEnd::Broken(vcpu_state::internal_error(vcpu)));
            }
            Ok(exit) => return Entered::End(GuestEnd::Broken(format!("KVM_RUN exit: {exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => return Entered::Interrupted,
            // A vCPU that was waiting for its start got an INIT.
            Err(error) if error.errno() == libc::EAGAIN => {}
            Err(error) => return Entered::End(GuestEnd::Broken(format!("KVM_RUN: {error}"))),
        }
        Entered::Again
    }
}

/// Why a vCPU came back.
enum Entered {
    Again,
    Interrupted,
    End(GuestEnd),
}
