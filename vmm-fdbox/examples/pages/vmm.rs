//! A VMM without KVM, in both roles of a member. Its guest counts, in a page of memory and in a
//! register of its one CPU.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vmm_fdbox::frame::{FrameWriter, KnownSection, Need};
use vmm_fdbox::member::{Arrive, ArrivingVmm, Join, LeavingVmm, Lent, Value};
use vmm_fdbox::update::{Arrival, Arriving, Finished, Guest, NamedFd, Outcome, PartyError, Plan};
use vmm_fdbox::{BoxStore, Clock, Deadline, FdName, Finding, Kind};

/// The memory's name in the box, and the CPU's in the state.
const RAM: &str = "ram";
const CPU: &str = "cpu";
const KNOWN: [KnownSection; 1] = [KnownSection::new(CPU, 1, 1)];

/// The CPU's section of the state.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct CpuV1 {
    count: u64,
}

#[derive(Debug, Default)]
struct Cpu {
    running: bool,
    count: u64,
}

/// A guest that counts in a thread of its own.
#[derive(Debug)]
pub(crate) struct Vm {
    ram: OwnedFd,
    cpu: Mutex<Cpu>,
    changed: Condvar,
}

impl Vm {
    /// Builds a guest with this memory and register; it does not run yet.
    fn build(ram: OwnedFd, count: u64) -> Result<Arc<Self>, PartyError> {
        let running = false;
        let vm = Arc::new(Self {
            ram,
            cpu: Mutex::new(Cpu { running, count }),
            changed: Condvar::new(),
        });
        let memory = File::from(vm.ram.try_clone()?);
        let guest = Arc::downgrade(&vm);
        thread::spawn(move || {
            while let Some(vm) = guest.upgrade() {
                vm.step(&memory);
            }
        });
        Ok(vm)
    }

    fn lock(&self) -> MutexGuard<'_, Cpu> {
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts once, if the guest runs.
    fn step(&self, memory: &File) {
        let mut cpu = self.lock();
        if !cpu.running {
            let waited = self.changed.wait_timeout(cpu, Duration::from_millis(100));
            drop(waited);
            return;
        }
        cpu.count += 1;
        // If the page cannot be written, memory and register differ, which a restore detects.
        let _ = memory.write_all_at(&cpu.count.to_le_bytes(), 0);
    }

    fn run(&self, running: bool) {
        self.lock().running = running;
        self.changed.notify_all();
    }

    /// The current count.
    pub(crate) fn count(&self) -> u64 {
        self.lock().count
    }
}

/// The count in the memory.
fn remembered(ram: impl AsFd) -> Result<u64, PartyError> {
    let mut bytes = [0; 8];
    File::from(ram.as_fd().try_clone_to_owned()?).read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A VMM.
#[derive(Debug, Default)]
pub(crate) struct Vmm {
    vm: Option<Arc<Vm>>,
    paused: bool,
}

impl Vmm {
    /// A VMM with a running guest.
    pub(crate) fn boot() -> Result<Self, PartyError> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let ram = rustix::fs::memfd_create(RAM, flags)?;
        rustix::fs::ftruncate(&ram, 4096)?;
        let vm = Vm::build(ram, 0)?;
        vm.run(true);
        Ok(Self {
            vm: Some(vm),
            paused: false,
        })
    }

    /// The guest.
    pub(crate) fn vm(&self) -> Result<&Arc<Vm>, PartyError> {
        self.vm.as_ref().ok_or_else(|| "there is no guest".into())
    }
}

impl Guest for Vmm {
    fn preflight(&mut self) -> Vec<Finding> {
        Vec::new()
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        [Kind::Memfd].into()
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        let (name, fd) = (FdName::new(RAM)?, self.vm()?.ram.try_clone()?);
        Ok(vec![NamedFd { name, fd }])
    }

    fn pause(&mut self, _: Deadline) -> Result<(), PartyError> {
        self.vm()?.run(false);
        Ok(())
    }

    fn save(&mut self, frame: &mut FrameWriter<'_>, _: Deadline) -> Result<(), PartyError> {
        let count = self.vm()?.count();
        Ok(frame.add(CPU, 1, Need::Required, &CpuV1 { count })?)
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.vm()?.run(true);
        Ok(())
    }
}

impl LeavingVmm for Vmm {
    fn join(&mut self, join: &Join) -> Result<Plan, PartyError> {
        let clock = Clock::measure(Duration::from_millis(20));
        Ok(Plan::new(join.box_name.clone(), clock, "pages 1"))
    }

    fn ended(&mut self, outcome: &Outcome) {
        eprintln!("pages: {outcome}");
    }
}

impl ArrivingVmm for Vmm {
    fn known(&self) -> &[KnownSection] {
        &KNOWN
    }

    fn get_ready(&mut self, arrive: &Arrive) -> Result<(), PartyError> {
        self.paused = arrive.paused;
        Ok(())
    }

    /// Nothing can be built before the count is known.
    fn prebuild<S: BoxStore>(&mut self, _: &mut Arriving<S>, _: Lent) -> Result<(), PartyError> {
        Ok(())
    }

    fn restore<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
        _: Lent,
    ) -> Result<(), PartyError> {
        let cpu: CpuV1 = arrival.frame().read(CPU)?;
        let ram = arrival.take(&FdName::new(RAM)?)?;
        let remembered = remembered(&ram)?;
        if remembered != cpu.count {
            return Err(format!(
                "the CPU counted to {}, the memory to {remembered}",
                cpu.count
            )
            .into());
        }
        self.vm = Some(Vm::build(ram, cpu.count)?);
        Ok(())
    }

    fn abandon(&mut self) {
        self.vm = None;
    }

    fn run(&mut self) -> Result<u64, PartyError> {
        self.vm()?.run(!self.paused);
        Ok(Clock::tsc(std::num::NonZeroU32::MIN).now())
    }

    fn report(&mut self, finished: Finished) -> Value {
        let count = self.vm.as_ref().map(|vm| vm.count());
        let blackout_ns = finished.report.ok().map(|report| report.total_ns);
        Value::from_iter([("count", count), ("blackout_ns", blackout_ns)])
    }
}
